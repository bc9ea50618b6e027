"""`bailian-apps run --dry-run`: the request that would be sent, without its secrets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bailian_apps.app import BailianApp
from bailian_apps.core.attachments import with_short_images
from bailian_apps.core.history import Plan
from bailian_apps.core.redaction import MASK, redact_biz_params, redact_headers
from bailian_apps.core.request import AppRequest, WireOptions
from bailian_apps.run import Run
from bailian_apps.transport.request_builder import build_request


def dry_run(app: BailianApp, prompt: str, options: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the request of a call; nothing is sent, and no key is needed.

    Args:
        app: The app.
        prompt: The prompt.
        options: The options of the call.
        as_json: Whether to print one JSON object, not the text of an HTTP request.

    Raises:
        InvalidInputError: The request could not be sent.
    """
    settings = app.settings.with_overrides({"api_key": MASK})  # an own key is never read
    shared = {name: getattr(settings, name) for name in WireOptions.model_fields}
    plan = Plan.for_prompt(settings.app_id, prompt)
    Run(app.settings, plan, options)  # refuses what cannot be sent
    fields = plan.request_fields(dict(options) | shared)
    built = build_request(AppRequest.model_validate(fields), settings)
    headers = dict(built.headers) | redact_headers(settings.extra_headers or {})
    body = _without_secrets(json.loads(built.body), settings.secret_biz_params)
    if as_json:
        request = {"method": "POST", "url": built.url, "headers": headers, "body": body}
        print(json.dumps(request, ensure_ascii=False))  # noqa: T201
        return
    lines = [f"POST {built.url}", *(f"{name}: {value}" for name, value in headers.items())]
    text = json.dumps(body, ensure_ascii=False, indent=2)
    print("\n".join([*lines, "", text]))  # noqa: T201


def _without_secrets(body: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    sent = dict(body["input"])
    if "biz_params" in sent:  # the names of `secret_biz_params` begin there
        sent["biz_params"] = redact_biz_params(sent["biz_params"], names)
    if "image_list" in sent:
        sent["image_list"] = list(map(str, with_short_images(sent)["image_list"]))
    return redact_biz_params({**body, "input": sent}, names)
