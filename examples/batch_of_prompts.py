"""Many prompts for one app, with a journal: the second run goes on where the first one ended.

The first run ends because of its budget. A run that was killed goes on in the same way. With
DASHSCOPE_API_KEY and BAILIAN_APP_ID set, the batch runs on the cloud.
Run it with: python examples/batch_of_prompts.py
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
                    source = "journal" if result.from_journal else "app"
                    error = result.error and result.error.type
                    print(f"  {result.id}: {result.status} ({source}): {result.text or error}")
            print(f"  {batch.counts.calls} requests, {batch.counts.tokens} tokens")


if __name__ == "__main__":
    main()
