"""Keeps secrets out of what LlamaIndex publishes about a call and stores of a component.

LlamaIndex puts the keyword arguments of every LLM call into its spans, its events and its legacy
callbacks. Two of ours can hold a secret: `api_key`, and the `user_defined_tokens` in `biz_params`.
They are wrapped before the first span sees them, and unwrapped when the request is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic import SecretStr

from bailian_apps.core.redaction import redact_biz_params


class _Concealed(dict[str, Any]):
    """`biz_params` that look as they may be shown, and remember what they are."""

    __slots__ = ("_secret",)

    def __init__(self, biz_params: Mapping[str, Any]) -> None:
        super().__init__(redact_biz_params(biz_params))
        self._secret = biz_params

    def reveal(self) -> Mapping[str, Any]:
        return self._secret

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)


def conceal(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call as they may be published; `reveal` gives them back whole."""
    key, biz_params = kwargs.get("api_key"), kwargs.get("biz_params")
    if isinstance(key, str):
        kwargs = kwargs | {"api_key": SecretStr(key)}
    if isinstance(biz_params, Mapping) and not isinstance(biz_params, _Concealed):
        kwargs = kwargs | {"biz_params": _Concealed(cast("Mapping[str, Any]", biz_params))}
    return kwargs


def reveal(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call as they were given."""
    biz_params = kwargs.get("biz_params")
    if isinstance(biz_params, _Concealed):
        return kwargs | {"biz_params": biz_params.reveal()}
    return kwargs
