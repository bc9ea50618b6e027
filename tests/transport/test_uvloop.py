"""The tests on which async calls depend most, again on uvloop's event loops.

Left out is what uvloop cannot do: it never frees a loop that ran and was dropped unclosed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process
pytest.importorskip("uvloop", reason="only .venv has it, and Windows has none")

TESTS = Path(__file__).parents[1]

AGAIN = {
    "idle_connections": "async_calls or ainvoke or astream or busy",
    "loop_ends": "not dropped- and not only_python_complains",
    "closing": "(async or cancelling or aclose or event_loop or loop_that_ended) "
    "and not by_cancelling and not thousand",
    "timeouts": "own_limit and (ainvoke or astream)",
}


@pytest.mark.parametrize("name", AGAIN)
def test_async_calls_behave_the_same_on_uvloop(name: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "support.uvloop_policy", "-p", "no:xdist"),
            *("-q", "-k", AGAIN[name], TESTS / "transport" / f"test_{name}.py"),
        ],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
