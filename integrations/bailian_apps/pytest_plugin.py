"""The pytest plugin with the fixture `bailian_cloud`.

pytest imports this module at its start, also without the emulator's extra. So the fixture imports
the emulator, and the module is not part of the emulator's package, whose import needs the extra.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bailian_apps.emulator import Emulator

_KEY = "sk-emulator"


@pytest.fixture(scope="session")
def _bailian_server() -> Iterator[Emulator]:  # pyright: ignore[reportUnusedFunction]
    try:
        from bailian_apps.emulator import Emulator
        from bailian_apps.inspector import render_frames
    except ImportError as error:
        pytest.fail(f"the fixture bailian_cloud: {error}", pytrace=False)
    with Emulator(apps={}, render_run=render_frames) as cloud:
        yield cloud


@pytest.fixture
def bailian_cloud(_bailian_server: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """A local cloud without apps: add one with `bailian_cloud.add_app(app_id, source)`.

    One server runs for all tests; its apps, requests, sessions, faults and clock are reset after
    each test. During the test `DASHSCOPE_API_KEY` and `DASHSCOPE_HTTP_BASE_URL` point to it, and
    so do the attributes of a `dashscope` that has been imported, which reads them at import.
    """
    monkeypatch.setenv("DASHSCOPE_API_KEY", _KEY)
    monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", _bailian_server.base_url)
    for name in ("NO_PROXY", "no_proxy"):  # a proxy cannot reach the loopback interface
        monkeypatch.setenv(name, "127.0.0.1", prepend=",")
    sdk = sys.modules.get("dashscope")
    if sdk is not None:
        monkeypatch.setattr(sdk, "api_key", _KEY)
        monkeypatch.setattr(sdk, "base_http_api_url", _bailian_server.base_url)
    yield _bailian_server
    _bailian_server.reset()
