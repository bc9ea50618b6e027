"""What is secret in the arguments of a call, for traces, cache keys, reprs and dumps. Pure.

Two arguments can hold a secret: `api_key`, and `biz_params` with its `user_defined_tokens`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel

from bailian_apps.core.request import without_tokens

_TOKENS = "user_defined_tokens"
_SECRET_KWARGS = ("api_key", "biz_params")


def redact_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call without secrets, and with pydantic models as dicts."""
    public = {key: as_json(value) for key, value in kwargs.items() if key != "api_key"}
    if isinstance(public.get("biz_params"), Mapping):
        public["biz_params"] = without_tokens(public["biz_params"])
    return public


def as_json(value: Any) -> Any:
    """Return a pydantic model, such as a `Timeout`, as a dict; anything else unchanged."""
    return value.model_dump() if isinstance(value, BaseModel) else value


def secret_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that `redact_kwargs` removes or changes, with their secrets."""
    return {key: kwargs[key] for key in _SECRET_KWARGS if key in kwargs}


def secrets_digest(*biz_params: object) -> str:
    """Return a digest of all users' tokens; `""` if there are none.

    It is part of a cache key, so that users with different tokens do not share a cached answer.
    """
    tokens = [
        cast("Mapping[str, Any]", params)[_TOKENS]
        for params in biz_params
        if isinstance(params, Mapping) and _TOKENS in params
    ]
    if not tokens:
        return ""
    return hashlib.sha256(json.dumps(tokens, sort_keys=True, default=str).encode()).hexdigest()
