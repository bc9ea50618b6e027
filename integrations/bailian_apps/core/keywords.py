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
    """The app's id, from the list in *App Management* in the console. Default: `BAILIAN_APP_ID` in
    the environment. Part of the URL."""

    biz_params: JsonObject | None
    """Business parameters: the variables of a workflow's Start node, or an agent's
    `user_prompt_params`, `user_defined_params` and `user_defined_tokens`. JSON values, or
    `SecretStr`. Credentials are sent, but never shown. Default: none. All apps.
    `input.biz_params`."""

    secret_biz_params: Texts
    """Names in `biz_params` and `extra_body` whose values are secret too: a name at any depth, or
    the dotted path to one value, such as `"user_defined_params.tool.code"`. Default: none. Not
    sent."""

    thoughts: bool
    """Whether the app reports its steps. Default: true. All apps. `parameters.has_thoughts`."""

    flow_stream_mode: ModeName | None
    """How a workflow streams. An unknown value is sent as it is. Default: the cloud's,
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
    """How many rounds of the conversation the app's model sees. Default: the console's. Agent 1.0
    apps. `parameters.dialog_round`."""

    mcp_servers: Ids
    """Ids of the MCP servers to use. Of the vendor's SDKs, only Java's has this parameter. Default:
    the console's. Agent 1.0 apps. `parameters.mcp_servers`."""

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
    """Makes sampling reproducible. Default: none. Agent 1.0 apps. `parameters.seed`."""

    extra_body: ExtraBody | None
    """Extra keys of the request body, for parameters that have no setting: `{"input": {…},
    "parameters": {…}}`. A key replaces what a setting put there. `SecretStr` and credentials are
    handled as in `biz_params`. Default: none. All apps. Part of the body."""

    api_key: APIKey
    """The API key: a `str` or `SecretStr`; or a sync or async callable that returns one, which is
    called for each attempt. Held as a `SecretStr`, or as the callable. Never shown or serialised.
    Default: `DASHSCOPE_API_KEY` in the environment, or else, at the first call, the SDK's own rule
    (its key file). Header `Authorization`."""

    workspace: Workspace
    """The workspace of the app, if it is not the default one. Default: the key's own. Header
    `X-DashScope-WorkSpace`."""

    base_url: BaseURL
    """The API's address up to `/api/v1`, or the name of a region (`REGIONS`), such as
    `"singapore"`, or `"cn-beijing"` for the host of `workspace`. Default: `DASHSCOPE_HTTP_BASE_URL`
    in the environment, or else the SDK's own rule. Part of the URL."""

    extra_headers: Headers
    """Additional HTTP headers, which replace the SDK's. Values may be `SecretStr`, and are never
    shown. Refused: `Authorization`, `Host`, and headers that follow from the body. Default: none.
    Part of the headers."""

    timeout: float | Timeout
    """Seconds to wait for the first frame, and then for each next one; connecting may take at most
    10 of them. Or a `Timeout` that sets each limit. Not sent."""

    max_retries: int
    """How many times a call that certainly did not start is retried. Not sent."""

    idempotent: bool
    """Whether running the app twice is harmless. If so, a call whose outcome is unknown (a lost
    connection, HTTP 500, a timeout) is retried too. Not sent."""

    max_concurrency: int | None
    """How many calls of this app may run at once in this process, sync and async together. Default:
    no limit. Further calls wait in a queue, for at most `Timeout.pool_s`; then they fail with
    `RequestTimeoutError`, and nothing was sent. Not sent."""

    output_nodes: OutputNodes
    """Where the text of a workflow's Output nodes goes: into the `"answer"`, before the End node's
    text, as in the console's chat; or only into the output of their `"steps"`. Text that only the
    last frame has is part of the answer in either case. Default: `"answer"`. Workflow apps. Not
    sent."""

    history_mode: HistoryMode
    """How much of a conversation is sent: `"session"` continues the cloud's session and sends only
    what is new; `"full"` sends the whole conversation every time (`"messages"` is its older name).
    Not sent."""

    history_format: HistoryFormat
    """How a whole conversation is sent: as `"messages"`, which agent 2.0 apps do not accept and
    workflow apps read only if they are built for it; or folded into one `"prompt"`, which every app
    accepts. A request that is refused for its `messages` is sent again as a prompt. Not sent."""

    history_template: HistoryTemplate
    """The words around the texts of a conversation that is sent as a prompt. Default: Chinese
    words. Not sent."""

    citation_marks: CitationMarks
    """What to do with the marks `<ref>[1]</ref>` with which an answer cites documents: `"keep"`
    leaves them in the text, each in one piece of a stream; `"strip"` removes them. The references
    are kept. Not sent."""

    think_tags: ThinkTags
    """What to do with text between `<think>` and `</think>` in an answer: `"keep"` leaves it there;
    `"reasoning"` makes it reasoning, in a step of its own. Without a closing tag, that is the rest
    of the answer. Not sent."""

    session_ttl_s: float
    """Seconds without a call after which the cloud drops a session. Not sent."""

    session_max_rounds: int
    """How many rounds the cloud keeps in one session. Not sent."""


class CallKeywords(SettingKeywords, total=False):
    """The settings that a call overrides, and the options that only a call has."""

    session_id: SessionId
    """The session to continue; an empty string means none. Default: a new one. Agent apps and
    dialog workflows. `input.session_id`."""

    image_list: Images
    """Images: URLs, Data URLs, `bytes`, or a `pathlib.Path` for a file on this machine, which is
    read when the request is sent. At most 7.5 MiB each. Default: none. Apps with a vision model.
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
    """The conversation so far, with the system message first; a later one is sent as a user
    message. The cloud then ignores `session_id`, so passing both is refused. Agent 1.0 and workflow
    apps. `input.messages`."""
