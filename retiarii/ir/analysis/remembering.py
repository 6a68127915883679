"""What was measured on this machine, kept for all processes of the user, and for later.

The folder is ``$RETIARII_CACHE_DIR``, or ``retiarii`` in ``$XDG_CACHE_HOME`` (``~/.cache`` where
that is not set). A cache that cannot be read or written costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def cache_directory() -> Path:
    """Where measurements are kept."""
    own = os.environ.get("RETIARII_CACHE_DIR", "")
    if own:
        return Path(own)
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The specification has relative paths ignored.
    base = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    return base / "retiarii"


class Remembered:
    """A table from keys to values that are JSON; a context manager.

    Args:
        name: of the table, and of its file.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._connection: sqlite3.Connection | None = None

    def __enter__(self) -> Remembered:
        file = cache_directory() / f"{self._name}.sqlite"
        with contextlib.suppress(OSError, sqlite3.Error):
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._open(file)
            except sqlite3.OperationalError:  # somebody is writing, or nobody may
                raise
            except sqlite3.DatabaseError:  # no database: it was cut off, or overwritten
                file.unlink()
                self._open(file)
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def read(self, key: str) -> Any:
        """What is remembered; ``None`` where that is nothing, or nothing that can be read."""
        for text in self._rows(f"SELECT value FROM {self._name} WHERE key = ?", key):
            with contextlib.suppress(ValueError):
                return json.loads(text)
        return None

    def write(self, key: str, value: Any) -> None:
        """Remembers a value, in the place of the one before."""
        list(self._rows(f"REPLACE INTO {self._name} VALUES (?, ?)", key, json.dumps(value)))

    def settle(self, key: str, value: Any) -> Any:
        """What is remembered; where that is nothing, ``value``, which is from now on.

        Of processes that settle one key at once, all get the value of one.
        """
        list(
            self._rows(f"INSERT OR IGNORE INTO {self._name} VALUES (?, ?)", key, json.dumps(value))
        )
        found = self.read(key)
        return value if found is None else found

    def _open(self, file: Path) -> None:
        connection = sqlite3.connect(file, timeout=10, isolation_level=None)
        try:
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {self._name} "
                "(key TEXT PRIMARY KEY, value TEXT NOT NULL)"
            )
        except sqlite3.Error:
            connection.close()
            raise
        self._connection = connection

    def _rows(self, statement: str, *values: str) -> Iterator[str]:
        if self._connection is None:
            return
        with contextlib.suppress(sqlite3.Error):
            for row in self._connection.execute(statement, values).fetchall():
                yield row[0]
