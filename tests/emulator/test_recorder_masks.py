"""The recorder masks the values of names that its user adds."""

from __future__ import annotations

import json
from pathlib import Path

import dashscope
import pytest

from bailian_apps import BailianApp
from bailian_apps.emulator import Emulator, Node, Recorder, Workflow, load_apps

PROMPT = "Call 13800001111"
APP = Workflow(
    nodes=[
        Node(name="look", type="API", output={"phone": "13800001111", "city": "Hangzhou"}),
        Node(name="say", output=["Call 1380", "0001111 ", "of {biz_params.user.身份证}"]),
    ]
)
BIZ_PARAMS = {"Phone": "13800001111", "user": {"身份证": "3301061990", "sex": "f"}, "vip": True}


@pytest.mark.usefixtures("requests_of_this_sdk")
@pytest.mark.parametrize("stream", [True, False])
def test_further_names_are_masked_wherever_their_values_show(
    tmp_path: Path, *, stream: bool
) -> None:
    """The app repeats them, in a node's JSON and split between deltas."""
    with (
        Emulator(apps={"app": APP}) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url, mask=["phone", "身份证"]) as proxy,
    ):
        answer = dashscope.Application.call(
            app_id="app",
            prompt=PROMPT,
            api_key="sk-mine",
            base_address=proxy.base_url,
            biz_params=BIZ_PARAMS,
            has_thoughts=True,
            stream=stream,
            incremental_output=stream,
        )
        output = list(answer)[-1].output if stream else answer.output
    assert output.text == "Call 13800001111 of 3301061990"
    (path,) = proxy.recordings
    text = path.read_text(encoding="utf-8")
    assert "0001111" not in text
    assert "3301061990" not in text
    assert "Hangzhou" in text
    request = json.loads(text.splitlines()[0])["request"]["body"]["input"]
    user = {"身份证": "***", "sex": "f"}
    assert request["biz_params"] == {"Phone": "***", "user": user, "vip": True}
    with Emulator(apps=load_apps(tmp_path)) as local:
        app = BailianApp(app_id="app", api_key="k", base_url=local.base_url)
        replayed = app.invoke(PROMPT, biz_params=BIZ_PARAMS)
    assert [step.name for step in replayed.steps] == ["开始", "look", "say", "结束"]
    assert "of ***" in replayed.text


def test_without_further_names_nothing_else_is_masked(tmp_path: Path) -> None:
    with (
        Emulator(apps={"app": APP}) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url) as proxy,
    ):
        app = BailianApp(app_id="app", api_key="sk-mine", base_url=proxy.base_url)
        app.invoke(PROMPT, biz_params=BIZ_PARAMS)
    text = proxy.recordings[0].read_text(encoding="utf-8")
    assert "***" not in text
    assert "13800001111" in text
