"""Bailian (Model Studio) apps in LangChain.

`ChatBailianApp` is an app as a chat model. It needs langchain-core, which comes with
`pip install "bailian-apps[langchain]"`.
"""

try:
    from bailian_apps.langchain.chat_model import ChatBailianApp
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "langchain_core":
        raise
    raise ImportError(
        "bailian_apps.langchain needs langchain-core; install it with: "
        'pip install "bailian-apps[langchain]"'
    ) from error

__all__ = ["ChatBailianApp"]
