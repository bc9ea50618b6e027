"""What of a call may be shown: in a trace, a cache key, a repr or a serialised model. Pure.

Two arguments can hold a secret: `api_key`, and `biz_params` with its `user_defined_tokens`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel

from bailian_apps.core.redaction import redact_biz_params

_TOKENS = "user_defined_tokens"
_SECRET_ARGUMENTS = ("api_key", "biz_params")


def shown(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments without their secrets, and with models as JSON values."""
    public = {key: as_json(value) for key, value in arguments.items() if key != "api_key"}
    if isinstance(public.get("biz_params"), Mapping):
        public["biz_params"] = redact_biz_params(public["biz_params"])
    return public


def as_json(value: Any) -> Any:
    """A setting that is a pydantic model, such as a `Timeout`, as a dict; others as they are."""
    return value.model_dump() if isinstance(value, BaseModel) else value


def concealed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that `shown` takes something from, whole."""
    return {key: arguments[key] for key in _SECRET_ARGUMENTS if key in arguments}


def tokens_digest(*biz_params: object) -> str:
    """A digest of all users' tokens; `""` if there are none.

    Whoever asks with other tokens must not be given the cached answer.
    """
    tokens = [
        cast("Mapping[str, Any]", given)[_TOKENS]
        for given in biz_params
        if isinstance(given, Mapping) and _TOKENS in given
    ]
    if not tokens:
        return ""
    return hashlib.sha256(json.dumps(tokens, sort_keys=True, default=str).encode()).hexdigest()
