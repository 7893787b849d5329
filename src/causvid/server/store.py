"""The jobs of a server in SQLite: what was asked for, and what came of it. They outlive the process."""

import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

Status = Literal["queued", "in_progress", "completed", "failed"]
Order = Literal["asc", "desc"]
VERSION = 2
SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, request TEXT NOT NULL,
    prompt TEXT NOT NULL, model TEXT NOT NULL, size TEXT NOT NULL, seconds TEXT NOT NULL, origin TEXT,
    created_at INTEGER NOT NULL, completed_at INTEGER, expires_at INTEGER, error TEXT,
    owner TEXT, progress INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX jobs_by_status ON jobs (status, number);
"""
SINCE_1 = "ALTER TABLE jobs ADD COLUMN owner TEXT; ALTER TABLE jobs ADD COLUMN progress INTEGER NOT NULL DEFAULT 0"
PATIENCE = 10.0
"""Seconds to wait for another server that writes into a shared table."""


def new_identifier() -> str:
    """Return an identifier that cannot be guessed."""
    return f"video_{secrets.token_urlsafe(18)}"


@dataclass(frozen=True)
class Job:
    """A video that was asked for. request: how to make it, as JSON. origin: the video it was made from.

    Times are Unix seconds; expires_at is set once it has ended. error: one line, of a job that failed. owner: the
    server that makes it, or made it. progress: how much of it is done, in percent.
    """

    id: str
    status: Status
    request: str
    prompt: str
    model: str
    size: str
    seconds: str
    origin: str | None = None
    created_at: int = field(default_factory=lambda: int(time.time()))
    completed_at: int | None = None
    expires_at: int | None = None
    error: str | None = None
    owner: str | None = None
    progress: int = 0


COLUMNS = ", ".join(column.name for column in fields(Job))


class Store:
    """The table of jobs. Any thread may use it, and one process at a time unless it is shared."""

    def __init__(self, file: Path, *, shared: bool = False) -> None:
        """Open the table, or make it. shared: several servers use it at once.

        Raises:
            OSError: if another server has it, or the file is damaged. ValueError: if it is of another version.
        """
        self._file, self._lock = file, threading.Lock()
        file.parent.mkdir(parents=True, exist_ok=True)
        patience = PATIENCE if shared else 1.0
        self._connection = sqlite3.connect(file, timeout=patience, isolation_level=None, check_same_thread=False)
        try:
            with self._naming_file():
                self._open(shared)
        except Exception:
            self._connection.close()
            raise

    def _open(self, shared: bool) -> None:
        run = self._connection.execute
        if not shared:
            run("PRAGMA locking_mode = EXCLUSIVE")
        run(f"PRAGMA journal_mode = {'DELETE' if shared else 'WAL'}")  # the latter does not reach other machines
        run("BEGIN IMMEDIATE")  # takes the lock, which is kept where the table is not shared
        (version,) = run("PRAGMA user_version").fetchone()
        if version not in range(VERSION + 1):
            raise ValueError(f"{self._file} has version {version}: expected at most {VERSION}")
        if version != VERSION:
            for statement in (SCHEMA if version == 0 else SINCE_1).split(";"):
                run(statement)
            run(f"PRAGMA user_version = {VERSION}")
        run("COMMIT")
        (found,) = run("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def add(self, job: Job) -> None:
        """Add a job behind all others."""
        marks = ", ".join("?" * len(fields(Job)))
        self._run(f"INSERT INTO jobs ({COLUMNS}) VALUES ({marks})", astuple(job))

    def get(self, identifier: str) -> Job:
        """Return a job.

        Raises:
            LookupError: if there is none.
        """
        rows = self._run(f"SELECT {COLUMNS} FROM jobs WHERE id = ?", (identifier,))
        if not rows:
            raise LookupError(f"there is no video {identifier!r}")
        return Job(*rows[0])

    def update(self, identifier: str, **changes: Any) -> bool:
        """Change fields of a job; return whether it is still there."""
        names = ", ".join(f"{name} = ?" for name in changes)
        return bool(self._run(f"UPDATE jobs SET {names} WHERE id = ? RETURNING id", (*changes.values(), identifier)))

    def remove(self, identifier: str) -> None:
        """Forget a job."""
        self._run("DELETE FROM jobs WHERE id = ?", (identifier,))

    def take(self, owner: str | None = None) -> Job | None:
        """Return the job that has waited longest, which `owner` has in progress now; None if none waits."""
        rows = self._run(
            "UPDATE jobs SET status = 'in_progress', owner = ?, progress = 0 WHERE number = "
            f"(SELECT number FROM jobs WHERE status = 'queued' ORDER BY number LIMIT 1) RETURNING {COLUMNS}",
            (owner,),
        )
        return Job(*rows[0]) if rows else None

    def owners(self) -> set[str]:
        """Return who has jobs in progress."""
        return {row[0] for row in self._run("SELECT DISTINCT owner FROM jobs WHERE status = 'in_progress'") if row[0]}

    def requeue(self, owner: str | None = None) -> None:
        """Let the jobs that an owner, or anybody, had in progress wait again, in the order they came."""
        where = "" if owner is None else " AND owner = ?"
        values = () if owner is None else (owner,)
        self._run(f"UPDATE jobs SET status = 'queued' WHERE status = 'in_progress'{where}", values)

    def count(self, status: Status) -> int:
        """Return how many jobs have a status."""
        return int(self._run("SELECT count(*) FROM jobs WHERE status = ?", (status,))[0][0])

    def page(self, *, limit: int, order: Order = "desc", after: str | None = None) -> tuple[list[Job], bool]:
        """Return jobs by age, those that follow job `after`, and whether more follow.

        Raises:
            LookupError: if there is no such job.
        """
        direction, than = ("ASC", ">") if order == "asc" else ("DESC", "<")
        where, values = "", []
        if after is not None:
            self.get(after)
            where, values = f"WHERE number {than} (SELECT number FROM jobs WHERE id = ?)", [after]
        rows = self._run(
            f"SELECT {COLUMNS} FROM jobs {where} ORDER BY number {direction} LIMIT ?", (*values, limit + 1)
        )
        return [Job(*row) for row in rows[:limit]], len(rows) > limit

    def expired(self, now: float) -> list[str]:
        """List the jobs that are to be deleted."""
        return [row[0] for row in self._run("SELECT id FROM jobs WHERE expires_at < ?", (now,))]

    def identifiers(self) -> set[str]:
        """Return the identifiers of all jobs."""
        return {row[0] for row in self._run("SELECT id FROM jobs")}

    def _run(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with self._lock, self._naming_file():
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _naming_file(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise OSError(f"{self._file} is in use: does another server run with this folder?") from None
            raise OSError(f"{self._file} cannot be used: {error}") from None
        except sqlite3.DatabaseError as error:
            raise OSError(f"{self._file} is damaged: {error}; move it away to start without jobs") from None
