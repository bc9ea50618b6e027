"""What is secret in a call's arguments, for reprs, dumps, pickles, traces and cache keys. Pure.

Two arguments can hold a secret: `api_key`, and `biz_params` with its `user_defined_tokens`. Images
in `image_list` are no secret, but megabytes: their type and size stand for them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel, SecretStr

from bailian_apps.core.attachments import shorten_images

_TOKENS = "user_defined_tokens"
_SECRET_KWARGS = ("api_key", "biz_params", "image_list")


def redact_biz_params(biz_params: Mapping[str, Any]) -> dict[str, Any]:
    """Return `biz_params` without the users' tokens."""
    return {name: value for name, value in biz_params.items() if name != _TOKENS}


def redact_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call without their secrets, and with models as JSON values."""
    public = {name: as_json(value) for name, value in kwargs.items() if name != "api_key"}
    if isinstance(public.get("biz_params"), Mapping):
        public["biz_params"] = redact_biz_params(public["biz_params"])
    if "image_list" in public:
        public["image_list"] = shorten_images(public["image_list"])
    return public


def secret_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that `redact_kwargs` takes something from, unchanged."""
    return {name: kwargs[name] for name in _SECRET_KWARGS if name in kwargs}


def secrets_digest(*biz_params: object) -> str:
    """Return a digest of all users' tokens; `""` if there are none.

    A cache key needs it: a user with other tokens must not get the cached answer.
    """
    tokens = [
        cast("Mapping[str, Any]", given)[_TOKENS]
        for given in biz_params
        if isinstance(given, Mapping) and _TOKENS in given
    ]
    if not tokens:
        return ""
    return hashlib.sha256(json.dumps(tokens, sort_keys=True, default=str).encode()).hexdigest()


def as_json(value: Any) -> Any:
    """Return a pydantic model, such as a `Timeout`, as a dict; other values unchanged."""
    return value.model_dump() if isinstance(value, BaseModel) else value


class _ShortImages(list[Any]):
    """A list that exposes shortened images and keeps the original for the request."""

    __slots__ = ("original",)

    def __init__(self, images: object) -> None:
        super().__init__(cast("list[Any]", shorten_images(images)))
        self.original = images

    def __reduce__(self) -> tuple[type[list[Any]], tuple[list[Any]]]:
        return list, (list(self),)


class _RedactedParams(dict[str, Any]):
    """A dict that exposes redacted `biz_params` and keeps the original for the request."""

    __slots__ = ("original",)

    def __init__(self, biz_params: Mapping[str, Any]) -> None:
        super().__init__(redact_biz_params(biz_params))
        self.original = biz_params

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)


def wrap_secrets(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return arguments that a framework may publish; `unwrap_secrets` restores them."""
    key, biz_params = kwargs.get("api_key"), kwargs.get("biz_params")
    if isinstance(key, str):
        kwargs = kwargs | {"api_key": SecretStr(key)}
    if isinstance(biz_params, Mapping) and not isinstance(biz_params, _RedactedParams):
        kwargs = kwargs | {"biz_params": _RedactedParams(cast("Mapping[str, Any]", biz_params))}
    images = kwargs.get("image_list")
    if isinstance(images, (list, tuple)) and not isinstance(images, _ShortImages):
        kwargs = kwargs | {"image_list": _ShortImages(cast("object", images))}
    return kwargs


def unwrap_secrets(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that were given to `wrap_secrets`."""
    biz_params = kwargs.get("biz_params")
    if isinstance(biz_params, _RedactedParams):
        kwargs = kwargs | {"biz_params": biz_params.original}
    images = kwargs.get("image_list")
    if isinstance(images, _ShortImages):
        kwargs = kwargs | {"image_list": images.original}
    return kwargs
