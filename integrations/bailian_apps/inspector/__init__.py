"""What a run looks like: one HTML page, or an SVG image. No framework and no network.

`render` makes the page of anything that holds a run, `to_svg` its waterfall alone, `render_diff`
the page of two runs and what differs between them, and `render_frames` the page of an answer's
frames with the times at which they came. A page is one file that loads nothing: data, style and
script are in it, and its content security policy forbids the rest. What an app has said is text in
it, never markup. Secrets are masked by `core.redaction`.
"""

from __future__ import annotations

from bailian_apps.inspector.diff import compare
from bailian_apps.inspector.page import notebook_page, page
from bailian_apps.inspector.recordings import run_of_frames
from bailian_apps.inspector.sources import Source, runs_of
from bailian_apps.inspector.svg import waterfall
from bailian_apps.inspector.view import JsonObject, TimedFrames, view_of

__all__ = ["notebook_html", "render", "render_diff", "render_frames", "to_svg"]


def render(obj: Source, *, title: str | None = None) -> str:
    """Return the picture of a run as an HTML page.

    Args:
        obj: An `AppResult`; a `BailianError`, whose `partial` is shown; a LangChain `AIMessage`, a
            `ToolMessage` of our tool, its artifact, a list of messages, or an agent's state with
            `messages`; a LlamaIndex response; the path of a recording, or of a folder of them.
        title: The page's title; by default it names the run.

    Returns:
        The page. Several runs (a state, a folder) are below each other.

    Raises:
        TypeError: `obj` holds no run.
        ValueError: A recording cannot be read; the message names the file and the line.
        OSError: A file cannot be read.
    """
    return page([view_of(run) for run in runs_of(obj)], title=title)


def render_diff(a: Source, b: Source, *, title: str | None = None) -> str:
    """Return the comparison of two runs as an HTML page.

    It has the totals, the steps in pairs, and the texts with the words that differ; below are both
    runs. Steps are paired by id and name, then by name; a node that has another name, by its id.

    Args:
        a: The first run; as for `render`. Of several runs, the last is compared.
        b: The second run.
        title: The page's title; by default it names both runs.

    Raises:
        TypeError: One of them holds no run.
        ValueError: A recording cannot be read.
        OSError: A file cannot be read.
    """
    views = [view_of(runs_of(each)[-1]) for each in (a, b)]
    if title is None:
        title = " ↔ ".join(dict.fromkeys(view.title for view in views))
    return page(views, title=title, comparison=compare(*views))


def to_svg(obj: Source, *, title: str | None = None) -> str:
    """Return the waterfall of a run as an SVG image; of several runs, that of the last.

    Args:
        obj: As for `render`.
        title: What stands above the steps; by default it names the run.

    Raises:
        TypeError: `obj` holds no run.
        ValueError: A recording cannot be read.
        OSError: A file cannot be read.
    """
    return waterfall(view_of(runs_of(obj)[-1]), title=title)


def render_frames(
    frames: TimedFrames, *, request: JsonObject | None = None, title: str | None = None
) -> str:
    """Return the picture of one exchange as an HTML page.

    Args:
        frames: The answer's frames in order, each with the milliseconds between the request and its
            arrival. A frame is the JSON object as on the wire; an error is one, too (`code`,
            `message`, `request_id`).
        request: The request: its body (`input`, `parameters`), or an object with the `body` and the
            `app_id`. Its secrets are masked.
        title: The page's title; by default it names the run.
    """
    return page([view_of(run_of_frames(frames, request=request))], title=title)


def notebook_html(obj: Source) -> str:
    """Return the picture of a run for the output of a notebook's cell: the page in a frame."""
    views = [view_of(run) for run in runs_of(obj)]
    return notebook_page(views)
