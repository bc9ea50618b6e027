"""The keyword arguments of `from_defaults` and `bailian_app_tool`, for type checkers."""

from __future__ import annotations

from typing import Any

from bailian_apps.client import Client
from bailian_apps.core.keywords import SettingKeywords
from bailian_apps.llamaindex.responses import MessageBlocks


class LLMKeywords(SettingKeywords, total=False):
    """The fields of a `BailianAppLLM` that calls read; those for prompts concern an app's console.

    `callback_manager` is an argument of its own everywhere.
    """

    client: Client | None
    """The `Client` whose connections the calls use. Default: the one that all apps share."""

    context_window: int
    """How many tokens LlamaIndex may pack into one call. Default: 131,072."""

    num_output: int
    """How many of them LlamaIndex reserves for the answer. Default: 2,048."""

    message_blocks: MessageBlocks
    """What the message of an answer has: its `"text"`; also `"reasoning"`; or `"all"`, with a block
    for each citation, which LLMs of the OpenAI family refuse. Default: `"reasoning"`."""

    step_events: bool
    """Whether to send a `BailianAppStepEvent` when a step starts, says something and finishes.
    Default: false."""

    rate_limiter: Any
    """LlamaIndex's limit of requests, where the installed version has one. Default: none."""
