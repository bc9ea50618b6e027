"""Images in memory: of each type its smallest beginning, which is all that anyone here looks at."""

from __future__ import annotations

import base64

REST = bytes(16)
PNG = b"\x89PNG\r\n\x1a\n" + REST
IMAGES = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0" + REST,
    "image/gif": b"GIF89a" + REST,
    "image/webp": b"RIFF\x24\0\0\0WEBPVP8 " + REST,
    "image/bmp": b"BM" + bytes(12) + b"\x28\0\0\0" + REST,
    "image/tiff": b"II*\0" + REST,
    "image/heic": b"\0\0\0\x18ftypheic" + REST,
}


def encoded(content: bytes) -> str:
    """The base64 of bytes, as text."""
    return base64.b64encode(content).decode()


def data_url(content: bytes, kind: str = "image/png") -> str:
    """The Data URL of bytes."""
    return f"data:{kind};base64,{encoded(content)}"
