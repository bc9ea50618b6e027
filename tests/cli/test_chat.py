"""`chat`, driven in a pseudo-terminal as a person drives it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command import BAILIAN, bailian, environment
from support.images import PNG, data_url

from bailian_apps.emulator import Call, Emulator, Failure

if sys.platform == "win32":
    pytest.skip("no pseudo-terminals", allow_module_level=True)
import pexpect

PROMPT = "\n> "


def talk(call: Call) -> Any:
    if call.prompt == "永远":
        return endless(call)
    if call.prompt == "fail":
        return Failure(status=500, code="AppProcessFailed", message="node \x1b[2J broke")
    return f"第{len(call.turns) + 1}轮：{call.prompt}"


def endless(call: Call) -> Iterator[dict[str, Any]]:
    while True:
        yield {"output": {"text": "字 ", "finish_reason": "null", "session_id": call.session_id}}
        if call.disconnected.wait(0.02):
            return


@pytest.fixture
def cloud() -> Iterator[Emulator]:
    with Emulator(apps={"talk": talk}, api_key="sk-mine") as running:
        yield running


def chat(cloud: Emulator, folder: Path, *options: str) -> pexpect.spawn[str]:
    return pexpect.spawn(
        BAILIAN,
        ["chat", "talk", "--base-url", cloud.base_url, *options],
        env=environment(TERM="xterm-256color", LANG="C.UTF-8"),
        cwd=str(folder),
        dimensions=(30, 80),
        encoding="utf-8",
        echo=False,
        timeout=120,
    )


def leave_with_ctrl_c(screen: pexpect.spawn[str]) -> None:
    """Press Ctrl-C at the prompt, again if need be.

    Python does not notice a signal in the moment before `input` starts to wait.
    """
    for _ in range(20):
        screen.sendintr()
        if screen.expect([pexpect.EOF, pexpect.TIMEOUT], timeout=6) == 0:
            return
    raise AssertionError("Ctrl-C did not end the chat")


def drawn(screen: pexpect.spawn[str]) -> str:
    """Text drawn before the last match, without escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", str(screen.before))


def test_three_turns_in_one_session_then_another_and_a_stopped_answer(
    cloud: Emulator, tmp_path: Path
) -> None:
    screen = chat(cloud, tmp_path)
    screen.expect("App talk. /help lists the commands.")
    for number, text in enumerate(("你好", "继续", "再见"), 1):
        screen.expect("> ")
        screen.sendline(text)
        screen.expect_exact(f"第{number}轮：{text}")
    screen.expect(PROMPT)
    (session,) = cloud.sessions.values()
    assert [turn.user for turn in session.turns] == ["你好", "继续", "再见"]
    assert [request.messages for request in cloud.requests] == [[], [], []]

    screen.sendline("/save chat.json")
    screen.expect("Saved 6 messages in ")
    screen.expect(PROMPT)
    saved = json.loads((tmp_path / "chat.json").read_text(encoding="utf-8"))
    assert saved["app_id"] == "talk"
    assert [message["role"] for message in saved["messages"]] == ["user", "assistant"] * 3
    assert saved["messages"][5] == {
        "role": "assistant",
        "content": "第3轮：再见",
        "session_id": session.id,
    }
    screen.sendline("/save chat.md")
    screen.expect("Saved 6 messages in ")
    screen.expect(PROMPT)
    assert "**You**\n\n你好\n" in (tmp_path / "chat.md").read_text(encoding="utf-8")

    screen.sendline("/new")
    screen.expect("A new conversation.")
    screen.expect(PROMPT)
    screen.sendline("你是谁")
    screen.expect_exact("第1轮：你是谁")
    screen.expect(PROMPT)
    assert len(cloud.sessions) == 2

    screen.sendline("永远")
    screen.expect_exact("字 字 字")
    screen.sendintr()
    screen.expect("stopped")
    screen.expect(PROMPT)
    assert cloud.requests[4].disconnected.wait(50)
    screen.sendline("还在吗")
    screen.expect_exact("还在吗")
    screen.expect(PROMPT)
    # The stopped answer is part of the history, which is sent whole from now on.
    sent = cloud.requests[5].messages
    assert [message["role"] for message in sent] == ["user", "assistant"] * 2 + ["user"]
    assert sent[3]["content"].startswith("字 字 字")

    screen.sendeof()
    screen.expect(pexpect.EOF)
    screen.close()
    assert screen.exitstatus == 0


def test_after_a_forgotten_session_the_whole_history_is_sent(
    cloud: Emulator, tmp_path: Path
) -> None:
    screen = chat(cloud, tmp_path)
    for text in ("一", "二"):
        screen.expect("> ")
        screen.sendline(text)
        screen.expect_exact(f"：{text}")
        screen.expect("session ")
        cloud.forget()
    screen.expect("The app answered without the earlier conversation")
    assert "forgotten" not in drawn(screen)
    screen.expect(PROMPT)
    screen.sendline("三")
    screen.expect_exact("三")
    screen.expect(PROMPT)
    assert [message["content"] for message in cloud.requests[2].messages][::2] == ["一", "二", "三"]
    leave_with_ctrl_c(screen)
    screen.close()
    assert screen.exitstatus == 0


def test_the_chat_continues_after_a_failure(cloud: Emulator, tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text("keep me")
    screen = chat(cloud, tmp_path, "--no-steps")
    screen.expect("> ")
    screen.sendline("fail")
    screen.expect("AppFailedError")
    screen.expect(PROMPT)
    assert "\x1b[2J" not in str(screen.before)  # an app cannot clear the screen
    screen.sendline("/save mine.md")
    screen.expect("already exists")
    screen.expect(PROMPT)
    assert (tmp_path / "mine.md").read_text() == "keep me"
    screen.sendline("/save ~no-such-user/chat.md")
    screen.expect("~no-such-user/chat.md is not a valid file name")
    screen.expect(PROMPT)
    screen.sendline("/frobnicate now")
    screen.expect("Unknown command /frobnicate")
    screen.expect(PROMPT)
    screen.sendline("//etc")
    screen.expect_exact("第1轮：/etc")
    screen.expect(PROMPT)
    screen.sendline("/history")
    screen.expect(PROMPT)
    assert drawn(screen).split() == ["user:", "/etc", "assistant:", "第1轮：/etc"]
    screen.sendline("/quit")
    screen.expect(pexpect.EOF)
    screen.close()
    assert screen.exitstatus == 0


def test_a_pipe_sends_lines_and_receives_only_answers(cloud: Emulator) -> None:
    done = bailian("chat", "talk", "--base-url", cloud.base_url, "--no-steps", stdin="一\n\n二\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "第1轮：一\n第2轮：二\n", "")
    assert len(cloud.sessions) == 1


def test_an_image_is_part_of_the_first_message_and_of_its_history(
    cloud: Emulator, tmp_path: Path
) -> None:
    (tmp_path / "lake.png").write_bytes(PNG)
    options = ("--image", "lake.png", "--file", "https://example.com/a.pdf")
    with_history = ("--set", "history_mode=messages")
    screen = chat(cloud, tmp_path, *options, *with_history)
    for _ in range(2):
        screen.expect("> ")
        screen.sendline("hi")
        screen.expect_exact("第1轮：hi")
    screen.expect(PROMPT)
    screen.sendeof()
    screen.expect(pexpect.EOF)
    for request in cloud.requests:
        assert request.input["image_list"] == [data_url(PNG)]
        assert request.input["file_list"] == ["https://example.com/a.pdf"]
    assert [len(request.messages) for request in cloud.requests] == [1, 3]


def test_a_chat_does_not_begin_with_an_image_that_cannot_be_sent(cloud: Emulator) -> None:
    done = bailian("chat", "talk", "--base-url", cloud.base_url, "--image", "no-such.png")
    assert done.returncode == 2
    assert "--image no-such.png is the path of a file that does not exist" in done.stderr
    data = ("--image", "DATA:image/png;base64,s3cret")
    done = bailian("chat", "talk", "--base-url", cloud.base_url, *data)
    assert "--image is not valid base64" in done.stderr
