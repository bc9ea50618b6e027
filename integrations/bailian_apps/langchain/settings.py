"""The settings of an app as fields of a LangChain class, and the arguments of one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableBinding, RunnableConfig
from langchain_core.runnables.config import merge_configs
from langchain_core.runnables.retry import ExponentialJitterParams, RunnableRetry
from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from bailian_apps.client import Client
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.redaction import (
    SECRET_FIELDS,
    as_json,
    redacted,
    wrap_secrets,
)
from bailian_apps.core.settings import AppSettings
from bailian_apps.core.tracebacks import hides_arguments
from bailian_apps.langchain.errors import RetryableError

if TYPE_CHECKING:
    from bailian_apps.langchain.tool import BailianAppTool

MODEL_CONFIG = ConfigDict(
    extra="forbid",
    hide_input_in_errors=True,
    protected_namespaces=(),
    arbitrary_types_allowed=True,
)
"""Set on each class itself: an inherited one loses to LangChain's, which ignores unknown fields."""


class AppBinding(RunnableBinding[Any, Any]):
    """LangChain's binding, which shows no secrets when more is bound to it."""

    def bind(self, **kwargs: Any) -> Any:
        """Bind further arguments to every call."""
        app: Any = self.bound
        while not isinstance(app, AppSettings):
            app = app.bound  # inside a retry
        return super().bind(**wrap_secrets(kwargs, app.secret_biz_params))

    @hides_arguments
    def as_tool(self, *args: Any, **kwargs: Any) -> Any:
        """Return the app as a tool, with what is bound; as the app's own `as_tool`.

        Raises:
            InvalidInputError: Something is bound that a tool has no field for.
        """
        bound: Any = self.bound
        if isinstance(bound, BaseRetriever) or not isinstance(bound, AppSettings):
            return super().as_tool(*args, **kwargs)
        if self.config_factories:
            raise InvalidInputError(
                "listeners", "do not apply to a tool", "Call with_listeners of the tool"
            )
        app: Any = bound.model_copy()
        _set_bound(app, call_kwargs(self.kwargs))
        tool = app.as_tool(*args, **kwargs)
        own = RunnableConfig(
            tags=tool.tags or [], metadata=tool.metadata or {}, callbacks=tool.callbacks
        )
        config = merge_configs(own, self.config)
        _set_bound(tool, {name: value for name, value in config.items() if value})
        return tool

    @classmethod
    def lc_id(cls) -> list[str]:
        """LangChain's own id, so that a dump can be loaded."""
        return RunnableBinding.lc_id()


class AppSettingsMixin(AppSettings):
    """The settings of an app, as fields beside a LangChain class's own."""

    model_config = MODEL_CONFIG

    client: Client | None = Field(default=None, exclude=True, repr=False)
    """The client whose connections, concurrency slots and session rounds the calls use. Default:
    the client that all calls share. Never dumped; an object with a client cannot be pickled."""

    if TYPE_CHECKING:
        model: str = ""
        """Another name of `app_id`, under which other models have theirs."""
    else:

        @property
        def model(self) -> str:
            """Another name of `app_id`, under which other models have theirs."""
            return self.app_id

        @model.setter
        def model(self, app_id: str) -> None:
            self.app_id = app_id

    def bind(self, **kwargs: Any) -> Any:
        """Bind arguments to every call, as every Runnable's `bind`, without showing secrets."""
        return AppBinding(bound=cast("Any", self)).bind(**kwargs)

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Bind a config to every call, as every Runnable's `with_config`."""
        return AppBinding(bound=cast("Any", self)).with_config(config, **kwargs)

    def with_retry(
        self,
        *,
        retry_if_exception_type: tuple[type[BaseException], ...]
        | Callable[[BaseException], bool] = (RetryableError,),
        wait_exponential_jitter: bool = True,
        exponential_jitter_params: ExponentialJitterParams | None = None,
        stop_after_attempt: int = 3,
    ) -> Any:
        """Repeat failed calls, as every Runnable's `with_retry`, but only where that is safe.

        Args:
            retry_if_exception_type: The errors after which a call is repeated. Default: those with
                `is_retryable`: the app certainly did not run, or is declared `idempotent`.
            wait_exponential_jitter: Whether the wait between two calls is partly random.
            exponential_jitter_params: How long the wait is, see LangChain's `with_retry`.
            stop_after_attempt: How many calls are made at most. Each sends its request up to
                `max_retries` times again by itself.
        """
        retry: Any = RunnableRetry(
            bound=cast("Any", self),
            kwargs={},
            config={},
            retry_exception_types=retry_if_exception_type,
            wait_exponential_jitter=wait_exponential_jitter,
            exponential_jitter_params=exponential_jitter_params,
            max_attempt_number=stop_after_attempt,
        )
        return AppBinding(bound=retry)

    def with_listeners(
        self, *, on_start: Any = None, on_end: Any = None, on_error: Any = None
    ) -> Any:
        """Bind listeners to every call, as every Runnable's `with_listeners`."""
        binding = AppBinding(bound=cast("Any", self))
        return binding.with_listeners(on_start=on_start, on_end=on_end, on_error=on_error)

    @hides_arguments
    def as_tool(
        self,
        args_schema: type[BaseModel] | None = None,
        *,
        name: str | None = None,
        description: str | None = None,
        arg_types: dict[str, type] | None = None,
    ) -> BailianAppTool:
        """Return the app as a tool, whose arguments are a `prompt` and the app's start variables.

        An agent reads the answer's text; steps and usage are in the message's artifact.

        Args:
            args_schema: As for `BailianAppTool`.
            name: The tool's name. Default: the name of this object.
            description: What the app can do; an agent selects the tool by it.
            arg_types: The types of the arguments, in place of an `args_schema`.

        Raises:
            InvalidInputError: The arguments have no `prompt`, or a field that is set has no meaning
                in a tool.
        """
        from bailian_apps.langchain.tool import BailianAppTool

        this = cast("Any", self)
        for field in ("session_id", "stop", "rate_limiter"):
            if getattr(this, field, None) is not None:
                raise InvalidInputError(
                    field, "does not apply to a tool", "Call as_tool of an app without it"
                )
        shared = _fields_of(self) & _fields_of(BailianAppTool)
        fields: dict[str, Any] = {field: getattr(self, field) for field in shared}
        fields["name"] = name or str(this.get_name())
        fields["description"] = description or f"Answers a prompt with the app {self.app_id}."
        fields["args_schema"] = chosen_schema(fields["name"], args_schema, arg_types)
        return BailianAppTool(**fields)

    @model_validator(mode="before")
    @classmethod
    def _accept_model(cls, fields: Any) -> Any:
        return _with_app_id(fields) if isinstance(fields, dict) else fields

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Whether LangChain can dump it: yes, with the key as a reference."""
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        """The environment variable that a dump names in place of the key."""
        return {"api_key": "DASHSCOPE_API_KEY"}

    @property
    def lc_attributes(self) -> dict[str, Any]:
        """Attributes whose dumped value differs from the attribute's."""
        models = ("timeout", "history_template")
        dumped: dict[str, Any] = {name: as_json(getattr(self, name)) for name in models}
        for name in SECRET_FIELDS:
            if value := getattr(self, name):
                dumped[name] = redacted(name, value, self.secret_biz_params)
        return dumped


def chosen_schema(
    name: str, args_schema: type[BaseModel] | None, arg_types: Mapping[str, type] | None
) -> type[BaseModel] | None:
    """Return the schema of arguments that `as_tool` received, if it received one."""
    if arg_types is None or args_schema is not None:
        return args_schema
    fields: Any = {field: (kind, ...) for field, kind in arg_types.items()}
    return create_model(name, **fields)


def _fields_of(model: Any) -> set[str]:
    kind: type[BaseModel] = model if isinstance(model, type) else type(model)
    return set(kind.model_fields)


def _set_bound(app: Any, bound: Mapping[str, Any]) -> None:
    for name, value in bound.items():
        if name not in _fields_of(app):
            raise InvalidInputError(
                name, "is bound, and no field of a tool", "Pass it when the tool is called"
            )
        setattr(app, name, value)


def call_kwargs(kwargs: Any) -> dict[str, Any]:
    """Return a copy of the keyword arguments of a call, with `model` renamed to `app_id`.

    Raises:
        InvalidInputError: There is a `prompt`: the text belongs in the input.
    """
    if "prompt" in kwargs:
        raise InvalidInputError(
            "prompt", "is passed in addition to the input", "Put the text into the input"
        )
    return _with_app_id(kwargs)


def _with_app_id(fields: Any) -> dict[str, Any]:
    renamed = dict(fields)
    if (model := renamed.pop("model", None)) is not None:
        if renamed.get("app_id", model) != model:
            raise InvalidInputError("model", "differs from app_id", "Pass one of the two")
        renamed["app_id"] = model
    return renamed
