"""SQLite's errors, as a user can act on them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from retiarii.errors import StoreError

# What SQLite says, and what it means to a user: (part of the message, cause, fix).
_TROUBLE = (
    ("disk is full", "the disk is full", "free some space, and run the same command again"),
    ("readonly", "the store cannot be written", "make the directory writable"),
    ("disk I/O", "the disk reports an error", "look at the disk's free space and health"),
    ("locked", "another program holds the store", "close what has search.db open"),
    ("unable to open", "the store cannot be opened", "check that you may read and write it"),
    ("not a database", "this is no SQLite file", "choose another directory"),
    ("malformed", "the store is damaged", "restore it from a copy, or choose another directory"),
)


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turns SQLite's errors within it into a StoreError that names ``where``."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        message = str(error)
        for part, cause, fix in _TROUBLE:
            if part in message:
                raise StoreError(f"{cause} ({message})", where=where, fix=fix) from error
        raise StoreError(
            f"the store cannot be used: {message}", where=where, fix="choose another directory"
        ) from error


def foreign(where: str) -> StoreError:
    """The error for a database that somebody else wrote."""
    return StoreError(
        "search.db here was not written by retiarii, and is left as it is",
        where=where,
        fix="choose another directory",
    )
