"""The queue's memory: one SQLite file, in which each change is one transaction.

Where the process is killed, a change is there whole or not at all; what the next process reads is what it goes on with.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from luthier.cluster.queue.ticket import Ticket
from luthier.cluster.submission import Submission
from luthier.errors import ConfigError
from luthier.paths import writable_dir

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE tickets (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    ticket TEXT NOT NULL,
    submission TEXT NOT NULL
)
"""


class Store:
    """Tickets and what they submit.

    All tickets are kept in memory too, as they were last committed.

    Args:
        directory: Where the file lies; made if it is not there, readable by its owner alone.

    Raises:
        ConfigError: Another process uses the directory, or another version of luthier made the file.
        OutputError: It can't be written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = writable_dir(directory, "--directory")
        self.directory.chmod(0o700)
        self._process_lock = FileLock(self.directory / "queue.lock")
        try:
            self._process_lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(
                f"--directory: another queue works in {str(self.directory)!r}; end that one, or name another directory."
            ) from error
        self._lock = threading.RLock()
        try:
            self._open(self.directory / "queue.sqlite")
            rows = self._connection.execute("SELECT ticket FROM tickets ORDER BY number").fetchall()
        except sqlite3.DatabaseError as error:
            raise ConfigError(
                f"--directory: {str(self.directory / 'queue.sqlite')!r} is not a queue's file ({error}); restore it, or name "
                "another directory."
            ) from error
        self._tickets = {ticket.id: ticket for ticket in (Ticket.model_validate_json(text) for (text,) in rows)}

    def _open(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        path.chmod(0o600)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        with self._transaction():
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._connection.execute(_SCHEMA)
                self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        if version not in (0, SCHEMA_VERSION):
            raise ConfigError(
                f"--directory: {str(path)!r} has version {version} of the queue's file, this luthier reads {SCHEMA_VERSION}; "
                "use the luthier that made it, or another directory."
            )

    def close(self) -> None:
        """Let another process have the directory."""
        with self._lock:
            self._connection.close()
            self._process_lock.release()

    def all(self) -> tuple[Ticket, ...]:
        """Every ticket, in the order in which they came."""
        with self._lock:
            return tuple(self._tickets.values())

    def get(self, ticket_id: str) -> Ticket | None:
        """One ticket; None: there is none of that id."""
        with self._lock:
            return self._tickets.get(ticket_id)

    def names(self) -> set[str]:
        """Ids that are taken, by tickets or their jobs."""
        with self._lock:
            jobs = {attempt.job_id for ticket in self._tickets.values() for attempt in ticket.attempts}
            return jobs | self._tickets.keys()

    def submission(self, ticket_id: str) -> Submission:
        """What a ticket submits."""
        with self._lock:
            query = "SELECT submission FROM tickets WHERE id = ?"
            return Submission.model_validate_json(self._connection.execute(query, (ticket_id,)).fetchone()[0])

    def add(self, ticket: Ticket, submission: Submission) -> Ticket:
        """Keep a new ticket.

        Returns:
            The ticket with its number.
        """
        with self._lock:
            with self._transaction():
                insert = "INSERT INTO tickets (id, ticket, submission) VALUES (?, '', ?)"
                number = self._connection.execute(insert, (ticket.id, submission.model_dump_json())).lastrowid
                ticket = ticket.model_copy(update={"number": number})
                self._write(ticket)
            self._tickets[ticket.id] = ticket
            return ticket

    def change(self, ticket_id: str, changed: Callable[[Ticket], Ticket]) -> Ticket:
        """Replace a ticket by what a function makes of it as it stands."""
        with self._lock:
            before = self._tickets[ticket_id]
            ticket = changed(before)
            if ticket != before:
                with self._transaction():
                    self._write(ticket)
                self._tickets[ticket_id] = ticket
            return ticket

    def explain(self, reasons: Mapping[str, str]) -> None:
        """Write down why tickets wait, all at once."""
        with self._lock:
            told = {
                ticket_id: self._tickets[ticket_id].model_copy(update={"reason": reason})
                for ticket_id, reason in reasons.items()
                if self._tickets[ticket_id].reason != reason
            }
            if told:
                with self._transaction():
                    for ticket in told.values():
                        self._write(ticket)
                self._tickets |= told

    def forget(self, is_old: Callable[[Ticket], bool]) -> None:
        """Drop tickets that are over and old."""
        with self._lock:
            old = [ticket.id for ticket in self._tickets.values() if ticket.is_over and is_old(ticket)]
            if not old:
                return
            with self._transaction():
                self._connection.executemany("DELETE FROM tickets WHERE id = ?", [(one,) for one in old])
            for ticket_id in old:
                del self._tickets[ticket_id]

    @property
    def lock(self) -> threading.RLock:
        """Held while a decision depends on what the store holds."""
        return self._lock

    def _write(self, ticket: Ticket) -> None:
        update = "UPDATE tickets SET ticket = ? WHERE id = ?"
        self._connection.execute(update, (ticket.model_dump_json(), ticket.id))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")
