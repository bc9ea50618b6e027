"""Ask about an image of this machine: in plain Python, in LangChain and in LlamaIndex.

    pip install "bailian-apps[langchain,llamaindex,emulator]"
    python examples/images.py [IMAGE]

It prints the three answers, about IMAGE or about a square that it draws.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: it needs a vision
model, and an agent app needs image input enabled. Otherwise it starts the emulator with an app that
looks at the first pixel.
"""

from __future__ import annotations

import base64
import os
import struct
import sys
import tempfile
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from langchain_core.messages import HumanMessage
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock

from bailian_apps import BailianApp
from bailian_apps.langchain import ChatBailianApp
from bailian_apps.llamaindex import BailianAppLLM

QUESTION = "图里是什么颜色？"


def blue_square(side: int = 64) -> bytes:
    """Return a PNG of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\x20\x60\xc0" * side) * side
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def look(call: Any) -> str:
    """Answer as the emulator's app, whose eyes are weak: it sees the first pixel of a square."""
    [image] = call.request.input["image_list"]
    _, _, data = base64.b64decode(image.partition(",")[2]).partition(b"IDAT")
    red, green, blue = zlib.decompressobj().decompress(data)[1:4]
    name = "蓝色" if blue > max(red, green) else "不是蓝色"
    return f"{name}（#{red:02x}{green:02x}{blue:02x}）。"


def connect(stack: ExitStack) -> dict[str, Any]:
    """Return the settings of the app in the cloud, or of one in the emulator."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        return {}
    from bailian_apps.emulator import Emulator

    cloud = stack.enter_context(Emulator(apps={"vision": look}))
    return {"app_id": "vision", "api_key": "any", "base_url": cloud.base_url}


def main(path: Path) -> None:
    """Ask about an image: as a path, as a LangChain block, as a LlamaIndex block."""
    with ExitStack() as stack:
        settings = connect(stack)

        print(QUESTION)
        print("BailianApp:", BailianApp(**settings).invoke(QUESTION, image_list=[path]).text)

        encoded = base64.b64encode(path.read_bytes()).decode()
        block = {"type": "image", "base64": encoded, "mime_type": "image/png"}
        message = HumanMessage([{"type": "text", "text": QUESTION}, block])
        print("LangChain:", ChatBailianApp(**settings).invoke([message]).text)

        blocks = [TextBlock(text=QUESTION), ImageBlock(path=path)]
        answer = BailianAppLLM(**settings).chat([ChatMessage(blocks=blocks)]).message
        print("LlamaIndex:", answer.content)


if __name__ == "__main__":
    if len(sys.argv) > 1 and Path(sys.argv[1]).is_file():
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder, "square.png")
            picture.write_bytes(blue_square())
            main(picture)
