"""A Bailian app in LlamaIndex: as an LLM, under every engine and agent that takes one."""

try:
    from bailian_apps.llamaindex.llm import BailianAppLLM
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("llama_index"):
        raise
    raise ImportError(
        "bailian_apps.llamaindex needs llama-index-core; install it with: "
        'pip install "bailian-apps[llamaindex]"'
    ) from error

__all__ = ["BailianAppLLM"]
