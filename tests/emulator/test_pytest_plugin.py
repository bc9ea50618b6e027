"""The `bailian_cloud` fixture, in a project of its own: a fresh folder, and a pytest of its own."""

import pytest

pytest_plugins = "pytester"
pytestmark = pytest.mark.process

TESTS = '''
import os
import dashscope
import pytest
from bailian_apps import BailianApp, BailianError
from bailian_apps.emulator import Agent

SERVERS = set()


def code_under_test(what):
    """It knows nothing of a test."""
    app = BailianApp(app_id="shop", max_retries=0)
    return app.invoke(what).text


def test_one(bailian_cloud):
    SERVERS.add(bailian_cloud.base_url)
    bailian_cloud.add_app("shop", Agent(text="{prompt}: ordered"))
    assert code_under_test("tea") == "tea: ordered"
    said = dashscope.Application.call(app_id="shop", prompt="cake").output.text
    assert said == "cake: ordered"
    assert [request.prompt for request in bailian_cloud.requests] == ["tea", "cake"]
    assert len(bailian_cloud.sessions) == 2


def test_two(bailian_cloud):
    SERVERS.add(bailian_cloud.base_url)
    assert bailian_cloud.requests == []
    assert bailian_cloud.sessions == {}
    with pytest.raises(BailianError, match="AppId"):
        code_under_test("tea")


def test_three(bailian_cloud, tmp_path):
    SERVERS.add(bailian_cloud.base_url)
    path = tmp_path / "shop.yaml"
    path.write_text("text: from a file")
    bailian_cloud.add_app("shop", path)
    assert code_under_test("tea") == "from a file"


async def test_four(bailian_cloud):
    bailian_cloud.add_app("shop", lambda call: call.prompt * 2)
    assert (await BailianApp(app_id="shop").ainvoke("a")).text == "aa"


def test_nothing_is_left():
    assert len(SERVERS) == 1
    assert "DASHSCOPE_API_KEY" not in os.environ
    assert "DASHSCOPE_HTTP_BASE_URL" not in os.environ
    assert "127.0.0.1" not in dashscope.base_http_api_url
    assert dashscope.api_key is None
'''


def test_code_under_test_needs_no_change(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    pytester.makeini(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )
    result = pytester.runpytest_subprocess("--allow-hosts=127.0.0.1", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=5)


def test_an_sdk_that_is_imported_in_the_test_is_led_there_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_late(bailian_cloud):
            import dashscope

            bailian_cloud.add_app("shop", lambda call: "here")
            answer = dashscope.Application.call(app_id="shop", prompt="?")
            assert answer.output.text == "here"
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_a_proxy_is_passed_by(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "example.com")
    monkeypatch.delenv("NO_PROXY", raising=False)
    pytester.makepyfile(
        """
        import os
        import dashscope
        from bailian_apps import BailianApp

        def test_here(bailian_cloud):
            bailian_cloud.add_app("shop", lambda call: "here")
            assert BailianApp(app_id="shop").invoke("?").text == "here"
            assert dashscope.Application.call("shop", "?").output.text == "here"
            assert os.environ["no_proxy"] == "127.0.0.1,example.com"
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run pytest with this plugin and no other: the others load what they like."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return ["-p", "bailian_apps.pytest_plugin"]


def test_pytest_starts_without_the_emulator(pytester: pytest.Pytester, alone: list[str]) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_loaded():
            assert "bailian_apps.pytest_plugin" in sys.modules
            heavy = {"bailian_apps.emulator", "starlette", "uvicorn", "yaml", "dashscope"}
            assert not heavy & sys.modules.keys()
        """
    )
    pytester.runpytest_subprocess(*alone).assert_outcomes(passed=1)


@pytest.mark.parametrize("missing", ["starlette", "uvicorn", "yaml"])
def test_without_the_extra_only_the_fixture_fails(
    pytester: pytest.Pytester, alone: list[str], missing: str
) -> None:
    pytester.makeconftest(f"import sys\nsys.modules[{missing!r}] = None")
    pytester.makepyfile("def test_with(bailian_cloud): ...\ndef test_without(): ...")
    result = pytester.runpytest_subprocess(*alone)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(['*bailian_cloud: *pip install "bailian-apps[[]emulator]"'])


def test_the_fixture_says_what_it_is(pytester: pytest.Pytester, alone: list[str]) -> None:
    result = pytester.runpytest_subprocess(*alone, "--fixtures")
    result.stdout.fnmatch_lines(["bailian_cloud -- *", "*A local cloud without an app*"])
