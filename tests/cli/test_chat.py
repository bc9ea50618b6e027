"""`chat` through a pipe: what it sends, keeps, and says after a failure."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command import bailian, exit_code_of
from support.images import PNG, data_url
from support.pages import LANGUAGES, page

from bailian_apps import AppSettings
from bailian_apps.cli.chat.conversation import Conversation, read_conversation
from bailian_apps.cli.chat.slash_commands import COMMANDS
from bailian_apps.cli.chat.storage import Autosave, LineHistory, holds_key, holds_secret
from bailian_apps.core.attachments import InlineImage
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.turns import SessionMarker, Turn
from bailian_apps.emulator import Call, Emulator, Failure

pytestmark = pytest.mark.process


def talk(call: Call) -> Any:
    if call.prompt == "fail":
        return Failure(status=500, code="AppProcessFailed", message="node \x1b[2J broke")
    if call.prompt == "refused":
        return Failure(status=429, code="Throttling.RateQuota", message="too many")
    if call.prompt == "broken":
        return Failure(status=500, code="InternalError", message="boom")
    return f"第{len(call.turns) + 1}轮：{call.prompt}"


@pytest.fixture
def cloud() -> Iterator[Emulator]:
    with Emulator(apps={"talk": talk}, api_key="sk-mine") as running:
        yield running


def chat(cloud: Emulator, *lines: str, options: tuple[str, ...] = (), folder: Path) -> list[str]:
    """Send lines; return those of the answers and, after a mark, those of standard error."""
    done = bailian(
        *("chat", "talk", "--base-url", cloud.base_url, "--no-steps", *options),
        stdin="".join(f"{line}\n" for line in lines),
        COLUMNS="500",
        XDG_STATE_HOME=str(folder / "state"),
    )
    assert done.returncode == 0, done.stderr
    assert not (folder / "state").exists()  # a script leaves nothing on disk
    return [*done.stdout.splitlines(), "--", *done.stderr.splitlines()]


def test_a_pipe_sends_lines_and_receives_only_answers(cloud: Emulator, tmp_path: Path) -> None:
    assert chat(cloud, "一", "", "二", folder=tmp_path) == ["第1轮：一", "第2轮：二", "--"]
    assert len(cloud.sessions) == 1


def test_a_saved_chat_goes_on_in_its_session_while_the_session_is_young(
    cloud: Emulator, tmp_path: Path
) -> None:
    saved = tmp_path / "chat.json"
    chat(cloud, "一", "二", f"/save {saved}", folder=tmp_path)
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    (session,) = cloud.sessions.values()

    load = ("--load", str(saved))
    shown = chat(cloud, "三", options=load, folder=tmp_path)
    assert shown[0] == "第3轮：三"
    assert [turn.user for turn in session.turns] == ["一", "二", "三"]

    values = json.loads(saved.read_text(encoding="utf-8"))
    assert values["messages"][3] == {
        "role": "assistant",
        "content": "第2轮：二",
        "session_id": session.id,
        "bailian": values["messages"][3]["bailian"],
    }
    values["messages"][3]["bailian"]["used_at"] -= 4000
    saved.write_text(json.dumps(values), encoding="utf-8")
    chat(cloud, "三", options=load, folder=tmp_path)
    whole = [message["content"] for message in cloud.requests[-1].messages]
    assert whole == ["一", "第1轮：一", "二", "第2轮：二", "三"]

    with Emulator(apps={"talk": talk}, api_key="sk-mine") as other:  # a session has one address
        chat(other, f"/load {saved}", "三", folder=tmp_path)
        assert len(other.requests[0].messages) == 5


def test_after_a_forgotten_session_the_whole_history_is_sent(tmp_path: Path) -> None:
    def forgetful(call: Call) -> Any:
        if call.prompt != "二":
            return talk(call)
        output = {"text": "?", "finish_reason": "stop", "session_id": "another"}
        return [{"output": output, "request_id": "r"}]

    with Emulator(apps={"talk": forgetful}, api_key="sk-mine") as cloud:
        *shown, said = chat(cloud, "一", "二", "三", folder=tmp_path)
        assert [request.messages for request in cloud.requests][:2] == [[], []]
        assert [each["content"] for each in cloud.requests[2].messages][::2] == ["一", "二", "三"]
    assert any("has lost the conversation" in line for line in shown)
    assert said.startswith("The app answered without the earlier conversation. Your next message")


@pytest.mark.parametrize(
    ("prompt", "error", "advice"),
    [
        ("fail", "AppFailedError: ", "The app ran, and failed. /retry asks again"),
        ("refused", "RateLimitError: ", "The app did not run. /retry asks again."),
        ("broken", "ServerError: ", "The app may have run. /retry asks again: it may run"),
    ],
)
def test_after_a_failure_the_chat_says_whether_the_app_ran(
    cloud: Emulator, tmp_path: Path, prompt: str, error: str, advice: str
) -> None:
    once = ("--set", "max_retries=0")
    *answers, said, what = chat(cloud, "一", prompt, "二", "/retry", options=once, folder=tmp_path)
    assert answers[0] == "第1轮：一"
    shown = "\n".join([*answers, said, what])
    assert error in shown
    assert advice in shown
    assert "\x1b" not in shown  # an app cannot steer the terminal
    # Nothing was sent again before the user asked; then the last message was.
    assert [request.prompt or request.messages[-1]["content"] for request in cloud.requests] == [
        *("一", prompt, "二"),
        "二",
    ]


def test_retry_repeats_the_message_that_failed_and_replaces_an_answer(tmp_path: Path) -> None:
    answers = iter([Failure(status=500, code="InternalError", message="boom"), "one", "two"])
    with Emulator(apps={"talk": lambda _: next(answers)}, api_key="sk-mine") as cloud:
        shown = chat(cloud, "/retry", "hi", "/retry", "/retry", "/history", folder=tmp_path)
        assert [request.prompt for request in cloud.requests] == ["hi", "hi", "hi"]
    assert shown[:3] == ["one", "two", "--"]
    assert shown[3] == "There is no message to ask again."
    assert shown.count("Asking again: this is another run of the app.") == 2
    assert shown[-2:] == ["user: hi", "assistant: two"]


def test_slash_commands_change_what_is_sent(cloud: Emulator, tmp_path: Path) -> None:
    picture = tmp_path / "the lake.png"
    picture.write_bytes(PNG)
    lines = (
        *(f"/image '{picture}'", "/image https://example.com/b.png", "/image no-such.png"),
        *("/file https://example.com/a.pdf", "/file a.pdf", "/biz city=杭州", "/biz token=s3cret"),
        *("/biz days:=2", "/biz days=", "/biz wrong", "hi", "/image clear", "more"),
        *("/session s-9", "//etc", "/session", "/frobnicate now", "/quit", "never sent"),
    )
    shown = chat(cloud, *lines, folder=tmp_path)
    first, second, third = cloud.requests
    assert first.input["image_list"] == [data_url(PNG), "https://example.com/b.png"]
    assert first.input["file_list"] == ["https://example.com/a.pdf"]
    assert first.biz_params == {"city": "杭州", "token": "s3cret"}
    assert "image_list" not in second.input
    assert (third.prompt, third.session_id) == ("/etc", "s-9")
    said = "\n".join(shown)
    assert "s3cret" not in said
    assert "/image " in said
    assert "no-such.png is the path of a file that does not exist" in said
    assert "/file is not an http(s) URL" in said
    assert "/biz must be NAME=VALUE. Write /biz city=Hangzhou" in said
    assert "Unknown command /frobnicate. /help lists the commands." in said
    assert "--" not in said.partition("\n--\n")[2]  # the words of a chat, not those of options


def test_save_overwrites_only_what_this_chat_has_written(cloud: Emulator, tmp_path: Path) -> None:
    mine, text = tmp_path / "mine.md", tmp_path / "chat.md"
    mine.write_text("keep me")
    names = (f"/save {mine}", f"/save {text}", f"/save {text}", "/save ~no-such-user/a", "/save")
    shown = chat(cloud, "hi", *names, folder=tmp_path)
    assert mine.read_text() == "keep me"
    assert text.read_text(encoding="utf-8") == "**You**\n\nhi\n\n**talk**\n\n第1轮：hi\n"
    assert shown[2:] == [
        f"{mine} already exists. Choose another name",
        f"Saved 2 messages in {text}",
        f"Saved 2 messages in {text}",
        shown[5],
        "FILE is missing. Write a file name after the command",
    ]
    assert shown[5].startswith("~no-such-user/a is not a valid file name")


def test_a_conversation_without_messages_has_a_history_too(cloud: Emulator, tmp_path: Path) -> None:
    assert chat(cloud, "/history", folder=tmp_path) == ["--", "Nothing was said yet."]


def test_a_message_that_holds_a_key_is_neither_sent_nor_shown(
    cloud: Emulator, tmp_path: Path
) -> None:
    key = "sk-" + "0123456789abcdef" * 2
    shown = chat(cloud, f"why is {key} refused?", "hi", folder=tmp_path)
    assert [request.prompt for request in cloud.requests] == ["hi"]
    assert shown[2] == "The message holds an API key, and was not sent. Write it without the key."
    assert key not in "\n".join(shown)


def test_attachments_of_the_command_line_are_part_of_the_first_message(
    cloud: Emulator, tmp_path: Path
) -> None:
    (tmp_path / "lake.png").write_bytes(PNG)
    options = ("--image", str(tmp_path / "lake.png"), "--file", "https://example.com/a.pdf")
    with_history = (*options, "--set", "history_mode=full")
    chat(cloud, "hi", "hi", options=with_history, folder=tmp_path)
    for request in cloud.requests:
        assert request.input["image_list"] == [data_url(PNG)]
        assert request.input["file_list"] == ["https://example.com/a.pdf"]
    assert [len(request.messages) for request in cloud.requests] == [1, 3]


@pytest.mark.parametrize(
    ("options", "code", "problem"),
    [
        (["--image", "no-such.png"], 2, "no-such.png is the path of a file that does not exist"),
        (["--image", "DATA:image/png;base64,s3cret"], 2, "--image is not valid base64"),
        (["--load", "no-such.json"], 2, "no-such.json cannot be read (No such file or directory)"),
        (["--continue", "--no-history"], 2, "exclude each other"),
        (["--continue", "--session", "s"], 2, "exclude each other"),
        (["--continue"], 2, "--continue found no chat with this app at this address"),
    ],
)
def test_a_chat_that_cannot_begin_says_why_and_ends(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    options: list[str],
    code: int,
    problem: str,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-mine")
    monkeypatch.setenv("COLUMNS", "500")
    assert exit_code_of(monkeypatch, "chat", "talk", *options) == code
    shown = capsys.readouterr().err
    assert problem in shown
    assert "s3cret" not in shown


def test_a_chat_without_a_key_or_an_app_says_so_before_the_first_message(tmp_path: Path) -> None:
    nothing = {"HOME": str(tmp_path), "DASHSCOPE_API_KEY": "", "COLUMNS": "500"}
    done = bailian("chat", "talk", stdin="hi\n", **nothing)
    assert (done.returncode, done.stdout) == (2, "")
    assert "API key is missing. Set DASHSCOPE_API_KEY in the environment" in done.stderr
    done = bailian("chat", stdin="hi\n", COLUMNS="500")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Pass APP_ID or set BAILIAN_APP_ID" in done.stderr


def test_every_slash_command_is_in_the_help_and_in_the_docs(
    cloud: Emulator, tmp_path: Path
) -> None:
    shown = chat(cloud, "/help", folder=tmp_path)
    listed = [line.partition(" ")[0] for line in shown[1:] if line.startswith("/")]
    assert set(COMMANDS) <= set(listed)
    for language in LANGUAGES:
        rows = re.findall(r"^\| `(/[a-z]+)", page("chat", language), re.M)
        assert sorted(rows) == sorted(COMMANDS)


# ------------------------------------------------------------------ what is kept


@pytest.mark.parametrize(
    ("line", "secret", "key"),
    [
        ("my key is sk-mine", True, False),
        ("sk-0123456789abcdef0123456789abcdef", True, True),
        ("the key sk-sp-0123456789abcdef-0123456789 fails", True, True),
        ("the key of-the-environment fails", True, True),
        ("a sk-learn-based-classification-of-text", True, False),
        ("/biz user_token=abc", True, False),
        ('{"password": "x"}', True, False),
        ("Authorization: Bearer abc", True, False),
        ("a risk-averse plan, max_tokens=5", False, False),
        ("Plan: two days in Hangzhou", False, False),
        ("密码: 1", True, False),
    ],
)
def test_a_line_with_a_secret_is_not_stored(
    tmp_path: Path, line: str, secret: bool, key: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "of-the-environment")
    assert (holds_secret(line), holds_key(line)) == (secret, key)
    history = LineHistory(tmp_path / "new")
    history.store_string("two\nlines")
    history.store_string(line)
    kept = list(LineHistory(tmp_path / "new").load_history_strings())
    assert kept == ([] if secret else [line]) + ["two\nlines"]
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "new" / "history").stat().st_mode) == 0o600


def test_a_long_history_loses_its_older_half(tmp_path: Path) -> None:
    history = LineHistory(tmp_path)
    for number in range(12):
        history.store_string(f"{number} {'x' * 100_000}")
    kept = [line.partition(" ")[0] for line in history.load_history_strings()]
    assert kept[0] == "11"
    assert 5 <= len(kept) < 11
    assert (tmp_path / "history").stat().st_size < 1_200_000


def test_a_conversation_reads_back_as_it_was_written(tmp_path: Path) -> None:
    settings = AppSettings(app_id="a", base_url="http://127.0.0.1:1/api/v1")
    marker = SessionMarker(app_id="a", session_id="s", round=1, used_at=1.5, digest="d")
    images = ("https://example.com/a.png", InlineImage(tmp_path / "b.png", "b"))
    question = Turn(role="user", text="Hi\n你好", images=images, files=("https://example.com/c",))
    conversation = Conversation(session_id="named", images=images)
    conversation.keep(question, Turn(role="assistant", text="yes", marker=marker))
    assert (conversation.session_id, conversation.images) == (None, ())
    keeper = Autosave(settings, tmp_path)
    with pytest.raises(InvalidInputError, match="--continue found no chat"):
        keeper.newest()
    keeper.save(conversation)
    assert read_conversation(keeper.newest(), settings).turns == conversation.turns
    assert stat.S_IMODE(keeper.newest().stat().st_mode) == 0o600
    elsewhere = settings.with_overrides({"base_url": "http://127.0.0.1:2/api/v1"})
    assert read_conversation(keeper.newest(), elsewhere).turns[1].marker is None
    with pytest.raises(InvalidInputError, match="at this address"):
        Autosave(elsewhere, tmp_path).newest()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("not json", "it is not JSON"),
        ("[]", "it is not a JSON object"),
        ("{}", "it has no list of messages"),
        ('{"messages": [1]}', "messages[0] is not a JSON object"),
        ('{"messages": [{"role": "tool", "content": ""}]}', "messages[0] needs a role"),
        ('{"messages": [{"role": "user", "content": "hi"}]}', "it does not end with an answer"),
        (
            '{"messages": [{"role": "user", "content": "hi", "images": ["x"]}]}',
            "messages[0].images is text that is neither",
        ),
        ('{"messages": [{"role": "user", "content": "hi", "files": 1}]}', "files is not a list"),
    ],
)
def test_a_file_that_is_no_saved_chat_is_refused(
    tmp_path: Path, content: str, problem: str
) -> None:
    (tmp_path / "chat.json").write_text(content)
    with pytest.raises(InvalidInputError) as refused:
        read_conversation(tmp_path / "chat.json", AppSettings(app_id="a"))
    assert f"is not a saved chat: {problem}" in str(refused.value).replace(
        "messages[0].files", "files"
    )
    assert "Pass a JSON file that /save of a chat has written" in str(refused.value)
