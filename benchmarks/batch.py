"""`python benchmarks/batch.py [N]`: N prompts with faults, in a batch that is killed three times.

The emulator answers in this process; the batch is `bailian-apps batch` in another, which is killed
with SIGKILL and started again with the same command. 2 % of the requests get HTTP 429, 503 or 500,
a dropped connection or a broken stream. The emulator counts: no prompt may be sent twice, unless
the first request was certainly refused, and none may be lost. Then the command goes on with
`--idempotent`, and every prompt has to be answered. The exit code is 1 if something does not hold.

`--ray` does the same with Ray Data: two workers, one of which is killed. `--journal` measures the
journal alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bailian_apps.emulator import Call, Emulator, ReceivedRequest

FAULTS = (
    "throttled_retry_now",
    "http_503_retry_now",
    "http_500",
    "close_before_headers",
    "reset_between_frames",
)
"""One in five of the faults each."""

REFUSED = FAULTS[:2]
"""After these the app certainly did not run, so the request is sent again."""

FRAMES = 4
SHARE = 0.02
KILLED_AT = (0.25, 0.5, 0.75)
"""Which shares of the prompts are answered when the batch is killed."""


class Cloud:
    """The emulator, and which requests it got for each prompt."""

    def __init__(self) -> None:
        """Start without requests."""
        self.runs = 0
        self.sent: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.emulator = Emulator(apps={"app": self.answer})
        self._done = threading.Event()
        self._counting = threading.Thread(target=self._count)

    async def answer(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        """Answer in a few frames, 5 ms apart."""
        for number in range(FRAMES):
            await asyncio.sleep(0.005)
            end = "stop" if number == FRAMES - 1 else "null"
            text = f"{call.prompt}." if end == "stop" else ""
            yield {
                "output": {"text": text, "finish_reason": end, "session_id": call.session_id},
                "usage": {"models": [{"model_id": "m", "input_tokens": 10, "output_tokens": 5}]},
            }
        self.runs += 1

    def _count(self) -> None:
        """Move the requests from the emulator, which keeps only the newest."""
        requests: list[ReceivedRequest] = self.emulator.requests
        while not self._done.wait(0.2) or requests:
            taken = requests[:1000]
            del requests[: len(taken)]
            for request in taken:
                self.sent[request.prompt or ""] += 1
                self.refused[request.prompt or ""] += request.fault in REFUSED
                self.faults[request.fault or "none"] += 1

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve with faults; yields the address."""
        with self.emulator:
            for number, fault in enumerate(FAULTS):
                self.emulator.fail(fault, share=SHARE / len(FAULTS), seed=number)
            self._counting.start()
            try:
                yield self.emulator.base_url
            finally:
                self._done.set()
                self._counting.join()

    def counted(self) -> Counter[str]:
        """How often each prompt was sent, without requests that were refused."""
        time.sleep(0.5)
        return self.sent - self.refused


def environment(base_url: str) -> dict[str, str]:
    """The environment of a batch."""
    return os.environ | {
        "BAILIAN_APP_ID": "app",
        "DASHSCOPE_API_KEY": "sk-benchmark",
        "DASHSCOPE_HTTP_BASE_URL": base_url,
    }


def run_until(command: list[str], base_url: str, killed: Callable[[], bool]) -> dict[str, float]:
    """Run a command, kill it when `killed` says so, and return what it used."""
    before = time.monotonic()
    with subprocess.Popen(command, env=environment(base_url)) as process:
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                break
            if killed():
                process.send_signal(signal.SIGKILL)
            time.sleep(0.02)
    return {
        "exit_code": process.returncode,
        "wall_s": time.monotonic() - before,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "rss_mb": usage.ru_maxrss / 1024,
    }


def lines_of(path: Path) -> dict[str, dict[str, Any]]:
    """The results in a file by their ids."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len({line["id"] for line in lines}) == len(lines)
    return {line["id"]: line for line in lines}


def check(holds: bool, what: str) -> None:
    """Print what holds, or end with what does not."""
    print(("holds: " if holds else "DOES NOT HOLD: ") + what, flush=True)
    if not holds:
        sys.exit(1)


def killed_batch(size: int, concurrency: int, folder: Path) -> None:
    """The whole measurement on one machine."""
    source, target = folder / "in.jsonl", folder / "out.jsonl"
    prompts = [f"p{number}" for number in range(size)]
    source.write_text("".join(json.dumps({"id": p, "prompt": p}) + "\n" for p in prompts))
    cloud = Cloud()
    command = [str(Path(sys.executable).with_name("bailian-apps")), "batch"]
    command += [str(source), str(target), "--concurrency", str(concurrency), "--quiet"]
    with cloud.running() as base_url:
        used: list[dict[str, float]] = []
        for share in KILLED_AT:
            used.append(run_until(command, base_url, lambda at=share: cloud.runs >= at * size))
            check(used[-1]["exit_code"] == -signal.SIGKILL, f"killed at {share:.0%}")
            check(not target.exists(), "a killed batch leaves no half file")
        used.append(run_until(command, base_url, lambda: False))
        results = lines_of(target)
        counted = cloud.counted()
        report("one machine", size, used, results, cloud)
        check(set(results) == set(prompts), "every prompt has one result")
        check(max(counted.values()) == 1, "no prompt was sent twice after a request that may run")
        answered = {key for key, line in results.items() if line["status"] == "answered"}
        check(all(results[key]["text"] == f"{key}." for key in answered), "answers are right")
        check(all(counted[key] == 1 for key in answered), "every answer is of the one request")
        rest = Counter(line["status"] for line in results.values())
        check(set(rest) <= {"answered", "unknown"}, f"the rest is unknown: {dict(rest)}")

        used = [run_until([*command, "--idempotent"], base_url, lambda: False)]
        results = lines_of(target)
        again = cloud.counted() - counted
        report("then with --idempotent", size, used, results, cloud)
        check(all(line["status"] == "answered" for line in results.values()), "all are answered")
        check(not set(again) & answered, "what was answered was not asked again")


def report(
    title: str,
    size: int,
    used: list[dict[str, float]],
    results: dict[str, dict[str, Any]],
    cloud: Cloud,
) -> None:
    """Print the figures of a run as lines of a Markdown table."""
    wall_s = sum(each["wall_s"] for each in used)
    statuses = Counter(line["status"] for line in results.values())
    print(f"\n| {title} | |\n|---|---:|")
    rows = {
        "prompts": size,
        "wall s": f"{wall_s:,.1f}",
        "prompts a second": f"{size / wall_s:,.0f}",
        **_of_the_process(size, used),
        **dict(sorted(statuses.items())),
        "requests": sum(cloud.sent.values()),
        **{f"fault {name}": count for name, count in sorted(cloud.faults.items())},
    }
    for name, value in rows.items():
        print(f"| {name} | {value} |")
    print(flush=True)


def _of_the_process(size: int, used: list[dict[str, float]]) -> dict[str, str]:
    if "cpu_s" not in used[0]:
        return {}
    cpu_s = sum(each["cpu_s"] for each in used)
    return {
        "CPU s of the batch": f"{cpu_s:,.1f}",
        "CPU ms a prompt": f"{cpu_s / size * 1e3:.2f}",
        "largest RSS, MB": f"{max(each['rss_mb'] for each in used):,.0f}",
    }


def journal_alone(size: int, concurrency: int, folder: Path) -> None:
    """Record prompts as a batch does, with so many in flight, and no requests."""
    from bailian_apps import AppResult
    from bailian_apps.batch.journal import Journal
    from bailian_apps.batch.values import BatchResult, Prompt

    journal = Journal(folder / "journal", {})
    prompts = [Prompt.of(f"p{number}", number) for number in range(1, size + 1)]
    answer = AppResult(text="x" * 500, session_id="s" * 32, request_id="r" * 36)
    cpu, before = time.process_time(), time.perf_counter()
    for at in range(0, size, concurrency):
        some = prompts[at : at + concurrency]
        for each in some:
            journal.claim(each).result()
        for started in [journal.start(each) for each in some]:
            started.result()
        results = [
            BatchResult(id=each.id, position=each.position, status="answered", result=answer)
            for each in some
        ]
        for ended in [journal.finish(*pair) for pair in zip(some, results, strict=True)]:
            ended.result()
    wall_s, cpu_s = time.perf_counter() - before, time.process_time() - cpu
    journal.close()
    print(f"| journal alone, {concurrency} in flight | |\n|---|---:|")
    print(f"| prompts a second | {size / wall_s:,.0f} |")
    print(f"| CPU us a prompt | {cpu_s / size * 1e6:,.0f} |")
    print(f"| bytes a prompt | {(folder / 'journal').stat().st_size / size:,.0f} |")


def main() -> None:
    """Run the measurement that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", nargs="?", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--journal", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.ray:
            import batch_ray

            batch_ray.killed_worker(arguments.size, arguments.concurrency, Path(folder))
        elif arguments.journal:
            journal_alone(arguments.size, arguments.concurrency, Path(folder))
        else:
            killed_batch(arguments.size, arguments.concurrency, Path(folder))


if __name__ == "__main__":
    main()
