"""The record of a search: every trial, its metrics, and what the search was asked for."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retiarii.errors import StoreError
from retiarii.mutators.choice import Decision
from retiarii.runtime.place import DATABASE, check_writable, make_database
from retiarii.runtime.rows import COLUMNS, Steps, TrialRow, dump, row_of, written
from retiarii.runtime.schema import APPLICATION_ID, MEASUREMENTS, TABLES, VERSION, State
from retiarii.runtime.trouble import foreign, translated

_MEMORY = "memory"


class Store:
    """The tables of one search; each method that writes is one transaction.

    Use `create`, `memory` or `read` to make one. Only the controller writes; any number of
    processes may read meanwhile.
    """

    def __init__(self, connection: sqlite3.Connection, where: str) -> None:
        self._db = connection
        self._where = where

    @classmethod
    def create(cls, directory: Path) -> Store:
        """Opens the store of ``directory`` for writing; makes it if it is not there.

        The directory must exist, and its lock be held.

        Raises:
            StoreError: not writable, no space left, damaged, or not a search's file.
        """
        check_writable(directory)
        path = directory / DATABASE
        make_database(path)
        with translated(str(path)):
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        store = cls(connection, str(path))
        try:
            with translated(str(path)):
                connection.execute("PRAGMA journal_mode = WAL")
                # In WAL mode a killed process loses nothing; a power cut may lose the last
                # commits, and resuming then runs those trials again.
                connection.execute("PRAGMA synchronous = NORMAL")
                store._prepare()
        except BaseException:
            connection.close()
            raise
        return store

    @classmethod
    def memory(cls) -> Store:
        """A store that ends with the process."""
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        store = cls(connection, _MEMORY)
        store._prepare()
        return store

    @classmethod
    def read(cls, directory: Path) -> Store:
        """The store of ``directory``, for reading only; a search may be running in it.

        Raises:
            StoreError: there is none, or it is damaged or not a search's file.
        """
        path = directory / DATABASE
        if not path.is_file():
            raise StoreError(
                "no search is stored here",
                where=str(directory),
                fix="give the directory that `retiarii run --out` was given",
            )
        with translated(str(path)):
            uri = f"{path.resolve().as_uri()}?mode=ro"
            connection = sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False
            )
            try:
                connection.execute("SELECT count(*) FROM sqlite_master")
            except sqlite3.OperationalError:
                # A read-only directory has no room for WAL's index; without a WAL none is needed.
                connection.close()
                if path.with_name(f"{DATABASE}-wal").exists():
                    raise
                connection = sqlite3.connect(
                    f"{uri}&immutable=1", uri=True, isolation_level=None, check_same_thread=False
                )
        store = cls(connection, str(path))
        try:
            with translated(str(path)):
                if not store._is_ours():
                    raise foreign(str(path))
        except BaseException:
            connection.close()
            raise
        return store

    def close(self) -> None:
        self._db.close()

    @property
    def in_memory(self) -> bool:
        """Whether it ends with the process."""
        return self._where == _MEMORY

    # -- what the search is

    def meta(self, key: str, default: Any = None) -> Any:
        """A fact about the search, or ``default``."""
        with translated(self._where):
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return default if row is None else json.loads(row[0])

    def metas(self, prefix: str) -> dict[str, Any]:
        """All facts whose name begins so."""
        with translated(self._where):
            found = self._db.execute(
                "SELECT key, value FROM meta WHERE substr(key, 1, ?) = ?", (len(prefix), prefix)
            ).fetchall()
        return {key: json.loads(value) for key, value in found}

    def set_meta(self, **facts: Any) -> None:
        """Writes facts about the search."""
        rows = [(key, dump(value)) for key, value in facts.items()]
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)

    def carry(
        self,
        trials: Sequence[tuple[TrialRow, Sequence[Decision], Steps]],
        now: float,
        facts: Mapping[str, Any],
    ) -> None:
        """Takes over trials of another search as the first of this one, with ``facts`` on it.

        Args:
            trials: each as it is there, its decisions as they are here, and its steps.
        """
        with self._transaction():
            for number, (row, decisions, steps) in enumerate(trials):
                self._db.execute(
                    "INSERT INTO trials (id, state, decisions, key, score, metrics, seed, "
                    "started, finished) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        number,
                        row.state,
                        written(decisions),
                        row.key,
                        row.score,
                        dump(row.metrics),
                        row.seed,
                        now,
                        now,
                    ),
                )
                self._db.executemany(
                    "INSERT INTO steps VALUES (?, ?, ?)",
                    [(number, step, dump(metrics)) for step, metrics in steps],
                )
            self._db.executemany(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)",
                [(key, dump(value)) for key, value in facts.items()],
            )

    # -- what was measured of models

    def measurements(self) -> dict[tuple[str, str], Any]:
        """(what was measured, canonical hash of the model) -> its value, of all there are."""
        with translated(self._where):
            if not self._db.execute(
                "SELECT 1 FROM sqlite_master WHERE name = 'measurements'"
            ).fetchone():
                return {}
            found = self._db.execute("SELECT name, model, value FROM measurements").fetchall()
        return {(name, model): json.loads(value) for name, model, value in found}

    def keep_measurement(self, name: str, model: str, value: Any) -> None:
        """Keeps a value; the table is made with the first, so that most stores have none."""
        with self._transaction():
            self._db.execute(MEASUREMENTS)
            self._db.execute(
                "INSERT OR REPLACE INTO measurements VALUES (?, ?, ?)", (name, model, dump(value))
            )

    # -- writing trials

    def forget(self) -> None:
        """Takes back all proposals, if none of them has ended: the search has not begun."""
        with self._transaction():
            ended = "SELECT 1 FROM trials WHERE state IN ('complete', 'pruned', 'failed')"
            if not self._db.execute(ended).fetchone():
                self._db.execute("DELETE FROM steps")
                self._db.execute("DELETE FROM trials")

    def add(
        self, number: int, decisions: Sequence[Decision], key: str, seed: int, now: float
    ) -> None:
        """A proposal that waits for its evaluation."""
        self._add(number, "waiting", decisions, key, seed, None, now)

    def add_reused(
        self,
        number: int,
        decisions: Sequence[Decision],
        key: str,
        seed: int,
        now: float,
        original: TrialRow,
    ) -> None:
        """A proposal that was evaluated before, as ``original``."""
        self._add(number, original.state, decisions, key, seed, original, now)

    def reuse(self, number: int, original: TrialRow, now: float) -> None:
        """A waiting trial gets the score of ``original``."""
        self._write(
            "UPDATE trials SET state = ?, score = ?, metrics = ?, same_as = ?, started = ?, "
            "finished = ? WHERE id = ?",
            (
                original.state,
                original.score,
                dump(original.metrics),
                original.id,
                now,
                now,
                number,
            ),
        )

    def start(self, number: int, now: float) -> None:
        """The evaluation begins, or goes on."""
        self._write(
            "UPDATE trials SET state = 'running', started = coalesce(started, ?) WHERE id = ?",
            (now, number),
        )

    def report(
        self, number: int, step: int, metrics: Mapping[str, Any], seconds: float, progress: bool
    ) -> None:
        """Metrics on the way; ``progress`` forgives the workers lost so far."""
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO steps VALUES (?, ?, ?)", (number, step, dump(metrics))
            )
            self._db.execute(
                "UPDATE trials SET seconds = ?, lost = CASE ? WHEN 1 THEN 0 ELSE lost END "
                "WHERE id = ?",
                (seconds, int(progress), number),
            )

    def finish(
        self,
        number: int,
        state: State,
        score: float,
        metrics: Mapping[str, Any],
        seconds: float,
        now: float,
    ) -> None:
        """The evaluation ended with a score."""
        self._write(
            "UPDATE trials SET state = ?, score = ?, metrics = ?, seconds = ?, error = NULL, "
            "trace = NULL, finished = ? WHERE id = ?",
            (state, score, dump(metrics), seconds, now, number),
        )

    def fail(self, number: int, error: str, trace: str | None, seconds: float, now: float) -> None:
        """The trial failed for good."""
        self._write(
            "UPDATE trials SET state = 'failed', error = ?, trace = ?, seconds = ?, "
            "finished = ? WHERE id = ?",
            (error, trace, seconds, now, number),
        )

    def retry(
        self, number: int, attempt: int, seed: int, error: str, trace: str | None, seconds: float
    ) -> None:
        """Back to waiting, to begin afresh with another seed."""
        with self._transaction():
            self._db.execute(
                "UPDATE trials SET state = 'waiting', attempt = ?, seed = ?, error = ?, "
                "trace = ?, seconds = ? WHERE id = ?",
                (attempt, seed, error, trace, seconds, number),
            )
            self._db.execute("DELETE FROM steps WHERE trial = ?", (number,))

    def lose(self, number: int, lost: int, error: str, seconds: float) -> None:
        """Back to waiting, to go on from its checkpoint: its worker died."""
        self._write(
            "UPDATE trials SET state = 'waiting', lost = ?, error = ?, seconds = ? WHERE id = ?",
            (lost, error, seconds, number),
        )

    def release(self) -> None:
        """Everything that was running waits again: the search stops here."""
        self._write("UPDATE trials SET state = 'waiting' WHERE state = 'running'", ())

    # -- reading trials

    def count(self) -> int:
        """How many trials there are."""
        with translated(self._where):
            return int(self._db.execute("SELECT count(*) FROM trials").fetchone()[0])

    def row(self, number: int) -> TrialRow | None:
        """One trial, or ``None``."""
        with translated(self._where):
            found = self._db.execute(
                f"SELECT {COLUMNS} FROM trials WHERE id = ?", (number,)
            ).fetchone()
        return None if found is None else row_of(found)

    def rows(self) -> list[TrialRow]:
        """All trials, by number."""
        with translated(self._where):
            found = self._db.execute(f"SELECT {COLUMNS} FROM trials ORDER BY id").fetchall()
        return [row_of(each) for each in found]

    def steps(self, number: int) -> list[tuple[int, dict[str, Any]]]:
        """(step, metrics) of a trial, in order."""
        with translated(self._where):
            found = self._db.execute(
                "SELECT step, metrics FROM steps WHERE trial = ? ORDER BY step", (number,)
            ).fetchall()
        return [(int(step), json.loads(metrics)) for step, metrics in found]

    def last_steps(self) -> dict[int, int]:
        """Trial -> the last step that it reported."""
        with translated(self._where):
            found = self._db.execute("SELECT trial, max(step) FROM steps GROUP BY trial").fetchall()
        return {int(trial): int(step) for trial, step in found}

    def count_steps(self) -> int:
        """How many steps all trials have reported."""
        with translated(self._where):
            return int(self._db.execute("SELECT count(*) FROM steps").fetchone()[0])

    # -- inside

    def _add(
        self,
        number: int,
        state: State,
        decisions: Sequence[Decision],
        key: str,
        seed: int,
        original: TrialRow | None,
        now: float,
    ) -> None:
        shown = written(decisions)
        score, metrics, same_as, at = (
            (None, {}, None, None)
            if original is None
            else (original.score, original.metrics, original.id, now)
        )
        self._write(
            "INSERT INTO trials (id, state, decisions, key, score, metrics, seed, same_as, "
            "started, finished) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (number, state, shown, key, score, dump(metrics), seed, same_as, at, at),
        )

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        # Outside of BEGIN, SQLite makes each statement a transaction of its own.
        with translated(self._where):
            self._db.execute(statement, values)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with translated(self._where):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _prepare(self) -> None:
        if self._is_ours():
            return
        if (
            self._number("application_id")
            or self._db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        ):
            raise foreign(self._where)
        with self._transaction():
            for table in TABLES:
                self._db.execute(table)
            self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version = {VERSION}")

    def _is_ours(self) -> bool:
        """Whether it has our tables.

        Raises:
            StoreError: it has those of another version.
        """
        if self._number("application_id") != APPLICATION_ID:
            return False
        version = self._number("user_version")
        if version != VERSION:
            raise StoreError(
                f"this search was stored in format {version}; this version reads {VERSION}",
                where=self._where,
                fix="use the version of retiarii that wrote it, or choose another directory",
            )
        return True

    def _number(self, pragma: str) -> int:
        return int(self._db.execute(f"PRAGMA {pragma}").fetchone()[0])
