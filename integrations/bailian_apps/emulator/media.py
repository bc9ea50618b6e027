"""Checks the images and files of a request as the cloud does, and shortens them for people."""

import base64
from collections.abc import Mapping
from typing import Any

from bailian_apps.emulator.wire.frames import JsonObject, as_list, as_object

OSS_HEADER = "x-dashscope-ossresourceresolve"

MAX_DATA_URL_BYTES = 10_485_760
"""As the cloud's own error says: "Exceeded limit on max bytes per data-uri item : 10485760"."""

_SHOWN_CHARS = 200


def media_problem(fields: JsonObject, headers: Mapping[str, str]) -> str | None:
    """Return why the cloud refuses the images and files of an `input`; None if it takes them.

    Only what is certain is refused: a Data URL that holds no base64, or too much, and an address
    that the cloud resolves only if a header asks it to.
    """
    resolves = headers.get(OSS_HEADER, "").lower() == "enable"
    for name in ("image_list", "file_list"):
        for index, item in enumerate(as_list(fields.get(name))):
            problem = _problem(item, resolves=resolves) if isinstance(item, str) else None
            if problem:
                return f"Required parameter(input.{name}.{index}) missing or invalid: {problem}"
    return None


def shortened(body: JsonObject) -> JsonObject:
    """Return a body whose long Data URLs show their type and length only."""
    fields = as_object(body.get("input"))
    if fields is None or not isinstance(fields.get("image_list"), list):
        return body
    images = [_shorten(image) for image in as_list(fields["image_list"])]
    return {**body, "input": {**fields, "image_list": images}}


def _problem(address: str, *, resolves: bool) -> str | None:
    scheme = address[:6].lower()
    if scheme == "oss://" and not resolves:
        return "an oss:// address needs the header X-DashScope-OssResourceResolve: enable."
    if not scheme.startswith("data:"):
        return None
    if len(address) > MAX_DATA_URL_BYTES:
        return f"Exceeded limit on max bytes per data-uri item : {MAX_DATA_URL_BYTES}"
    head, _, data = address.partition(",")
    if head.lower().startswith("data:image/") and head.lower().endswith(";base64"):
        try:
            if base64.b64decode(data, validate=True):
                return None
        except ValueError:
            pass
    return "The data URL must be data:image/…;base64,… with the base64 of an image."


def _shorten(image: Any) -> Any:
    if not isinstance(image, str) or len(image) <= _SHOWN_CHARS:
        return image
    head = image.partition(",")[0] if image[:5].lower() == "data:" else ""
    return f"{head[:_SHOWN_CHARS]},… ({len(image)} characters)"
