"""The table of stream modes."""

from __future__ import annotations

from typing import get_args

import pytest

from bailian_apps.core.modes import STREAM_MODES, FlowStreamMode, stream_mode


def test_every_mode_of_the_setting_has_a_row() -> None:
    assert set(STREAM_MODES) == set(get_args(FlowStreamMode))
    for name, mode in STREAM_MODES.items():
        assert stream_mode(name) is mode
        assert mode.name == name


@pytest.mark.parametrize("name", [None, "", "a_mode_of_tomorrow"])
def test_an_unknown_mode_leaves_everything_to_the_frames(name: str | None) -> None:
    mode = stream_mode(name)
    assert (mode.answer_channel, mode.is_workflow, mode.json_content) == (None, False, True)
