"""In which language people read, and that programs read English."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import bailian_apps
from bailian_apps import BailianApp
from bailian_apps.core.api_errors import api_error
from bailian_apps.core.errors import BailianError, InvalidInputError, RateLimitError
from bailian_apps.core.language import (
    N_,
    Message,
    _,
    forget_language,
    joined,
    language,
    ngettext,
    translated,
)

VARIABLES = ("BAILIAN_LANG", "LC_ALL", "LC_MESSAGES", "LANG", "LANGUAGE")
Speak = Callable[..., None]


@pytest.fixture
def speak(monkeypatch: pytest.MonkeyPatch) -> Iterator[Speak]:
    def set_variables(**variables: str) -> None:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        forget_language()

    yield set_variables
    monkeypatch.undo()
    forget_language()


def failure() -> InvalidInputError:
    with pytest.raises(InvalidInputError) as raised:
        BailianApp(app_id="x", api_key="k", timeout=-1, top_k="many")  # type: ignore[arg-type]
    return raised.value


ENGLISH = (
    "2 arguments are not valid: (1) top_k must be a valid integer, not a str; "
    "(2) timeout must be a positive number of seconds or a Timeout"
)
CHINESE = "2 个参数无效：(1) top_k 必须是整数，而不是 str；(2) timeout 必须是正的秒数，或 Timeout"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "en_US.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "zh_TW"}, "zh"),
        ({"LANG": "zh_CN", "LC_ALL": ""}, "zh"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "C.UTF-8", "LANGUAGE": "zh_CN:en"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LANGUAGE": "en_US:zh"}, "en"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh_CN"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "BAILIAN_LANG": "en"}, "en"),
        ({"LANG": "en_US.UTF-8", "BAILIAN_LANG": "zh"}, "zh"),
        ({"BAILIAN_LANG": "ZH-cn"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "BAILIAN_LANG": "tlh"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "BAILIAN_LANG": " "}, "zh"),
    ],
)
@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the desktop has a language there")
def test_the_first_variable_that_is_set_decides(
    speak: Speak, variables: dict[str, str], expected: str
) -> None:
    speak(**variables)
    assert language() == expected


def test_errors_are_english_where_only_the_locale_is_chinese(speak: Speak) -> None:
    speak(LANG="zh_CN.UTF-8")
    error = failure()
    assert str(error) == error.message == ENGLISH
    assert error.args == (ENGLISH,)
    assert error.describe() == CHINESE
    if sys.version_info >= (3, 11):
        assert error.__notes__ == [CHINESE]


def test_a_language_that_is_chosen_is_that_of_str(speak: Speak) -> None:
    speak(BAILIAN_LANG="zh", LANG="C")
    error = failure()
    assert str(error) == CHINESE
    assert error.message == ENGLISH
    assert not hasattr(error, "__notes__")


def test_english_has_no_notes_and_can_be_described_in_chinese(speak: Speak) -> None:
    speak(LANG="en_US.UTF-8")
    error = failure()
    assert (error.describe(), error.describe("zh")) == (ENGLISH, CHINESE)
    assert not hasattr(error, "__notes__")


def test_attributes_are_plain_english_texts(speak: Speak) -> None:
    speak(BAILIAN_LANG="zh")
    error = failure()
    for text in (error.message, error.field, error.problem, error.hint):
        assert type(text) is str
        assert text.isascii()
    assert error.problem == "must be a valid integer, not a str"


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
def test_copies_and_pickles_keep_the_translation(
    speak: Speak, copied: Callable[..., BailianError]
) -> None:
    speak(LANG="zh_CN.UTF-8")
    for error in (failure(), api_error("Throttling", "slow down", status_code=429)):
        other = copied(error)
        assert type(other) is type(error)
        assert (str(other), other.message) == (str(error), error.message)
        assert other.describe("zh") == error.describe("zh")


def test_what_the_cloud_says_stays(speak: Speak) -> None:
    speak(BAILIAN_LANG="zh")
    error = api_error("InvalidApiKey", "Invalid API-key {x}", status_code=401, request_id="r-1")
    error.attempts = 2
    assert str(error) == (
        "[InvalidApiKey] Invalid API-key {x} | api_key：请设置 DASHSCOPE_API_KEY，或传入 api_key=；"
        "API Key 只属于一个地域，由 base_url= 选择（HTTP 401, request_id r-1, 共尝试 2 次）"
    )
    assert error.message.startswith("Invalid API-key {x} | api_key: set DASHSCOPE_API_KEY")
    assert (error.code, error.status_code, error.request_id) == ("InvalidApiKey", 401, "r-1")


@pytest.mark.parametrize("text", ["none", "error", "is empty", "{count} attempts", "%s {0} {x"])
def test_a_text_of_the_cloud_that_is_in_the_catalogue_stays(speak: Speak, text: str) -> None:
    speak(LANG="zh_CN.UTF-8")
    error = api_error("Foo", text, status_code=500)
    assert error.describe("zh") == f"[Foo] {text}（HTTP 500）"
    assert error.message == text
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize("copied", [False, True])
def test_an_error_in_a_message_is_in_the_language_of_the_message(
    speak: Speak, copied: bool
) -> None:
    speak(BAILIAN_LANG="zh")
    for inner in (failure(), api_error("InvalidApiKey", "no", status_code=401, request_id="r-1")):
        message = N_("cannot be used: {error}").format(error=inner)
        if copied:
            message = pickle.loads(pickle.dumps(message))
        assert message == f"cannot be used: {inner.describe('en')}"
        assert message.isascii()
        assert translated(message, "zh") == f"无法使用：{inner.describe('zh')}"


def test_values_of_other_classes_are_plain_ones() -> None:
    class Text(str):
        pass

    class Number(float):
        pass

    message = N_("{one} {two:g} {three}").format(one=Text("a"), two=Number(2), three=True)
    assert message == "a 2 True"
    assert [type(value) for value in (message.values or {}).values()] == [str, float, bool]


def test_a_copy_of_an_invalid_input_keeps_what_was_added_to_it() -> None:
    error = failure()
    error.session_id = "s-1"
    assert pickle.loads(pickle.dumps(error)).session_id == "s-1"
    assert copy.copy(error).session_id == "s-1"


def test_a_renamed_field_keeps_its_translation(speak: Speak) -> None:
    speak(BAILIAN_LANG="zh")
    error = InvalidInputError("k", N_("must be a str, not {kind}").format(kind="int"), "Pass None")
    assert str(error.renamed("--k")) == "--k 必须是 str，而不是 int。请传入 None"
    assert error.renamed("--k").message == "--k must be a str, not int. Pass None"


def test_a_text_of_the_users_is_never_translated(speak: Speak) -> None:
    speak(BAILIAN_LANG="zh")
    assert str(
        InvalidInputError("prompt", N_("must be {expected}").format(expected="session"))
    ) == ("prompt 必须是 session")
    assert str(RateLimitError("{count} attempts")) == "共尝试 {count} 次"  # a template, not filled


def test_messages_are_english_texts_with_a_translation(speak: Speak) -> None:
    speak(BAILIAN_LANG="zh")
    message = joined((N_("is missing"), N_("and {count} more").format(count=2)))
    assert message == "is missing; and 2 more"
    assert translated(message) == "缺失；另有 2 个"
    assert pickle.loads(pickle.dumps(message)) == message
    assert isinstance(pickle.loads(pickle.dumps(message)), Message)
    assert (_("Nothing was sent."), _("not in the catalogue"), _("")) == (
        "没有发送任何请求。",
        "not in the catalogue",
        "",
    )


def test_numbers_choose_the_form(speak: Speak) -> None:
    speak(BAILIAN_LANG="en")
    forms = [ngettext("{count} step", "{count} steps", count) for count in (0, 1, 2)]
    assert forms == ["0 steps", "1 step", "2 steps"]
    speak(BAILIAN_LANG="zh")
    assert ngettext("{count} step", "{count} steps", 1) == "1 个步骤"


def test_english_imports_no_gettext() -> None:
    program = (
        "import sys, bailian_apps\n"
        "try: bailian_apps.BailianApp(app_id='x', api_key='k', timeout=-1)\n"
        "except bailian_apps.InvalidInputError as error: str(error)\n"
        "from bailian_apps.core.language import language, _\n"
        "language(), _('x')\n"
        "sys.exit('gettext' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize("catalogue", ["zipped", "missing", "broken"])
def test_the_catalogue_is_read_from_a_zip_file_and_may_be_missing(
    tmp_path: Path, catalogue: str
) -> None:
    package = Path(bailian_apps.__file__).parent
    with zipfile.ZipFile(tmp_path / "package.zip", "w") as file:
        for path in package.rglob("*"):
            if path.suffix == ".py" or (path.suffix == ".mo" and catalogue == "zipped"):
                file.write(path, path.relative_to(package.parent))
            elif path.suffix == ".mo" and catalogue == "broken":
                file.writestr(str(path.relative_to(package.parent)), "kaputt")
    program = (
        "import bailian_apps\n"
        "try: bailian_apps.BailianApp(app_id='x', api_key='k', timeout=-1)\n"
        "except bailian_apps.InvalidInputError as error: print(ascii(error.describe('zh')))"
    )
    variables = {**os.environ, "PYTHONPATH": str(tmp_path / "package.zip")}
    shown = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=variables,
        check=True,
        timeout=120,
    )
    chinese = ascii("timeout 必须是正的秒数，或 Timeout")
    english = "'timeout must be a positive number of seconds or a Timeout'"
    assert shown.stdout.strip() == (chinese if catalogue == "zipped" else english)
