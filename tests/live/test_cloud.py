"""Against the real cloud: `BAILIAN_LIVE=1 DASHSCOPE_API_KEY=… BAILIAN_APP_ID=… pytest tests/live`.

Each test calls your app once or twice, at your cost. Nothing else in the tests leaves this machine.
"""

from __future__ import annotations

import os

import pytest
from support.paths import PATHS

from bailian_apps import AuthenticationError, BailianApp

pytestmark = [
    pytest.mark.skipif(
        not all(os.environ.get(n) for n in ("BAILIAN_LIVE", "DASHSCOPE_API_KEY", "BAILIAN_APP_ID")),
        reason="needs BAILIAN_LIVE=1, DASHSCOPE_API_KEY and BAILIAN_APP_ID",
    ),
    pytest.mark.allow_hosts(["0.0.0.0/0", "::/0"]),
]


@pytest.mark.parametrize("path", PATHS)
def test_an_answer_and_a_second_turn(path: str) -> None:
    first = PATHS[path](BailianApp(), "你好")
    assert first.error is None
    assert first.result is not None
    assert first.text == first.result.text != ""
    assert first.result.session_id
    second = PATHS[path](BailianApp(), "我刚才说了什么？", session_id=first.result.session_id)
    assert second.error is None
    assert second.text


@pytest.mark.parametrize("path", PATHS)
def test_a_wrong_key_is_an_authentication_error(path: str) -> None:
    error = PATHS[path](BailianApp(api_key="sk-wrong"), "你好").error
    assert isinstance(error, AuthenticationError)
