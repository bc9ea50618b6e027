"""Many prompts for one app on a Ray cluster, here one of this machine with two workers.

    pip install "bailian-apps[ray,emulator]"
    python examples/ray_batch.py

It prints the status and the answer of each prompt. The workers read the key from their environment.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: any app will do;
it is asked six times. Otherwise it starts the emulator with an app that repeats the question.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Read when Ray is imported: the cluster is on the loopback interface alone.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import ray.data

from bailian_apps.batch.ray_data import map_prompts

CITIES = ("Hangzhou", "Suzhou", "Nanjing", "Xi'an", "Chengdu", "Guilin")


@contextmanager
def connect() -> Iterator[dict[str, Any]]:
    """Yield the settings of the app in the cloud, or of one in the emulator."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        yield {"app_id": os.environ["BAILIAN_APP_ID"]}
        return
    from bailian_apps.emulator import Agent, Emulator

    os.environ["DASHSCOPE_API_KEY"] = "any"  # the workers inherit it
    with Emulator(apps={"guide": Agent(text="What to see: {prompt}")}) as cloud:
        yield {"app_id": "guide", "base_url": cloud.base_url}


def main() -> None:
    with connect() as settings, tempfile.TemporaryDirectory() as folder:
        ray.init(_node_ip_address="127.0.0.1", include_dashboard=False, num_cpus=3)
        try:
            rows = [{"id": city, "prompt": f"One sight of {city}."} for city in CITIES]
            results = map_prompts(
                ray.data.from_items(rows),
                settings,
                journal=Path(folder) / "sights.journal",
                workers=2,
                concurrency=4,
                requests_per_minute=600,
            )
            for row in sorted(results.take_all(), key=lambda row: row["id"]):
                print(f"{row['id']}: {row['status']}: {row['text']}")
        finally:
            ray.shutdown()


if __name__ == "__main__":
    main()
