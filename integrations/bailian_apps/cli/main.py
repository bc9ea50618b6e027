"""The entry point of `bailian-apps`: runs a command, prints its errors, sets the exit code."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from bailian_apps.cli.commands import app
from bailian_apps.cli.keys import refuse_keys
from bailian_apps.cli.shell import can_show_chinese, console, prepare_streams
from bailian_apps.cli.view import ConsoleHandler, format_error, print_note
from bailian_apps.core import errors
from bailian_apps.core.language import use_english

EXIT_CODES: dict[type[errors.BailianError], int] = {
    errors.BailianError: 1,
    errors.NoResultError: 1,  # of `runs wait`: the run was cancelled
    errors.SubmissionUnknownError: 1,
    errors.InvalidInputError: 2,
    errors.AuthenticationError: 3,
    errors.PermissionDeniedError: 4,
    errors.NotFoundError: 5,
    errors.BadRequestError: 6,
    errors.ContentBlockedError: 7,
    errors.BillingError: 8,
    errors.RateLimitError: 9,
    errors.ServiceUnavailableError: 10,
    errors.AppFailedError: 11,
    errors.ServerError: 12,
    errors.ConnectError: 13,
    errors.ConnectionLostError: 14,
    errors.RequestTimeoutError: 15,
    errors.ProtocolError: 16,
    errors.StreamInterruptedError: 17,
}
"""The exit code for each error class; a subclass that is not listed uses its parent's."""


def main() -> None:
    """Run the command line."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the parent process, as with `>&-`
            setattr(sys, name, Path(os.devnull).open("r+", encoding="utf-8"))  # noqa: SIM115
    prepare_streams()
    if not can_show_chinese():
        use_english()
    err = console(stderr=True)
    logging.getLogger("bailian_apps").addHandler(ConsoleHandler(err, logging.WARNING))
    try:
        refuse_keys(sys.argv[1:])
        app()
    except errors.BailianError as error:
        print_note(err, format_error(error), "red")
        sys.exit(exit_code(error))


def exit_code(error: errors.BailianError) -> int:
    """The exit code of a command whose call failed with `error`."""
    return next(EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)
