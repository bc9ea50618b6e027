"""Runs that outlive their caller: submitted to the Responses API for apps, and asked for by id.

Submitting may run the app, so it is never repeated unless it certainly did not start one, or the
app is `idempotent`. Everything else (asking, cancelling, deleting) is repeated after failures that
may pass.
"""

from bailian_apps.background.run import BackgroundRun
from bailian_apps.background.submission import submission_mark

__all__ = ["BackgroundRun", "submission_mark"]
