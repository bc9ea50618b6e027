"""Batches with Ray Data, on a local cluster of two workers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pages import blocks_of

from bailian_apps import InvalidInputError
from bailian_apps.batch import read_journal
from bailian_apps.emulator import Call, Emulator

# Read when it is imported: a cluster of its own machine, on the loopback interface alone.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
ray: Any = pytest.importorskip("ray")

from bailian_apps.batch.ray_data import (  # noqa: E402
    BailianAppMapper,
    check_settings,
    map_prompts,
    start_coordinator,
    stop_coordinator,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # Ray warns of itself
]

KEY = "sk-hidden-0815"


class App:
    """An app that counts its calls, and holds them until enough are open."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.hold_after: int | None = None
        self.held = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.released = asyncio.Event()

    async def __call__(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        self.loop = asyncio.get_running_loop()
        self.sent[call.prompt or ""] += 1
        if self.hold_after is not None and self.sent.total() > self.hold_after:
            if self.sent.total() > self.hold_after + 8:  # so both workers have some
                self.held.set()
            await self.released.wait()
        yield {"output": {"text": f"re: {call.prompt}", "finish_reason": "stop"}}

    def release(self) -> None:
        """Let the calls that are held answer, from any thread."""
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self.released.set)


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def cloud(app: App) -> Iterator[Emulator]:
    with Emulator(apps={"app": app}, api_key=KEY) as running:
        yield running


@pytest.fixture(scope="module")
def _cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else it writes a token into the home folder
        patch.setenv("RAY_raylet_start_wait_time_s", "240")
        patch.setenv("DASHSCOPE_API_KEY", KEY)  # the workers inherit it
        ray.init(
            num_cpus=4,
            _node_ip_address="127.0.0.1",
            include_dashboard=False,
            object_store_memory=100_000_000,
            logging_level="warning",
        )
        try:
            yield
        finally:
            ray.shutdown()


@pytest.fixture
def cluster(_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster whose progress bars are off."""
    ray.data.DataContext.get_current().enable_progress_bars = False


def run_all(cloud: Emulator, journal: Path, prompts: list[str], **options: Any) -> dict[str, Any]:
    dataset = ray.data.from_items(
        [{"id": each, "prompt": each, "kept": n} for n, each in enumerate(prompts)],
        override_num_blocks=4,
    )
    settings = {"app_id": "app", "base_url": cloud.base_url, **options.pop("settings", {})}
    done = map_prompts(
        dataset, settings, journal=journal, workers=2, concurrency=8, batch_size=10, **options
    )
    return {row["id"]: row for row in done.take_all()}


def end_coordinator(cloud: Emulator) -> None:
    stop_coordinator({"app_id": "app", "base_url": cloud.base_url})


def workers() -> list[int]:
    """The processes of Ray's that map, among the descendants of this process."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
            pid = int(folder.name)
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            grandparent = int(
                Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1]
            )
        except OSError:
            continue
        if b"ray::" in name and b"MapWorker" in name and os.getpid() in (parent, grandparent):
            found.append(pid)
    return found


def test_each_row_gets_its_result_and_one_request(
    cloud: Emulator, app: App, cluster: None, tmp_path: Path
) -> None:
    prompts = [f"p{n}" for n in range(60)]
    cloud.fail("throttled_retry_now", nth=5)
    cloud.fail("http_400", nth=9)
    rows = run_all(cloud, tmp_path / "journal", prompts)
    assert {row["kept"] for row in rows.values()} == set(range(60))
    statuses = Counter(row["status"] for row in rows.values())
    assert statuses == {"answered": 59, "failed": 1}
    assert all(row["text"] == f"re: {key}" for key, row in rows.items() if row["text"])
    assert len(cloud.requests) == 61
    end_coordinator(cloud)
    rows = run_all(cloud, tmp_path / "journal", prompts, retry_failed=True)
    assert Counter(row["status"] for row in rows.values()) == {"answered": 60}
    assert len(cloud.requests) == 62
    end_coordinator(cloud)
    with pytest.raises(ray.exceptions.RayError, match="journal belongs to another batch"):
        run_all(cloud, tmp_path / "journal", prompts, settings={"temperature": 0.5})
    assert b"hidden" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_a_killed_worker_loses_nothing_and_asks_nothing_twice(
    cloud: Emulator, app: App, cluster: None, tmp_path: Path
) -> None:
    prompts = [f"p{n}" for n in range(80)]
    app.hold_after = 30
    killed: list[int] = []

    def kill() -> None:
        if app.held.wait(120):
            killed.extend(workers()[:1])
            os.kill(killed[0], signal.SIGKILL)
        app.release()

    killer = threading.Thread(target=kill)
    killer.start()
    rows = run_all(cloud, tmp_path / "journal", prompts)
    killer.join()
    assert killed
    assert set(rows) == set(prompts)
    assert set(app.sent.values()) == {1}
    statuses = Counter(row["status"] for row in rows.values())
    assert set(statuses) == {"answered", "unknown"}
    unknown = {key for key, row in rows.items() if row["status"] == "unknown"}
    assert len(unknown) <= 8
    end_coordinator(cloud)

    rows = run_all(cloud, tmp_path / "journal", prompts, settings={"idempotent": True})
    assert {row["status"] for row in rows.values()} == {"answered"}
    assert {key for key, count in app.sent.items() if count > 1} <= unknown
    end_coordinator(cloud)
    assert {each.status for each in read_journal(tmp_path / "journal")} == {"answered"}


def test_the_workers_share_one_limit_and_one_journal(
    cloud: Emulator, app: App, cluster: None, tmp_path: Path
) -> None:
    before = time.monotonic()
    run_all(cloud, tmp_path / "journal", [f"p{n}" for n in range(41)], requests_per_minute=1200)
    assert time.monotonic() - before >= 40 * 60 / 1200
    settings = {"app_id": "app", "base_url": cloud.base_url}
    with pytest.raises(InvalidInputError, match="must be those of the coordinator"):
        start_coordinator(settings, journal=tmp_path / "another")
    end_coordinator(cloud)


def secrets() -> dict[str, str]:
    return {"api_key": os.environ["DASHSCOPE_API_KEY"]}


def test_no_pickle_holds_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    settings = {"app_id": "app", "biz_params": {"city": "杭州"}}
    assert KEY.encode() not in ray.cloudpickle.dumps((BailianAppMapper, settings, secrets))
    check_settings(settings)
    with pytest.raises(InvalidInputError, match=r"settings\.api_key would travel in a pickle"):
        check_settings({**settings, "api_key": KEY})
    for name, value in {
        "biz_params": {"user_defined_tokens": {"a": {"user_token": KEY}}},
        "extra_headers": {"X-Tenant": KEY},
    }.items():
        with pytest.raises(InvalidInputError, match=rf"settings\.{name} has a secret"):
            check_settings({**settings, name: value})
    mapper = BailianAppMapper.__new__(BailianAppMapper)
    with pytest.raises(TypeError, match="cannot be pickled"):
        ray.cloudpickle.dumps(mapper)


EXAMPLE = Path(__file__).parents[2] / "examples/ray_batch.py"
PAGES = sorted((Path(__file__).parents[2] / "docs").glob("*/ray.md"))
START = """
import os, ray, ray.data
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
ray.init(_node_ip_address="127.0.0.1", include_dashboard=False, num_cpus=8)
"""


@pytest.mark.parametrize(
    "path", [EXAMPLE, *PAGES], ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_the_example_and_the_code_in_the_pages_run(
    cloud: Emulator, app: App, tmp_path: Path, path: Path
) -> None:
    source = path.read_text(encoding="utf-8")
    if path in PAGES:
        source = START + "\n".join(blocks_of(source, "python"))
    variables = {
        "BAILIAN_APP_ID": "app",
        "DASHSCOPE_API_KEY": KEY,
        "DASHSCOPE_HTTP_BASE_URL": cloud.base_url,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "240",
    }
    environment = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=tmp_path,
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert app.sent.total() >= 3
    assert "answered" in done.stdout
