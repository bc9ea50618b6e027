"""Many prompts for one app, with a journal: the second run goes on where the first one ended.

    pip install "bailian-apps[batch,emulator]"
    python examples/batch_of_prompts.py

It prints the answers of two runs and where each came from; the first run ends because of its
budget.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: any app will do;
it is asked six times. Otherwise it starts the emulator with an app that refuses two of the
requests.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bailian_apps import BailianApp
from bailian_apps.batch import Budget, run_batch

CITIES = ("Hangzhou", "Suzhou", "Nanjing", "Xi'an", "Chengdu", "Guilin")


@contextmanager
def connect() -> Iterator[BailianApp]:
    """Yield the app in the cloud, or one in the emulator."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        yield BailianApp()
        return
    from bailian_apps.emulator import Agent, Emulator

    with Emulator(apps={"guide": Agent(text="What to see: {prompt}")}) as cloud:
        cloud.fail("throttled_retry_now", nth=2)  # it is sent again, and delays the others
        cloud.fail("http_400", nth=4)
        yield BailianApp(app_id="guide", api_key="any", base_url=cloud.base_url)


def main() -> None:
    prompts = [{"id": city, "prompt": f"One sight of {city}, in one line."} for city in CITIES]
    with connect() as app, tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "sights.journal"
        for number, budget in enumerate((Budget(calls=4), None), 1):
            print(f"run {number}")
            with run_batch(app, prompts, journal=journal, concurrency=2, budget=budget) as batch:
                for result in batch:
                    source = " (journal)" if result.from_journal else ""
                    why = result.error.type if result.error else ""
                    print(f"  {result.id}: {result.status}{source} {result.text or why}".rstrip())
            print(f"  {batch.counts.calls} requests, {batch.counts.tokens} tokens")


if __name__ == "__main__":
    main()
