"""The command line, `bailian-apps`."""

from bailian_apps.core.language import N_, import_error

try:
    from bailian_apps.cli.main import main
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in {"rich", "tomli", "typer"}:
        raise
    raise import_error(
        N_(
            "the command line needs rich, typer and, before Python 3.11, tomli; install them with: "
            'pip install "bailian-apps[cli]"'
        )
    ) from error
except KeyboardInterrupt:  # Ctrl-C while Python still imports: `main` cannot catch it yet
    raise SystemExit(130) from None

__all__ = ["main"]
