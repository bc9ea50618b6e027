"""The `bailian_cloud` fixture, in separate projects with their own pytest processes."""

from importlib.metadata import entry_points

import pytest

pytest_plugins = "pytester"

PROJECT = '''
import os
import sys

import pytest

SERVERS = set()


def code_under_test(what):
    """It has no test parameters."""
    from bailian_apps import BailianApp

    return BailianApp(app_id="shop", max_retries=0).invoke(what).text


def test_an_sdk_imported_in_the_test_calls_the_cloud(bailian_cloud):
    assert "dashscope" not in sys.modules
    import dashscope

    bailian_cloud.add_app("shop", lambda call: "here")
    assert dashscope.Application.call(app_id="shop", prompt="?").output.text == "here"
    # It keeps this address, as the documentation says. The other tests start without it.
    dashscope.base_http_api_url = "https://dashscope.aliyuncs.com/api/v1"
    dashscope.api_key = None


def test_the_app_and_the_sdk_call_the_cloud(bailian_cloud):
    import dashscope
    from bailian_apps.emulator import Agent

    SERVERS.add(bailian_cloud.base_url)
    bailian_cloud.add_app("shop", Agent(text="{prompt}: ordered"))
    assert code_under_test("tea") == "tea: ordered"
    answer = dashscope.Application.call(app_id="shop", prompt="cake").output.text
    assert answer == "cake: ordered"
    assert [request.prompt for request in bailian_cloud.requests] == ["tea", "cake"]
    assert len(bailian_cloud.sessions) == 2


def test_each_test_starts_with_an_empty_cloud(bailian_cloud):
    from bailian_apps import BailianError

    SERVERS.add(bailian_cloud.base_url)
    assert bailian_cloud.requests == []
    assert bailian_cloud.sessions == {}
    with pytest.raises(BailianError, match="AppId"):
        code_under_test("tea")


def test_an_app_may_be_a_file(bailian_cloud, tmp_path):
    SERVERS.add(bailian_cloud.base_url)
    path = tmp_path / "shop.yaml"
    path.write_text("text: from a file")
    bailian_cloud.add_app("shop", path)
    assert code_under_test("tea") == "from a file"


async def test_an_async_test_uses_it_too(bailian_cloud):
    from bailian_apps import BailianApp

    bailian_cloud.add_app("shop", lambda call: call.prompt * 2)
    assert (await BailianApp(app_id="shop").ainvoke("a")).text == "aa"


@pytest.fixture
def proxy(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "example.com")
    monkeypatch.delenv("NO_PROXY", raising=False)


def test_a_proxy_is_bypassed(proxy, bailian_cloud):
    import dashscope

    bailian_cloud.add_app("shop", lambda call: "here")
    assert code_under_test("?") == "here"
    assert dashscope.Application.call("shop", "?").output.text == "here"
    assert os.environ["no_proxy"] == "127.0.0.1,example.com"


def test_nothing_is_left_after_a_test():
    import dashscope

    assert len(SERVERS) == 1
    assert "DASHSCOPE_API_KEY" not in os.environ
    assert "DASHSCOPE_HTTP_BASE_URL" not in os.environ
    assert "127.0.0.1" not in dashscope.base_http_api_url
    assert dashscope.api_key is None
'''

INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings =
    error
    ignore:The Assistants API:DeprecationWarning
"""


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The options for a pytest with this plugin and no other, because others import much."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return ["-p", "bailian_apps.pytest_plugin"]


def test_pytest_finds_the_plugin_by_its_entry_point() -> None:
    names = {each.value for each in entry_points(group="pytest11")}
    assert "bailian_apps.pytest_plugin" in names


def test_the_fixture_serves_code_that_is_not_changed_for_tests(
    pytester: pytest.Pytester, alone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    pytester.makepyfile(PROJECT)
    pytester.makeini(INI)
    plugins = ["-p", "pytest_asyncio.plugin", "-p", "pytest_socket", "-p", "no:cacheprovider"]
    result = pytester.runpytest_subprocess(*alone, *plugins, "--allow-hosts=127.0.0.1")
    result.assert_outcomes(passed=7)


def test_pytest_starts_without_importing_the_emulator(
    pytester: pytest.Pytester, alone: list[str]
) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_the_plugin_imports_little():
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
    pytester.makepyfile(
        "def test_with(bailian_cloud): ...\ndef test_without(): ...\n"
        "def test_of_a_session(bailian_cloud_session): ..."
    )
    result = pytester.runpytest_subprocess(*alone)
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(['*bailian_cloud: *pip install "bailian-apps[[]emulator]"'])


SESSION_PROJECT = """
import os

import pytest

SEEN = []


@pytest.fixture(scope="session")
def shop(bailian_cloud_session):
    bailian_cloud_session.add_app("shop", lambda call: f"{len(call.turns)}: {call.prompt}")
    return bailian_cloud_session


def ask(prompt, **options):
    from bailian_apps import BailianApp

    return BailianApp(app_id="shop", max_retries=0).invoke(prompt, **options)


def test_a_session_fixture_adds_an_app_once(shop):
    SEEN.append(ask("tea").session_id)
    assert os.environ["DASHSCOPE_HTTP_BASE_URL"] == shop.base_url


def test_a_cloud_of_one_test_takes_its_calls(shop, bailian_cloud):
    bailian_cloud.add_app("shop", lambda call: "another shop")
    assert ask("tea").text == "another shop"
    assert bailian_cloud.base_url != shop.base_url


def test_the_next_test_finds_app_and_session_again(shop):
    assert ask("cake", session_id=SEEN[0]).text == "1: cake"
    assert [request.prompt for request in shop.requests] == ["tea", "cake"]


def test_a_test_without_the_fixture_calls_it_too():
    assert ask("milk").text == "0: milk"
"""


def test_one_cloud_may_serve_the_whole_session(
    pytester: pytest.Pytester, alone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DASHSCOPE_HTTP_BASE_URL", raising=False)
    pytester.makepyfile(SESSION_PROJECT)
    pytester.runpytest_subprocess(*alone, "-p", "no:cacheprovider").assert_outcomes(passed=4)


def test_pytest_lists_the_fixture_with_its_description(
    pytester: pytest.Pytester, alone: list[str]
) -> None:
    result = pytester.runpytest_subprocess(*alone, "--fixtures")
    result.stdout.fnmatch_lines(["bailian_cloud -- *", "*A local cloud without apps*"])
