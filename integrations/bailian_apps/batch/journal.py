"""`Journal`: what became of each prompt of a batch, in an SQLite file that outlives the process.

A prompt is recorded as in flight before its request is sent, and its answer before the caller gets
it, each on the disk (`synchronous=FULL`). So a prompt that is in flight when a killed batch goes on
may have run, and any other did not run or is answered.

One thread writes. It commits what has gathered while it wrote, so the disk is asked once for many
prompts. The file is locked as long as the process lives. It holds ids, digests and answers, and
of prompts and settings only what the steps of an answer repeat, without credentials. Its mode is
0600.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from bailian_apps.batch.values import (
    KILLED,
    BatchFailure,
    BatchResult,
    BatchStatus,
    Prompt,
    dump_result,
    load_result,
    repeated_id,
)
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.language import N_

T = TypeVar("T")

_APPLICATION_ID = 0x6261746A  # "batj"
_SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE prompts (
    id TEXT PRIMARY KEY, position INTEGER NOT NULL, digest TEXT NOT NULL, run INTEGER NOT NULL,
    state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, content TEXT
);
"""
_IN_FLIGHT = "in_flight"
_OTHER_PATH = N_("Pass another path, or what the batch was started with")


@dataclass(frozen=True, slots=True)
class _Operation:
    """What the writer does; `done` is set after the commit if it is `durable`."""

    run: Callable[[sqlite3.Connection], Any]
    durable: bool
    done: Future[Any]


class Journal:
    """The journal of one batch, open for one run of it."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        identity: Mapping[str, Any],
        *,
        in_any_order: bool = False,
        wait_s: float = 0.0,
    ) -> None:
        """Open a journal, or make a new one.

        Args:
            path: The file.
            identity: What the batch is of: the app and its settings, as JSON values.
            in_any_order: Whether prompts come from several workers: in any order, and again after
                their worker died.
            wait_s: How long to wait for another process that has it open.

        Raises:
            InvalidInputError: It cannot be opened, another process has it open, or it belongs to
                another batch.
        """
        self._connection = _open(path, wait_s)
        try:
            self._run = self._begin(identity)
        except BaseException:
            self._connection.close()
            raise
        self._in_any_order = in_any_order
        self._first: tuple[str, str] | None = None
        self._operations = queue.SimpleQueue[_Operation | None]()
        self._thread = threading.Thread(target=self._write, name="batch journal", daemon=True)
        self._thread.start()

    def _begin(self, identity: Mapping[str, Any]) -> int:
        """Check whose journal it is, and return the number of this run."""
        execute = self._connection.execute
        (tables,) = execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables:
            self._connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA application_id = {_APPLICATION_ID}; COMMIT;"
            )
        about = dict(execute("SELECT name, value FROM about").fetchall())
        if "identity" in about:
            stored: dict[str, Any] = json.loads(about["identity"])
            other = [
                name
                for name in sorted({*stored, *identity})
                if stored.get(name) != identity.get(name)
            ]
            if other:
                raise InvalidInputError(
                    "journal",
                    N_("belongs to another batch: {names} differs").format(names=", ".join(other)),
                    _OTHER_PATH,
                )
        run = int(about.get("run", 0)) + 1
        execute("BEGIN")
        execute(
            "INSERT OR REPLACE INTO about VALUES ('identity', ?), ('run', ?)",
            (json.dumps(identity), str(run)),
        )
        execute("COMMIT")
        return run

    def claim(self, prompt: Prompt) -> Future[BatchResult | None]:
        """Record that the input has a prompt; return what earlier runs know of it, if anything.

        The future fails with an `InvalidInputError` if the journal is not of this input, or if the
        input has the id twice.
        """
        return self._do(lambda connection: self._claim(connection, prompt), durable=False)

    def start(self, prompt: Prompt, run_id: str | None = None) -> Future[bool]:
        """Record that the request of a prompt is about to be sent.

        Args:
            prompt: The prompt.
            run_id: The background run that is waited for; nothing is to be sent then.
        """
        if run_id is not None:
            content = json.dumps({"run_id": run_id})
            return self._set(prompt, _IN_FLIGHT, "content = ?", content)
        return self._set(prompt, _IN_FLIGHT, "attempts = attempts + 1, content = NULL")

    def finish(self, prompt: Prompt, result: BatchResult) -> Future[bool]:
        """Record what became of a prompt, so far."""
        content: str | None = None
        if result.result is not None:
            content = dump_result(result.result)
        elif result.error is not None:
            content = json.dumps(result.error.to_dict())
        values = (result.attempts, content)
        return self._set(prompt, result.status, "attempts = ?, content = ?", *values)

    def close(self) -> None:
        """Commit, and unlock the file."""
        if self._thread.is_alive():
            self._operations.put(None)
            self._thread.join()
        self._connection.close()

    def _claim(self, connection: sqlite3.Connection, prompt: Prompt) -> BatchResult | None:
        if self._first is None and not self._in_any_order:
            self._check_first(connection, prompt)
        row = connection.execute(
            "SELECT digest, run, state, attempts, content FROM prompts WHERE id = ?", (prompt.id,)
        ).fetchone()
        if row is None:
            connection.execute(
                "INSERT INTO prompts (id, position, digest, run, state) VALUES (?, ?, ?, ?, ?)",
                (prompt.id, prompt.position, prompt.digest, self._run, "not_started"),
            )
            return None
        digest, run, state, attempts, content = row
        if run == self._run and not self._in_any_order:
            raise repeated_id(prompt.id)
        if digest != prompt.digest:
            raise InvalidInputError(
                "journal",
                N_("has another prompt with the id {id!r}").format(id=prompt.id),
                _OTHER_PATH,
            )
        connection.execute(
            "UPDATE prompts SET run = ?, position = ? WHERE id = ?",
            (self._run, prompt.position, prompt.id),
        )
        return _result(prompt.id, prompt.position, state, attempts, content)

    def _check_first(self, connection: sqlite3.Connection, prompt: Prompt) -> None:
        """Refuse another input, of which no id may be known, by its first prompt."""
        self._first = (prompt.id, prompt.digest)
        query = "SELECT value FROM about WHERE name = 'first'"
        stored = connection.execute(query).fetchone()
        if stored is None:
            connection.execute("INSERT INTO about VALUES ('first', ?)", (json.dumps(self._first),))
        elif tuple(json.loads(stored[0])) != self._first:
            raise InvalidInputError("journal", "belongs to a batch of other prompts", _OTHER_PATH)

    def _set(self, prompt: Prompt, state: str, also: str = "", *values: Any) -> Future[bool]:
        # `also` is one of the constants above.
        sql = f"UPDATE prompts SET state = ?{also and ', ' + also} WHERE id = ?"  # noqa: S608
        return self._do(
            lambda connection: bool(connection.execute(sql, (state, *values, prompt.id)))
        )

    def _do(self, run: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> Future[T]:
        done: Future[T] = Future()
        done.set_running_or_notify_cancel()  # a cancelled task must not cancel what is written
        self._operations.put(_Operation(run, durable, done))
        return done

    def _write(self) -> None:
        """Carry out operations until None comes; those that gather meanwhile share a commit."""
        self._connection.execute("BEGIN")
        ends = False
        while not ends:
            gathered = [self._operations.get()]
            with contextlib.suppress(queue.Empty):
                while gathered[-1] is not None:
                    gathered.append(self._operations.get_nowait())
            ends = gathered[-1] is None
            waiting = [each for each in gathered if each is not None and self._carry_out(each)]
            if not (waiting or ends):
                continue
            try:
                self._connection.execute("COMMIT")
                self._connection.execute("BEGIN")
            except sqlite3.Error as error:
                for each in waiting:
                    each.done.set_exception(_write_error(error))
                continue
            for each in waiting:
                each.done.set_result(True)

    def _carry_out(self, operation: _Operation) -> bool:
        """Carry out an operation; return whether it waits for the commit."""
        try:
            value = operation.run(self._connection)
        except InvalidInputError as error:
            operation.done.set_exception(error)
        except sqlite3.Error as error:
            operation.done.set_exception(_write_error(error))
        except Exception as error:  # whoever waits must not wait for a thread that has ended
            operation.done.set_exception(error)
        else:
            if operation.durable:
                return True
            operation.done.set_result(value)
        return False


def read_journal(
    path: str | os.PathLike[str], *, newest_run: bool = False
) -> Iterator[BatchResult]:
    """Yield what a journal holds, in the order of the input; no batch may have it open.

    Args:
        path: The journal.
        newest_run: Whether to leave out prompts that the newest run of the batch did not read.

    Raises:
        InvalidInputError: It is not a journal, or a batch has it open.
    """
    if not Path(path).exists():
        raise InvalidInputError("journal", "does not exist")
    connection = _open(path)
    try:
        if connection.execute("PRAGMA application_id").fetchone() != (_APPLICATION_ID,):
            raise _not_a_journal()  # it is empty
        yield from (
            _result(*row)
            for row in connection.execute(
                "SELECT id, position, state, attempts, content FROM prompts "
                "WHERE NOT ? OR run = (SELECT value FROM about WHERE name = 'run') "
                "ORDER BY position",
                (newest_run,),
            )
        )
    finally:
        connection.close()


def _result(
    prompt_id: str, position: int, state: str, attempts: int, content: str | None
) -> BatchResult:
    error = result = None
    if state == _IN_FLIGHT:
        run_id = json.loads(content or "{}").get("run_id")
        state, error = "unknown", replace(KILLED, run_id=run_id)
    elif state == "answered" and content is not None:
        result = load_result(content)
    elif content is not None:
        error = BatchFailure.from_dict(json.loads(content))
    return BatchResult(
        id=prompt_id,
        position=position,
        status=cast("BatchStatus", state),
        result=result,
        error=error,
        attempts=attempts,
        from_journal=state != "not_started",
    )


def _write_error(error: sqlite3.Error) -> InvalidInputError:
    return InvalidInputError("journal", N_("cannot be written: {error}").format(error=error))


def _not_a_journal() -> InvalidInputError:
    return InvalidInputError("journal", "is not a journal", "Pass another path")


def _require_journal(connection: sqlite3.Connection) -> None:
    """Refuse another program's database before anything in it is changed."""
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if tables and application_id != _APPLICATION_ID:
        raise _not_a_journal()


def _open(path: str | os.PathLike[str], wait_s: float = 0.0) -> sqlite3.Connection:
    try:
        # One that exists is left to SQLite: to close a file drops the locks that this process has.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))  # its WAL gets this mode too
        connection = sqlite3.connect(
            path, timeout=wait_s, isolation_level=None, check_same_thread=False
        )
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidInputError(
            "journal", N_("cannot be opened: {reason}").format(reason=reason)
        ) from None
    try:
        # The lock is the process's: it ends with it, however it ends.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        _require_journal(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("COMMIT")
    except InvalidInputError:
        connection.close()
        raise
    except sqlite3.DatabaseError as error:
        connection.close()
        if "locked" in str(error):
            hint = N_("Wait for its end, or pass another path")
            raise InvalidInputError("journal", "is in use by another batch", hint) from None
        raise _not_a_journal() from None
    return connection
