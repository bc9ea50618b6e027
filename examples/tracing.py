"""Trace an app with OpenTelemetry, through LangChain and through LlamaIndex.

    pip install "bailian-apps[langchain,llamaindex,emulator]" opentelemetry-exporter-otlp-proto-http
    pip install openinference-instrumentation-langchain openinference-instrumentation-llama-index
    python examples/tracing.py

It prints the spans as a tree, with kinds, tokens and outputs. With `OTEL_EXPORTER_OTLP_ENDPOINT`
set, it sends them there instead, such as to Phoenix (http://localhost:6006).

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: any app will do.
Otherwise it starts the emulator with a recorded travel workflow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from openinference.instrumentation import using_session
from openinference.instrumentation.langchain import LangChainInstrumentor
from openinference.instrumentation.llama_index import LlamaIndexInstrumentor
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from bailian_apps.emulator import RECORDINGS, Emulator
from bailian_apps.langchain import ChatBailianApp
from bailian_apps.llamaindex import BailianAppLLM

QUESTION = "Recommend dishes and sights in Hangzhou"


class PrintTree(SpanExporter):
    """Prints each trace as a tree, with the kinds of its spans, their tokens and outputs."""

    def __init__(self) -> None:
        """Start without spans."""
        self._spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Keep spans; children come before their parents."""
        self._spans += spans
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Print what was kept."""
        self._spans.sort(key=lambda span: span.start_time or 0)
        self._print_below(None, "")

    def _print_below(self, parent_id: int | None, indent: str) -> None:
        for span in self._spans:
            if (span.parent.span_id if span.parent else None) == parent_id:
                print(f"{indent}{span.name} {describe(span.attributes or {})}")
                if context := span.get_span_context():
                    self._print_below(context.span_id, indent + "  ")


def describe(attributes: Any) -> str:
    """The kind of a span, its tokens, and what came out of it."""
    parts = [f"[{attributes.get('openinference.span.kind')}]"]
    if tokens := attributes.get("llm.token_count.total"):
        parts.append(f"{tokens} tokens")
    output = attributes.get("output.value", "")
    if output.startswith("{"):
        output = json.loads(output).get("output") or ""
    return " ".join([*parts, output]).strip()


def main() -> None:
    """Ask the app twice, and send or print what was traced."""
    exporter = OTLPSpanExporter() if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") else PrintTree()
    provider = TracerProvider(resource=Resource.create({"service.name": "travel-guide"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    LangChainInstrumentor().instrument(tracer_provider=provider)
    LlamaIndexInstrumentor().instrument(tracer_provider=provider)

    on_cloud = os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID")
    recorded = Emulator(apps={"travel": RECORDINGS / "travel-workflow.jsonl"})
    with nullcontext() if on_cloud else recorded as cloud, using_session("conversation-1"):
        settings: dict[str, Any] = (
            {"app_id": "travel", "api_key": "any", "base_url": cloud.base_url} if cloud else {}
        )
        print(ChatBailianApp(**settings).invoke(QUESTION).text)
        print(BailianAppLLM(**settings).complete(QUESTION).text)
    provider.shutdown()  # sends what is left


if __name__ == "__main__":
    main()
