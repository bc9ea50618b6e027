"""The calls of the LangChain classes, as type checkers and editors see them.

LangChain's signatures take any keyword argument. These name the settings and options that an app
takes, so that a checker refuses another name and an editor completes the right one. At run time
there is nothing of them, and LangChain's methods are called.
"""
# ruff: noqa: A002 - LangChain's name

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar
from uuid import UUID

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables import RunnableBinding, RunnableConfig
from typing_extensions import Unpack

from bailian_apps.core.documents import DocumentSource
from bailian_apps.core.keywords import CallKeywords
from bailian_apps.langchain.settings import AppSettingsMixin

_OutputT_co = TypeVar("_OutputT_co", covariant=True)
_Configs: TypeAlias = RunnableConfig | list[RunnableConfig] | None


class AppKeywords(CallKeywords, total=False):
    """The keyword arguments of a call of an app in LangChain."""

    model: str
    """Another name of `app_id`."""


class ChatKeywords(AppKeywords, total=False):
    """The keyword arguments of a `ChatBailianApp`'s calls."""

    max_tokens: int | None
    """Accepted for compatibility with other chat models, and not sent."""


class BoundChatKeywords(ChatKeywords, total=False):
    """The keyword arguments of `ChatBailianApp.bind`."""

    stop: list[str] | None
    """Sequences at which an answer ends."""


class RetrieverKeywords(AppKeywords, total=False):
    """The keyword arguments of a `BailianAppRetriever`'s calls."""

    k: int | None
    """The maximum number of documents; None for all."""

    documents: DocumentSource | None
    """`"cited"`, `"retrieved"`, or None for those cited, else those found."""


class _Invoked(Protocol[_OutputT_co]):
    def invoke(self, input: Any, config: RunnableConfig | None = None) -> _OutputT_co: ...


if TYPE_CHECKING:
    _ChatBinding: TypeAlias = RunnableBinding[LanguageModelInput, AIMessage]
    _RetrieverBinding: TypeAlias = RunnableBinding[str, list[Document]]

    class ChatSignatures(AppSettingsMixin):
        """What `ChatBailianApp` inherits, with its own keyword arguments."""

        def generate(
            self,
            messages: list[list[BaseMessage]],
            stop: list[str] | None = None,
            callbacks: Callbacks = None,
            *,
            tags: list[str] | None = None,
            metadata: dict[str, Any] | None = None,
            run_name: str | None = None,
            run_id: UUID | None = None,
            **kwargs: Unpack[ChatKeywords],
        ) -> LLMResult:
            """Run the app for each conversation; `kwargs` are those of `invoke`."""
            ...

        async def agenerate(
            self,
            messages: list[list[BaseMessage]],
            stop: list[str] | None = None,
            callbacks: Callbacks = None,
            *,
            tags: list[str] | None = None,
            metadata: dict[str, Any] | None = None,
            run_name: str | None = None,
            run_id: UUID | None = None,
            **kwargs: Unpack[ChatKeywords],
        ) -> LLMResult:
            """As `generate`, natively async."""
            ...

        def invoke(
            self,
            input: LanguageModelInput,
            config: RunnableConfig | None = None,
            *,
            stop: list[str] | None = None,
            **kwargs: Unpack[ChatKeywords],
        ) -> AIMessage:
            """Run the app and wait for the whole answer.

            Args:
                input: The conversation, or a prompt.
                config: LangChain's config.
                stop: Sequences at which the answer ends.
                **kwargs: Settings to override, and `session_id`, `image_list`, `file_list`.

            Raises:
                BailianError: The call failed.
            """
            ...

        async def ainvoke(
            self,
            input: LanguageModelInput,
            config: RunnableConfig | None = None,
            *,
            stop: list[str] | None = None,
            **kwargs: Unpack[ChatKeywords],
        ) -> AIMessage:
            """Run the app, natively async; as `invoke`."""
            ...

        def batch(
            self,
            inputs: list[LanguageModelInput],
            config: _Configs = None,
            *,
            return_exceptions: bool = False,
            **kwargs: Unpack[BoundChatKeywords],
        ) -> list[AIMessage]:
            """Call `invoke` for each input, in parallel threads."""
            ...

        async def abatch(
            self,
            inputs: list[LanguageModelInput],
            config: _Configs = None,
            *,
            return_exceptions: bool = False,
            **kwargs: Unpack[BoundChatKeywords],
        ) -> list[AIMessage]:
            """Call `ainvoke` for each input, in parallel."""
            ...

        def bind(self, **kwargs: Unpack[BoundChatKeywords]) -> _ChatBinding:
            """Bind arguments to every call."""
            ...

        def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> _ChatBinding:
            """Bind a config to every call."""
            ...

    class RunnableSignatures(AppSettingsMixin):
        """What `BailianAppRunnable` inherits, with its own keyword arguments."""

        def batch(
            self: _Invoked[_OutputT_co],
            inputs: list[Any],
            config: _Configs = None,
            *,
            return_exceptions: bool = False,
            **kwargs: Unpack[AppKeywords],
        ) -> list[_OutputT_co]:
            """Call `invoke` for each input, in parallel threads."""
            ...

        async def abatch(
            self: _Invoked[_OutputT_co],
            inputs: list[Any],
            config: _Configs = None,
            *,
            return_exceptions: bool = False,
            **kwargs: Unpack[AppKeywords],
        ) -> list[_OutputT_co]:
            """Call `ainvoke` for each input, in parallel."""
            ...

        def bind(
            self: _Invoked[_OutputT_co], **kwargs: Unpack[AppKeywords]
        ) -> RunnableBinding[Any, _OutputT_co]:
            """Bind arguments to every call."""
            ...

        def with_config(
            self: _Invoked[_OutputT_co], config: RunnableConfig | None = None, **kwargs: Any
        ) -> RunnableBinding[Any, _OutputT_co]:
            """Bind a config to every call."""
            ...

    class RetrieverSignatures(AppSettingsMixin):
        """What `BailianAppRetriever` inherits, with its own keyword arguments."""

        def invoke(
            self,
            input: str,
            config: RunnableConfig | None = None,
            **kwargs: Unpack[RetrieverKeywords],
        ) -> list[Document]:
            """Run the app and return the documents.

            Args:
                input: The query.
                config: LangChain's config.
                **kwargs: Settings to override, `k` and `documents`.

            Raises:
                BailianError: The call failed.
            """
            ...

        async def ainvoke(
            self,
            input: str,
            config: RunnableConfig | None = None,
            **kwargs: Unpack[RetrieverKeywords],
        ) -> list[Document]:
            """Run the app, natively async; as `invoke`."""
            ...

        def batch(
            self,
            inputs: list[str],
            config: _Configs = None,
            *,
            return_exceptions: bool = False,
            **kwargs: Unpack[RetrieverKeywords],
        ) -> list[list[Document]]:
            """Call `invoke` for each query, in parallel threads."""
            ...

        async def abatch(
            self,
            inputs: list[str],
            config: _Configs = None,
            *,
            return_exceptions: bool = False,
            **kwargs: Unpack[RetrieverKeywords],
        ) -> list[list[Document]]:
            """Call `ainvoke` for each query, in parallel."""
            ...

        def bind(self, **kwargs: Unpack[RetrieverKeywords]) -> _RetrieverBinding:
            """Bind arguments to every call."""
            ...

        def with_config(
            self, config: RunnableConfig | None = None, **kwargs: Any
        ) -> _RetrieverBinding:
            """Bind a config to every call."""
            ...
else:
    ChatSignatures = RunnableSignatures = RetrieverSignatures = AppSettingsMixin
