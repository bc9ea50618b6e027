"""A Bailian app in LlamaIndex: as an LLM, query engine, chat engine, retriever, tool and agent."""

from bailian_apps.core.language import N_, import_error

try:
    from bailian_apps.llamaindex.agent import BailianAppAgent
    from bailian_apps.llamaindex.chat_engine import BailianAppChatEngine
    from bailian_apps.llamaindex.llm import BailianAppLLM
    from bailian_apps.llamaindex.query_engine import BailianAppQueryEngine
    from bailian_apps.llamaindex.retriever import BailianAppRetriever
    from bailian_apps.llamaindex.steps import BailianAppStepEvent, BailianAppStepStream
    from bailian_apps.llamaindex.tool import bailian_app_tool
except ImportError as error:  # not installed, or too old
    if not (error.name or "").startswith("llama_index"):
        raise
    raise import_error(
        N_(
            "bailian_apps.llamaindex needs a recent llama-index-core; install it with: "
            'pip install "bailian-apps[llamaindex]"'
        )
    ) from error

__all__ = [
    "BailianAppAgent",
    "BailianAppChatEngine",
    "BailianAppLLM",
    "BailianAppQueryEngine",
    "BailianAppRetriever",
    "BailianAppStepEvent",
    "BailianAppStepStream",
    "bailian_app_tool",
]
