"""A batch of hundreds of prompts with faults, killed three times and continued."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/batch.py"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_batch_that_is_killed_three_times_asks_each_prompt_once() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "600"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "holds: no prompt was sent twice" in done.stdout
    assert "holds: all are answered" in done.stdout
