"""Bailian (Model Studio) apps in LangChain.

An app as a chat model (`ChatBailianApp`), as a Runnable with a typed result (`BailianAppRunnable`),
as a tool of an agent (`BailianAppTool`), as a retriever of what it cites (`BailianAppRetriever`);
and a callback handler that shows in a terminal what it does (`StepPrinter`). They need
langchain-core, which comes with `pip install "bailian-apps[langchain]"`.
"""

from bailian_apps.core.language import N_, import_error

try:
    from bailian_apps.langchain.chat_model import ChatBailianApp
    from bailian_apps.langchain.printer import StepPrinter
    from bailian_apps.langchain.retriever import BailianAppRetriever
    from bailian_apps.langchain.runnable import AppInput, BailianAppRunnable
    from bailian_apps.langchain.tool import AppToolArtifact, BailianAppTool
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "langchain_core":
        raise
    raise import_error(
        N_(
            "bailian_apps.langchain needs langchain-core; install it with: "
            'pip install "bailian-apps[langchain]"'
        )
    ) from error

__all__ = [
    "AppInput",
    "AppToolArtifact",
    "BailianAppRetriever",
    "BailianAppRunnable",
    "BailianAppTool",
    "ChatBailianApp",
    "StepPrinter",
]
