"""The keyword arguments of constructors and calls, for type checkers and editors.

Written from the fields of `AppSettings` and `AppRequest` by `python docs/settings_table.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from typing_extensions import TypedDict

from bailian_apps.core.answer import OutputNodes
from bailian_apps.core.answer_text import CitationMarks, ThinkTags
from bailian_apps.core.endpoint import APIKey, BaseURL, Headers, Workspace
from bailian_apps.core.history_template import HistoryFormat, HistoryTemplate
from bailian_apps.core.json_values import ExtraBody, Id, Ids, JsonObject, Texts
from bailian_apps.core.request import AppId, Files, Images, Message, ModeName, SessionId
from bailian_apps.core.settings import HistoryMode, Timeout


class SettingKeywords(TypedDict, total=False):
    """The fields of `AppSettings`."""

    app_id: AppId
    """The app's id, from its card in the console. Default: `BAILIAN_APP_ID` in the environment.
    Part of the URL."""

    biz_params: JsonObject | None
    """A workflow's start variables, or an agent's `user_prompt_params`, `user_defined_params` and
    `user_defined_tokens`. JSON values, and `SecretStr`. Credentials in it are sent, and shown
    nowhere. Default: none. All apps. `input.biz_params`."""

    secret_biz_params: Texts
    """Names in `biz_params` and `extra_body` whose values are secret too: a name at any depth, or
    the dotted path to one value, such as `"user_defined_params.tool.code"`. Default: none. Not
    sent."""

    thoughts: bool
    """Whether the app reports its steps. Default: true. All apps. `parameters.has_thoughts`."""

    flow_stream_mode: ModeName | None
    """How a workflow streams. A value that is not known is sent as it is. Default: the cloud's,
    `full_thoughts`. Workflow apps. `parameters.flow_stream_mode`."""

    memory_id: Id | None
    """The long-term memory to use. Default: none. Agent 1.0 apps. `input.memory_id`."""

    rag_options: JsonObject | None
    """Knowledge bases and filters, in place of the console's. Default: the console's. Agent 1.0
    apps. `parameters.rag_options`."""

    enable_thinking: bool | None
    """Whether a reasoning model thinks first. Default: the console's. Agent apps.
    `parameters.enable_thinking`."""

    enable_web_search: bool | None
    """Whether the app searches the web. Default: the console's. Agent 1.0 apps.
    `parameters.enable_web_search`."""

    enable_system_time: bool | None
    """Whether the app's model gets the current time. Default: the cloud's, true. Agent 1.0 apps.
    `parameters.enable_system_time`."""

    dialog_round: int | None
    """How many rounds of the conversation the app's model gets. Default: the console's. Agent 1.0
    apps. `parameters.dialog_round`."""

    mcp_servers: Ids
    """Ids of the MCP servers to use; of the vendor's SDKs, only Java's names it. Default: the
    console's. Agent 1.0 apps. `parameters.mcp_servers`."""

    model_id: Id | None
    """The model to use, in place of the console's. Default: the console's. Agent apps.
    `parameters.model_id`."""

    temperature: float | None
    """Sampling temperature, from 0 to below 2. Default: the console's. Agent 1.0 apps.
    `parameters.temperature`."""

    top_p: float | None
    """Nucleus sampling, above 0, at most 1. Default: the console's. Agent 1.0 apps.
    `parameters.top_p`."""

    top_k: int | None
    """How many candidate tokens are sampled from. Default: the console's. Agent 1.0 apps.
    `parameters.top_k`."""

    seed: int | None
    """Makes sampling repeatable. Default: none. Agent 1.0 apps. `parameters.seed`."""

    extra_body: ExtraBody | None
    """What this version has no setting for: `{"input": {…}, "parameters": {…}}`. Each key is added
    to that object of the body, and replaces what a setting put there. `SecretStr` and credentials
    as in `biz_params`. Default: none. All apps. Part of the body."""

    api_key: APIKey
    """The API key: a `str` or `SecretStr`; or a sync or async callable that returns one, which is
    called for each attempt. Held as a `SecretStr`, or as the callable. Never shown or serialised.
    Default: `DASHSCOPE_API_KEY` in the environment, or else, at the first call, the SDK's own rule
    (its key file). Header `Authorization`."""

    workspace: Workspace
    """The sub-workspace that the app is in. Default: the key's own. Header
    `X-DashScope-WorkSpace`."""

    base_url: BaseURL
    """The API's address up to `/api/v1`, or the name of a region (`REGIONS`), such as
    `"singapore"`, or `"cn-beijing"` for the host of `workspace`. Default: `DASHSCOPE_HTTP_BASE_URL`
    in the environment, or else the SDK's own rule. Part of the URL."""

    extra_headers: Headers
    """Further HTTP headers; they replace those of the SDK. Values may be `SecretStr`; none is shown
    anywhere. Refused: `Authorization`, `Host` and what follows from the body. Default: none. Part
    of the headers."""

    timeout: float | Timeout
    """The longest silence in seconds, until the first frame and between frames, of which connecting
    may take 10; or a `Timeout` that sets each limit. Not sent."""

    max_retries: int
    """How many times a call that certainly did not start is sent again. Not sent."""

    idempotent: bool
    """Whether running the app twice does no harm. Then a call whose outcome is unknown (a lost
    connection, HTTP 500, a timeout) is sent again too. Not sent."""

    max_concurrency: int | None
    """How many calls of this app may run at once in this process, sync and async together. Default:
    no limit. A call without a free slot waits in a queue, for at most `Timeout.pool_s` (default: no
    limit); then it fails with `RequestTimeoutError`, and nothing was sent. Not sent."""

    output_nodes: OutputNodes
    """What the Output nodes of a workflow say: the `"answer"`, as the console's chat shows it,
    before what the End node says; or only the output of their `"steps"`. What the last frame has is
    the answer in any case. Default: `"answer"`. Workflow apps. Not sent."""

    history_mode: HistoryMode
    """How much of a conversation is sent: `"session"` continues the cloud's session and sends only
    what is new; `"full"` sends the whole conversation every time (`"messages"` is its older name).
    Not sent."""

    history_format: HistoryFormat
    """How a whole conversation is sent: as `"messages"`, which agent 2.0 apps do not take and a
    workflow app reads only if it was made to; or folded into one `"prompt"`, which every app takes.
    An app that refuses `messages` is asked again with a prompt. Not sent."""

    history_template: HistoryTemplate | Mapping[str, str]
    """The words around the texts of a conversation that is sent as a prompt: a `HistoryTemplate`,
    or a dict of its fields. Default: Chinese words. Not sent."""

    citation_marks: CitationMarks
    """What becomes of the marks `<ref>[1]</ref>` where an answer cites a document: `"keep"` leaves
    them in its text, each whole in one piece of a stream; `"strip"` takes them out. The references
    stay. Not sent."""

    think_tags: ThinkTags
    """What becomes of text that a model writes between `<think>` and `</think>` into its answer:
    `"keep"` leaves it there; `"reasoning"` makes it reasoning, in a step of its own; without a
    closing tag, that is the rest of the answer. Not sent."""

    session_ttl_s: float
    """Seconds without a call after which the cloud drops a session. Not sent."""

    session_max_rounds: int
    """How many rounds the cloud keeps in one session. Not sent."""


class CallKeywords(SettingKeywords, total=False):
    """The settings that a call overrides, and the options that only a call has."""

    session_id: SessionId
    """The cloud's session to continue; an empty one is none. Default: a new one. Agent apps and
    dialog workflows. `input.session_id`."""

    image_list: Images
    """Images: addresses, Data URLs, `bytes`, and a `pathlib.Path` for a file on this machine, which
    is read when the request is sent. At most 7.5 MiB each. Default: none. Apps with a vision model.
    `input.image_list`."""

    file_list: Files
    """URLs of files. Default: none. All apps. `input.file_list`."""

    doc_tag_codes: Ids
    """Tags that limit which documents are searched. Default: none. Older agent apps.
    `input.doc_tag_codes`."""

    doc_reference_type: Literal["simple", "indexed"] | None
    """How the answer marks its sources. Default: not at all. Older agent apps.
    `input.doc_reference_type`."""


class AppCallKeywords(CallKeywords, total=False):
    """The keyword arguments of `BailianApp.invoke` and its other calls."""

    messages: Sequence[Message | Mapping[str, Any]] | None
    """The conversation so far, system message first; a later one is sent as a user's. The cloud
    then ignores `session_id`, so both together are refused. Agent 1.0 and workflow apps.
    `input.messages`."""
