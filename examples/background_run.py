"""A run that goes on whatever becomes of this process, and is picked up by its id.

    pip install "bailian-apps[emulator,background]"
    python examples/background_run.py

It prints the status of the run after it was submitted, and its answer.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: any app will do.
Otherwise it starts the emulator with an app whose run is queued for a minute of its clock.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bailian_apps import BailianApp


@contextmanager
def connect() -> Iterator[tuple[BailianApp, Callable[[float], object]]]:
    """Yield the app and what lets time pass: in the cloud, or in the emulator."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        yield BailianApp(), lambda seconds: None
        return
    from bailian_apps.emulator import Emulator

    with Emulator(
        apps={"report": lambda call: f"A report: {call.prompt}"}, background_queue_s=60
    ) as cloud:
        app = BailianApp(app_id="report", api_key="any", base_url=cloud.base_url)
        yield app, cloud.advance


def main() -> None:
    """Submit a run, keep its id in a file, and wait for it as another process would."""
    with connect() as (app, let_pass), tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "run-id"
        stored.write_text(app.submit("Tea in Hangzhou").id)

        run = app.background_run(stored.read_text())
        print("status:", run.refresh().status)
        let_pass(60)
        result = run.wait(timeout_s=3600).result()
        print(result.text)
        run.delete()


if __name__ == "__main__":
    main()
