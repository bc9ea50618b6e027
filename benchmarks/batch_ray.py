"""The part of `benchmarks/batch.py` that uses Ray Data: two workers, one of which is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

# Read when Ray is imported: a cluster of this machine, on the loopback interface alone.
os.environ |= {
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "240",
    "RAY_worker_niceness": "0",  # of the others that work on this machine
    "DASHSCOPE_API_KEY": "sk-benchmark",
}

import ray
import ray.data
from batch import Cloud, check, report

from bailian_apps.batch.ray_data import map_prompts, stop_coordinator

KILLED_AT = 0.5


def workers() -> list[int]:
    """The processes that map, among the descendants of this process."""
    parents: dict[int, int] = {}
    mapping: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
            if b"MapWorker" in (folder / "cmdline").read_bytes():
                mapping.append(int(folder.name))
        except OSError:
            continue

    def ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and ours(parents[pid]))

    return [pid for pid in mapping if ours(pid)]


def run(cloud: Cloud, prompts: list[str], journal: Path, concurrency: int, **more: Any) -> Any:
    """Ask all prompts; returns the rows by their ids and what it took."""
    before = time.monotonic()
    rows = ray.data.from_items([{"id": each, "prompt": each} for each in prompts])
    settings = {"app_id": "app", "base_url": cloud.emulator.base_url, **more}
    done = map_prompts(
        rows, settings, journal=journal, workers=2, concurrency=concurrency // 2, batch_size=200
    )
    results = {row["id"]: row for row in done.take_all()}
    stop_coordinator(settings)
    return results, {"wall_s": time.monotonic() - before}


def killed_worker(size: int, concurrency: int, folder: Path) -> None:
    """The whole measurement."""
    prompts = [f"p{number}" for number in range(size)]
    cloud = Cloud()
    with cloud.running():
        ray.init(
            num_cpus=4,
            _node_ip_address="127.0.0.1",
            include_dashboard=False,
            logging_level="warning",
            object_store_memory=200_000_000,
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        killed: list[int] = []

        def kill() -> None:
            while cloud.runs < KILLED_AT * size:
                time.sleep(0.02)
            killed.extend(workers()[:1])
            os.kill(killed[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            results, used = run(cloud, prompts, folder / "journal", concurrency)
            killer.join()
            counted = cloud.counted()
            report("Ray Data, two workers, one killed", size, [used], results, cloud)
            check(bool(killed), f"a worker was killed at {KILLED_AT:.0%}")
            check(set(results) == set(prompts), "every prompt has one result")
            check(
                max(counted.values()) == 1, "no prompt was sent twice after a request that may run"
            )
            answered = {key for key, row in results.items() if row["status"] == "answered"}
            check(all(results[key]["text"] == f"{key}." for key in answered), "answers are right")
            rest = Counter(row["status"] for row in results.values())
            check(set(rest) <= {"answered", "unknown"}, f"the rest is unknown: {dict(rest)}")

            results, used = run(
                cloud, prompts, folder / "journal", concurrency, idempotent=True, max_retries=5
            )
            again = cloud.counted() - counted
            report("then with idempotent", size, [used], results, cloud)
            check(all(row["status"] == "answered" for row in results.values()), "all are answered")
            check(not set(again) & answered, "what was answered was not asked again")
        finally:
            ray.shutdown()
