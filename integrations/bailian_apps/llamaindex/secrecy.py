"""Keeps secrets out of the call arguments that LlamaIndex publishes.

LlamaIndex puts the keyword arguments of every LLM call into its spans, its events and its legacy
callbacks. Two of ours may hold a secret: `api_key`, and the `user_defined_tokens` in `biz_params`.
They are wrapped before the first span sees them, and unwrapped for the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic import SecretStr

from bailian_apps.core.request import without_tokens


class _RedactedBizParams(dict[str, Any]):
    """A dict that exposes redacted `biz_params` and keeps the original for the request."""

    __slots__ = ("_original",)

    def __init__(self, biz_params: Mapping[str, Any]) -> None:
        super().__init__(without_tokens(biz_params))
        self._original = biz_params

    def unwrap(self) -> Mapping[str, Any]:
        return self._original

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)


def wrap_secrets(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call in a form that may be published."""
    key, biz_params = kwargs.get("api_key"), kwargs.get("biz_params")
    if isinstance(key, str):
        kwargs = kwargs | {"api_key": SecretStr(key)}
    if isinstance(biz_params, Mapping) and not isinstance(biz_params, _RedactedBizParams):
        kwargs = kwargs | {"biz_params": _RedactedBizParams(cast("Mapping[str, Any]", biz_params))}
    return kwargs


def unwrap_secrets(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments that were passed to `wrap_secrets`."""
    biz_params = kwargs.get("biz_params")
    if isinstance(biz_params, _RedactedBizParams):
        return kwargs | {"biz_params": biz_params.unwrap()}
    return kwargs
