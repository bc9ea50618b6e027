"""The pytest plugin with the fixtures `bailian_cloud` and `bailian_cloud_session`.

pytest imports this module at its start, also without the emulator's extra. So the fixtures import
the emulator, and the module is not part of the emulator's package, whose import needs the extra.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bailian_apps.emulator import Emulator

_KEY = "sk-emulator"


@contextmanager
def _server(fixture: str) -> Generator[Emulator]:
    try:
        from bailian_apps.emulator import Emulator
        from bailian_apps.inspector import render_frames
    except ImportError as error:
        pytest.fail(f"the fixture {fixture}: {error}", pytrace=False)
    with Emulator(apps={}, render_run=render_frames) as cloud:
        yield cloud


def _point_to(cloud: Emulator, patch: pytest.MonkeyPatch) -> None:
    """Lead the calls of this process to a cloud."""
    patch.setenv("DASHSCOPE_API_KEY", _KEY)
    patch.setenv("DASHSCOPE_HTTP_BASE_URL", cloud.base_url)
    for name in ("NO_PROXY", "no_proxy"):  # a proxy cannot reach the loopback interface
        patch.setenv(name, "127.0.0.1", prepend=",")
    sdk = sys.modules.get("dashscope")
    if sdk is not None:
        patch.setattr(sdk, "api_key", _KEY)
        patch.setattr(sdk, "base_http_api_url", cloud.base_url)


@pytest.fixture(scope="session")
def _bailian_server() -> Iterator[Emulator]:  # pyright: ignore[reportUnusedFunction]
    with _server("bailian_cloud") as cloud:
        yield cloud


@pytest.fixture
def bailian_cloud(_bailian_server: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """A local cloud without apps: add one with `bailian_cloud.add_app(app_id, source)`.

    One server runs for all tests; its apps, requests, sessions, faults and clock are reset after
    each test. During the test `DASHSCOPE_API_KEY` and `DASHSCOPE_HTTP_BASE_URL` point to it, and
    so do the attributes of a `dashscope` that has been imported, which reads them at import.
    """
    _point_to(_bailian_server, monkeypatch)
    yield _bailian_server
    _bailian_server.reset()


@pytest.fixture(scope="session")
def bailian_cloud_session() -> Iterator[Emulator]:
    """A local cloud for the whole test session, for session-scoped fixtures. Nothing is reset.

    From its first use to the end of the session, the variables point to it. A test with
    `bailian_cloud` calls that cloud instead.
    """
    with _server("bailian_cloud_session") as cloud, pytest.MonkeyPatch.context() as patch:
        _point_to(cloud, patch)
        yield cloud
