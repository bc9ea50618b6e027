"""`BailianAppLLM`: a Bailian app as a LlamaIndex LLM."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, cast

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms.callbacks import (  # untyped in LlamaIndex
    llm_chat_callback,  # pyright: ignore[reportUnknownVariableType]
    llm_completion_callback,  # pyright: ignore[reportUnknownVariableType]
)
from llama_index.core.llms.llm import LLM
from pydantic import ConfigDict, Field, PrivateAttr, model_validator
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import Unpack

from bailian_apps.app import BailianApp
from bailian_apps.client import Client
from bailian_apps.core.attachments import unwrap_images
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.events import AppEvent, RunFinished
from bailian_apps.core.history import plan_request
from bailian_apps.core.invalid_input import require_type
from bailian_apps.core.json_values import kind_of
from bailian_apps.core.keywords import CallKeywords
from bailian_apps.core.language import N_
from bailian_apps.core.request import MAX_INT
from bailian_apps.core.result import AppResult
from bailian_apps.core.settings import AppSettings
from bailian_apps.core.tracebacks import hides_arguments
from bailian_apps.core.turns import Turn
from bailian_apps.llamaindex.instrumentation import instrumented
from bailian_apps.llamaindex.keywords import LLMKeywords
from bailian_apps.llamaindex.llm_call import LLMCall
from bailian_apps.llamaindex.messages import image_content, to_turns
from bailian_apps.llamaindex.responses import (
    ChatResponseBuilder,
    CompletionResponseBuilder,
    MessageBlocks,
)

_chat_callback = cast("Any", llm_chat_callback())
_completion_callback = cast("Any", llm_completion_callback())

_apart: ContextVar[bool] = ContextVar("bailian_apps_apart", default=False)


@contextmanager
def calls_apart() -> Generator[None]:
    """Calls in this context do not continue the session of the messages that they are given.

    For those of a memory, which has an LLM extract facts from messages or summarise them: in the
    session of the conversation, the instruction would be one of its rounds.
    """
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


class BailianAppLLM(AppSettings, LLM):
    """An agent, workflow or orchestration app on Bailian (Model Studio), as an LLM.

    The fields are the app's settings, see `AppSettings`; an unknown field raises. Every call may
    override any of them, and also takes `session_id`, `image_list` and `file_list`.

    The object holds no conversation. The answer's message keeps the cloud's session in
    `additional_kwargs["bailian"]`, so a chat continues wherever its messages are stored: in a list,
    a chat engine, or a `Memory` on a database. A completion never continues a conversation.

    The run and each of its steps are spans under the LLM's span.

    Attributes:
        context_window: How many tokens LlamaIndex may pack into one call. The app's model sets the
            real limit, which the cloud does not report.
        num_output: How many of them LlamaIndex reserves for the answer.
        client: The `Client` whose connections the calls use. Default: the one that all apps share.
            It is in no serialised form.
        message_blocks: What the message of an answer has. `"text"`: its text. `"reasoning"` (the
            default): also a `ThinkingBlock` for each step that thinks. `"all"`: also a
            `CitationBlock` for each cited document, which LLMs of the OpenAI family refuse when
            they read the same conversation. Reasoning and citations are in `raw` in any case.
        step_events: Whether to send a `BailianAppStepEvent` when a step starts, says something and
            finishes. OpenInference logs a warning for each, because it does not know the event.

    Example:
        ```python
        llm = BailianAppLLM(app_id="…")  # the key is read from DASHSCOPE_API_KEY
        history = [ChatMessage(content="Plan a day in Hangzhou")]
        history.append(llm.chat(history).message)
        history.append(ChatMessage(content="And a second day?"))
        for chunk in llm.stream_chat(history):
            print(chunk.delta, end="")
        ```
    """

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        protected_namespaces=(),
        arbitrary_types_allowed=True,
    )

    context_window: int = Field(default=131_072, gt=0, le=MAX_INT)
    num_output: int = Field(default=2_048, gt=0, le=MAX_INT)
    client: SkipJsonSchema[Client | None] = Field(default=None, exclude=True, repr=False)
    message_blocks: MessageBlocks = "reasoning"
    step_events: bool = False

    _listener: Callable[[AppEvent], None] | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _drop_class_name(cls, data: Any) -> Any:
        # LlamaIndex adds it to every serialised form.
        if isinstance(data, dict):
            fields = cast("dict[str, Any]", data)
            return {name: value for name, value in fields.items() if name != "class_name"}
        return data

    @classmethod
    @hides_arguments
    def from_app_or_llm(
        cls,
        app: BailianApp | None = None,
        llm: BailianAppLLM | None = None,
        callback_manager: CallbackManager | None = None,
        **settings: Unpack[LLMKeywords],
    ) -> BailianAppLLM:
        """The LLM of an engine, a retriever or a tool, from the arguments that all of them take.

        Args:
            app: An app to wrap, with its client.
            llm: An LLM to use as it is.
            callback_manager: Receives the legacy events; a given LLM is copied to get it.
            **settings: The fields of a new LLM, when neither is given.

        Raises:
            InvalidInputError: More than one of `app`, `llm` and settings is given, or one of them
                is invalid.
        """
        if (app is not None) + (llm is not None) + bool(settings) > 1:
            raise InvalidInputError(
                "app",
                "cannot be combined with llm or settings",
                "Pass one of app=, llm= and settings",
            )
        types: list[tuple[str, object, type]] = [
            ("app", app, BailianApp),
            ("llm", llm, BailianAppLLM),
        ]
        for field, given, kind in types:
            if given is not None and not isinstance(given, kind):
                problem = N_("must be a {type}, not {kind}").format(
                    type=kind.__name__, kind=kind_of(given)
                )
                raise InvalidInputError(field, problem, "Pass an app's id as app_id=")
        if llm is not None:
            if callback_manager is None:
                return llm
            return llm.model_copy(update={"callback_manager": callback_manager})
        fields: dict[str, Any] = {**settings}
        if app is not None:
            fields = {name: getattr(app.settings, name) for name in AppSettings.model_fields}
            fields["client"] = app.client
        if callback_manager is not None:
            fields["callback_manager"] = callback_manager
        return cls(**fields)

    def with_event_listener(self, listener: Callable[[AppEvent], None]) -> BailianAppLLM:
        """Return a copy of this LLM that calls `listener` too for every event of its runs.

        It is called in the thread or task that reads the run.
        """
        earlier = self._listener

        def both(event: AppEvent) -> None:
            if earlier is not None:
                earlier(event)
            listener(event)

        copy = self.model_copy()
        copy._listener = listener if earlier is None else both
        return copy

    def __getstate__(self) -> dict[Any, Any]:
        """Pickle without secrets.

        Raises:
            TypeError: It has a client, without which calls could bypass its proxy.
        """
        if self.client is not None:
            raise TypeError("an LLM with a client cannot be pickled; pass client= where it is used")
        return super().__getstate__()

    @classmethod
    def class_name(cls) -> str:
        """The name in serialised forms."""
        return "BailianAppLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """A chat model without function calling: the app's own tools run in the cloud."""
        return LLMMetadata(
            context_window=self.context_window,
            num_output=self.num_output,
            is_chat_model=True,
            is_function_calling_model=False,
            model_name=self.app_id,
        )

    @instrumented(_chat_callback)
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Unpack[CallKeywords]) -> ChatResponse:
        """Call the app and wait for the whole answer.

        Args:
            messages: The conversation, ending with a user message.
            **kwargs: Settings to override for this call, and `session_id` (a session to continue;
                it takes precedence over the messages' own), `image_list` (as `AppRequest`'s, or
                LlamaIndex's `ImageBlock` and `ImageDocument`) and `file_list`.

        Returns:
            The answer. `raw` has `usage`, `references`, `steps`, `session_id` and `request_id`.

        Raises:
            InvalidInputError: A message or an argument is invalid; nothing was sent.
            BailianError: The call failed; `partial` has what was received.
        """
        return self._chat_call(messages, kwargs).invoke()

    @instrumented(_chat_callback)
    def stream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Unpack[CallKeywords]
    ) -> ChatResponseGen:
        """As `chat`, chunk by chunk.

        Every chunk's message has everything received so far. The last chunk has an empty `delta`
        and adds the session, the citations and `raw`. Reasoning deltas are in
        `additional_kwargs["thinking_delta"]`.
        """
        return self._chat_call(messages, kwargs).stream()

    @instrumented(_chat_callback)
    async def achat(
        self, messages: Sequence[ChatMessage], **kwargs: Unpack[CallKeywords]
    ) -> ChatResponse:
        """As `chat`, natively async."""
        return await self._chat_call(messages, kwargs).ainvoke()

    @instrumented(_chat_callback)
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Unpack[CallKeywords]
    ) -> ChatResponseAsyncGen:
        """As `stream_chat`, natively async."""
        return self._chat_call(messages, kwargs).astream()

    @instrumented(_completion_callback)
    def complete(
        self, prompt: str, formatted: bool = False, **kwargs: Unpack[CallKeywords]
    ) -> CompletionResponse:
        """Call the app with one prompt, without a conversation.

        Args:
            prompt: The prompt.
            formatted: Ignored; LlamaIndex sets it for prompts that are already formatted.
            **kwargs: Settings to override for this call, and `image_list` and `file_list`.

        Returns:
            The answer. `raw` is as for `chat`, and also has `reasoning`.

        Raises:
            InvalidInputError: An argument is invalid; nothing was sent.
            BailianError: The call failed; `partial` has what was received.
        """
        return self._completion_call(prompt, kwargs).invoke()

    @instrumented(_completion_callback)
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Unpack[CallKeywords]
    ) -> CompletionResponseGen:
        """As `complete`, chunk by chunk; the last chunk has an empty `delta`, and `raw`."""
        return self._completion_call(prompt, kwargs).stream()

    @instrumented(_completion_callback)
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Unpack[CallKeywords]
    ) -> CompletionResponse:
        """As `complete`, natively async."""
        return await self._completion_call(prompt, kwargs).ainvoke()

    @instrumented(_completion_callback)
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Unpack[CallKeywords]
    ) -> CompletionResponseAsyncGen:
        """As `stream_complete`, natively async."""
        return self._completion_call(prompt, kwargs).astream()

    @hides_arguments
    def _chat_call(
        self, messages: Sequence[ChatMessage], keywords: CallKeywords
    ) -> LLMCall[ChatResponse]:
        settings, options = self._split(keywords)
        session_id = options.pop("session_id", None)
        turns = to_turns(messages)
        if _apart.get():
            turns = [replace(turn, marker=None) for turn in turns]
        plan = plan_request(turns, settings, session_id=session_id)
        builder = ChatResponseBuilder(plan, self.message_blocks)
        return LLMCall(self, settings, plan, options, builder, self._listener)

    @hides_arguments
    def _completion_call(self, prompt: str, keywords: CallKeywords) -> LLMCall[CompletionResponse]:
        require_type(prompt, str, "prompt")
        settings, options = self._split(keywords)
        if options.get("session_id") not in (None, ""):
            raise InvalidInputError(
                "session_id", "cannot be passed to a completion, which has no session", "Use chat"
            )
        plan = plan_request([Turn(role="user", text=prompt)], settings)
        builder = CompletionResponseBuilder()
        return LLMCall(self, settings, plan, options, builder, self._listener)

    def _split(self, keywords: CallKeywords) -> tuple[AppSettings, dict[str, Any]]:
        """The settings of a call, and its other options."""
        kwargs: dict[str, Any] = {**keywords}
        for name in kwargs.keys() & {"prompt", "messages"}:
            raise InvalidInputError(
                name, "is not a keyword argument here", "Pass it as the method's first argument"
            )
        images = unwrap_images(kwargs.get("image_list"))
        if isinstance(images, (list, tuple)):
            kwargs = kwargs | {"image_list": [*map(image_content, cast("list[object]", images))]}
        return self.split(kwargs)


class ResultKeeper:
    """Keeps the result of the next run of an LLM, of which a response has only a part.

    Attributes:
        result: The result; an empty one before the run has finished.
    """

    def __init__(self) -> None:
        """Start without a result."""
        self.result = AppResult()

    def listen_to(self, llm: BailianAppLLM) -> BailianAppLLM:
        """Return a copy of an LLM for one call, whose result is kept."""
        return llm.with_event_listener(self._keep)

    def _keep(self, event: AppEvent) -> None:
        if isinstance(event, RunFinished):
            self.result = event.result
