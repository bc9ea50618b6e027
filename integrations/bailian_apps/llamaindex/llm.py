"""`BailianAppLLM`: a Bailian app as a LlamaIndex LLM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

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
from llama_index.core.llms.callbacks import (  # LlamaIndex leaves them untyped
    llm_chat_callback,  # pyright: ignore[reportUnknownVariableType]
    llm_completion_callback,  # pyright: ignore[reportUnknownVariableType]
)
from llama_index.core.llms.llm import LLM
from pydantic import ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from bailian_apps.app import BailianApp
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.events import AppEvent
from bailian_apps.core.history import Plan, plan_request
from bailian_apps.core.request import raise_invalid_input
from bailian_apps.core.settings import AppSettings
from bailian_apps.core.turns import Turn
from bailian_apps.llamaindex.calls import Call, ainvoke, astream, invoke, stream
from bailian_apps.llamaindex.messages import to_turns
from bailian_apps.llamaindex.observed import observed
from bailian_apps.llamaindex.replies import ChatReply, CompletionReply, Reply
from bailian_apps.llamaindex.secrecy import reveal

_chat_callback = cast("Any", llm_chat_callback())
_completion_callback = cast("Any", llm_completion_callback())

T = TypeVar("T")


class BailianAppLLM(AppSettings, LLM):
    """An agent, workflow or orchestration app on Bailian (Model Studio), as an LLM.

    Its fields are the app's settings, see `AppSettings`; an unknown one is refused. Every call
    may replace any of them, and may say `session_id`, `image_list` and `file_list`.

    It holds no conversation. The answer's message remembers the cloud's session in
    `additional_kwargs["bailian"]`, so a chat goes on wherever its messages go: a list, a chat
    engine, a `Memory` on a database. A completion is always a conversation of its own.

    What the app does is shown as spans below the LLM's: the run, and in it each step.

    Attributes:
        context_window: How many tokens LlamaIndex may pack into one call. The app's model decides
            what it can really read; the cloud does not say.
        num_output: How many of them LlamaIndex keeps free for the answer.
        step_events: Whether to send a `BailianAppStepEvent` for the beginning and the end of each
            step. OpenInference does not know it, and warns of each.

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

    context_window: int = Field(default=131_072, gt=0)
    num_output: int = Field(default=2_048, gt=0)
    step_events: bool = False

    _listener: Callable[[AppEvent], None] | None = PrivateAttr(default=None)

    if not TYPE_CHECKING:  # type checkers know the fields better than `**fields`

        def __init__(self, **fields: Any) -> None:
            """Make an LLM of an app.

            Args:
                **fields: See the class.

            Raises:
                InvalidInputError: A field is unknown or not valid. It names the field and the mend.
            """
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise_invalid_input(error)

    @model_validator(mode="before")
    @classmethod
    def _drop_class_name(cls, data: Any) -> Any:
        # LlamaIndex writes it into every serialised form.
        if isinstance(data, dict):
            fields = cast("dict[str, Any]", data)
            return {name: value for name, value in fields.items() if name != "class_name"}
        return data

    @classmethod
    def of(
        cls,
        app: BailianApp | None = None,
        llm: BailianAppLLM | None = None,
        callback_manager: CallbackManager | None = None,
        **settings: Any,
    ) -> BailianAppLLM:
        """The LLM that an engine, a retriever or a tool asks: what all their makers accept.

        Args:
            app: An app to make an LLM of.
            llm: An LLM to take.
            callback_manager: Who tells the LLM's legacy callbacks; one that was given is copied.
            **settings: The fields of an LLM to make, when neither is given.

        Raises:
            InvalidInputError: More than one of `app`, `llm` and settings is given, or a field is
                not valid.
        """
        if (app is not None) + (llm is not None) + bool(settings) > 1:
            raise InvalidInputError(
                "app", "was given beside llm or settings", "Pass one of app=, llm= and settings"
            )
        if llm is not None:
            if callback_manager is None:
                return llm
            return llm.model_copy(update={"callback_manager": callback_manager})
        if app is not None:
            known = AppSettings.model_fields
            settings = {name: getattr(app.settings, name) for name in known}
        if callback_manager is not None:
            settings["callback_manager"] = callback_manager
        return cls(**settings)

    def heard_by(self, listener: Callable[[AppEvent], None]) -> BailianAppLLM:
        """This LLM, with somebody who hears every event of its runs as it comes.

        Args:
            listener: Is called in the thread or task that reads the run.
        """
        copy = self.model_copy()
        copy._listener = listener
        return copy

    @classmethod
    def class_name(cls) -> str:
        """The name in serialised forms."""
        return "BailianAppLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """A chat model without local tools; the app's own tools run in the cloud."""
        return LLMMetadata(
            context_window=self.context_window,
            num_output=self.num_output,
            is_chat_model=True,
            is_function_calling_model=False,
            model_name=self.app_id,
        )

    @observed(_chat_callback)
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Ask the app and wait for the whole answer.

        Args:
            messages: The conversation, ending with the user's words.
            **kwargs: Settings to replace in this call, and `session_id` (a session to continue;
                it goes before the messages' own), `image_list` and `file_list` (addresses).

        Returns:
            The answer. `raw` has `usage`, `references`, `steps`, `session_id` and `request_id`.

        Raises:
            InvalidInputError: A message or an argument cannot be sent; nothing was.
            BailianError: The call failed; `partial` holds what had come.
        """
        return invoke(self._plan_chat(messages, kwargs))

    @observed(_chat_callback)
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """As `chat`, chunk by chunk.

        Every chunk's message holds everything so far. The last has no `delta`, but the session,
        the citations and `raw`. Reasoning comes in `additional_kwargs["thinking_delta"]`.
        """
        return stream(self._plan_chat(messages, kwargs))

    @observed(_chat_callback)
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """As `chat`, natively async."""
        return await ainvoke(self._plan_chat(messages, kwargs))

    @observed(_chat_callback)
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """As `stream_chat`, natively async."""
        return astream(self._plan_chat(messages, kwargs))

    @observed(_completion_callback)
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Ask the app one thing, outside of any conversation.

        Args:
            prompt: The words.
            formatted: Said by LlamaIndex of a prompt that is ready; an app takes it as it is.
            **kwargs: Settings to replace in this call, and `image_list` and `file_list`.

        Returns:
            The answer. `raw` is as for `chat`, and holds the `reasoning` too.

        Raises:
            InvalidInputError: An argument cannot be sent; nothing was.
            BailianError: The call failed; `partial` holds what had come.
        """
        return invoke(self._plan_completion(prompt, kwargs))

    @observed(_completion_callback)
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """As `complete`, chunk by chunk; the last has no `delta`, but `raw`."""
        return stream(self._plan_completion(prompt, kwargs))

    @observed(_completion_callback)
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """As `complete`, natively async."""
        return await ainvoke(self._plan_completion(prompt, kwargs))

    @observed(_completion_callback)
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """As `stream_complete`, natively async."""
        return astream(self._plan_completion(prompt, kwargs))

    def _plan_chat(
        self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]
    ) -> Call[ChatResponse]:
        app, said = self._split(kwargs)
        session_id = said.pop("session_id", None)
        plan = plan_request(to_turns(messages), app.settings, session_id=session_id)
        return self._call(app, plan, said, ChatReply(plan))

    def _plan_completion(self, prompt: str, kwargs: dict[str, Any]) -> Call[CompletionResponse]:
        app, said = self._split(kwargs)
        if said.get("session_id"):
            raise InvalidInputError(
                "session_id", "was given to a completion, which joins no conversation", "Use chat"
            )
        plan = plan_request([Turn(role="user", text=prompt)], app.settings)
        return self._call(app, plan, said, CompletionReply())

    def _call(self, app: BailianApp, plan: Plan, said: dict[str, Any], reply: Reply[T]) -> Call[T]:
        manager = self.callback_manager
        return Call(app, plan, said, reply, manager, self.step_events, self._listener)

    def _split(self, kwargs: dict[str, Any]) -> tuple[BailianApp, dict[str, Any]]:
        """The app with this call's settings, and what else the call says."""
        given = reveal(kwargs)
        for name in given.keys() & {"prompt", "messages"}:
            raise InvalidInputError(name, "was given twice", "The method's own argument has it")
        settings = {name: given[name] for name in given.keys() & AppSettings.model_fields.keys()}
        said = {name: value for name, value in given.items() if name not in settings}
        return BailianApp(self, **settings), said
