"""The files of `bailian-apps batch`: prompts in, results out, as JSON lines, CSV or Parquet."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import IO, Any, cast

from typing_extensions import Self

from bailian_apps.batch import BatchResult
from bailian_apps.batch.values import COLUMNS
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.language import N_

_TEXT_COLUMNS = ("id", "prompt", "session_id")
_BIZ = "biz_params."
_ROWS = 1000  # of a Parquet file that are written, or read, at once


class PromptFile:
    """The prompts of a file, which can be read more than once; `-` is standard input.

    Attributes:
        unit: What a prompt is numbered by: `"line"` or `"row"`.
    """

    def __init__(self, path: str) -> None:
        """Open a file.

        Raises:
            InvalidInputError: It cannot be opened.
        """
        self._kind = _kind(path, "IN")
        self.unit = "line" if self._kind == "jsonl" else "row"
        if self._kind == "parquet":
            _pyarrow()
        try:
            # Standard input can only be read once, and is checked before anything is sent.
            self._file: IO[bytes] = open(path, "rb") if path != "-" else tempfile.TemporaryFile()  # noqa: SIM115, PTH123
            if path == "-":
                shutil.copyfileobj(sys.stdin.buffer, self._file)
        except OSError as error:
            raise InvalidInputError(
                "IN", N_("cannot be read: {reason}").format(reason=error.strerror)
            ) from None

    def __enter__(self) -> Self:
        """Return the file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    def read(self) -> Iterator[tuple[int, Mapping[str, Any] | InvalidInputError]]:
        """Yield each prompt, or what is wrong with it, with its number, counted from 1."""
        self._file.seek(0)
        readers = {"jsonl": _json_lines, "csv": _csv_rows, "parquet": _parquet_rows}
        for number, value in readers[self._kind](self._file):
            if not isinstance(value, InvalidInputError) and value.get("id") is None:
                value = {**value, "id": number}
            yield number, value


@contextlib.contextmanager
def result_file(path: Path) -> Generator[Callable[[BatchResult], object]]:
    """Yield what writes a result. The file gets its name when it is whole, or not at all.

    Its mode is 0600.
    """
    part = path.with_name(f"{path.name}.part")
    file = os.fdopen(os.open(part, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb")
    writers = {"jsonl": _json_writer, "csv": _csv_writer, "parquet": _parquet_writer}
    with file:
        with writers[_kind(str(path), "OUT")](file) as write:
            yield write
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def check_output(path: str) -> None:
    """Refuse a path that no result file can have.

    Raises:
        InvalidInputError: Its folder does not exist, or pyarrow is missing.
    """
    if _kind(path, "OUT") == "parquet":
        _pyarrow()
    if path != "-" and not Path(path).absolute().parent.is_dir():
        raise InvalidInputError("OUT", "is in a folder that does not exist")


def json_line(result: BatchResult) -> str:
    """Return a result as a line of JSON."""
    return json.dumps(result.to_dict(), ensure_ascii=False) + "\n"


def _kind(path: str, argument: str) -> str:
    suffix = Path(path).suffix.lower()
    kinds = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
    if path == "-":
        return "jsonl"
    if suffix not in kinds:
        raise InvalidInputError(
            argument, N_("must end in one of {names}, or be -").format(names=", ".join(kinds))
        )
    return kinds[suffix]


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow  # pyright: ignore[reportMissingTypeStubs]
        from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        raise InvalidInputError(
            N_("a Parquet file"), "needs pyarrow", "Install it with: pip install pyarrow"
        ) from None
    return pyarrow, parquet


def _json_lines(file: IO[bytes]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError:
            yield number, InvalidInputError(N_("the line"), "is not UTF-8 text")
        except (ValueError, RecursionError):
            yield number, InvalidInputError(N_("the line"), "is not JSON")
        else:
            wrong = InvalidInputError(
                N_("the line"), "must be a JSON object with prompt or messages"
            )
            yield number, value if isinstance(value, dict) else wrong


def _csv_rows(file: IO[bytes]) -> Iterator[tuple[int, Any]]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    number = 0
    try:
        for row in csv.DictReader(text, strict=True):
            number += 1
            if None in row or None in row.values():
                yield (
                    number,
                    InvalidInputError(N_("the row"), "has not as many fields as the header"),
                )
                continue
            cells = {name: _cell(name, value) for name, value in row.items() if value}
            yield number, _nested(cells)
    except (UnicodeDecodeError, csv.Error) as error:
        is_text = isinstance(error, csv.Error)
        problem = (
            N_("is not CSV: {error}").format(error=error) if is_text else N_("is not UTF-8 text")
        )
        yield number + 1, InvalidInputError(N_("the row"), problem)
    finally:
        text.detach()


def _parquet_rows(file: IO[bytes]) -> Iterator[tuple[int, Any]]:
    _, parquet = _pyarrow()
    try:
        batches: Iterable[Any] = parquet.ParquetFile(file).iter_batches(_ROWS)
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            yield number, _nested({name: each for name, each in row.items() if each is not None})
    except ValueError:  # ArrowInvalid is one
        yield 1, InvalidInputError(N_("the file"), "is not a Parquet file")


def _cell(name: str, text: str) -> Any:
    """Return a field of CSV: text, or, where a setting is not text, the JSON value in it."""
    if name in _TEXT_COLUMNS or name.startswith(_BIZ):
        return text
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text)
    return text


def _nested(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with the columns `biz_params.NAME` as one object."""
    params = {name[len(_BIZ) :]: each for name, each in row.items() if name.startswith(_BIZ)}
    rest = {name: each for name, each in row.items() if not name.startswith(_BIZ)}
    if params:
        rest["biz_params"] = {**cast("dict[str, Any]", rest.get("biz_params") or {}), **params}
    return rest


@contextlib.contextmanager
def _json_writer(file: IO[bytes]) -> Generator[Callable[[BatchResult], object]]:
    yield lambda result: file.write(json_line(result).encode("utf-8", "replace"))


@contextlib.contextmanager
def _csv_writer(file: IO[bytes]) -> Generator[Callable[[BatchResult], object]]:
    text = io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="")
    writer = csv.DictWriter(text, list(COLUMNS))
    writer.writeheader()
    yield lambda result: writer.writerow(result.to_row())
    text.flush()
    text.detach()


@contextlib.contextmanager
def _parquet_writer(file: IO[bytes]) -> Generator[Callable[[BatchResult], object]]:
    pyarrow, parquet = _pyarrow()
    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in COLUMNS.items()])
    rows: list[dict[str, Any]] = []
    with parquet.ParquetWriter(file, schema) as writer:

        def write(result: BatchResult) -> None:
            rows.append(result.to_row())
            if len(rows) == _ROWS:
                flush()

        def flush() -> None:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
            rows.clear()

        yield write
        flush()
