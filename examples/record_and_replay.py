"""Record an app once, then call the recording as often as you like: no key, the same answer.

    pip install "bailian-apps[emulator]"
    python examples/record_and_replay.py

It prints the name of the recording, and the answer that is replayed from it.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: any app will do.
Otherwise it starts the emulator with a travel workflow, and records that.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from bailian_apps import BailianApp
from bailian_apps.emulator import RECORDINGS, Emulator, Recorder, load_apps

QUESTION = "Recommend dishes of Hangzhou."


@contextmanager
def the_cloud() -> Iterator[dict[str, str]]:
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        base_url = os.environ.get("DASHSCOPE_HTTP_BASE_URL")
        yield {"upstream": base_url} if base_url else {}
    else:
        os.environ |= {"DASHSCOPE_API_KEY": "any", "BAILIAN_APP_ID": "travel"}
        with Emulator(apps={"travel": RECORDINGS / "travel-workflow.jsonl"}) as cloud:
            yield {"upstream": cloud.base_url}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        with the_cloud() as where, Recorder(folder, **where) as proxy:
            recorded = BailianApp(base_url=proxy.base_url).invoke(QUESTION)
        print("recorded:", proxy.recordings[0].name)

        with Emulator(apps=load_apps(folder)) as local:
            replayed = BailianApp(base_url=local.base_url, api_key="no key").invoke(QUESTION)
        print("replayed:", replayed.text, f"({len(replayed.steps)} steps)")
        assert (replayed.text, replayed.steps) == (recorded.text, recorded.steps)


if __name__ == "__main__":
    main()
