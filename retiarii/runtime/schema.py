"""The tables of ``search.db``, and how to tell them from somebody else's."""

from __future__ import annotations

from typing import Literal

State = Literal["waiting", "running", "complete", "pruned", "failed"]

TERMINAL: frozenset[str] = frozenset({"complete", "pruned", "failed"})
SCORED: frozenset[str] = frozenset({"complete", "pruned"})

APPLICATION_ID = 0x52455449  # "RETI", in the header of the file
VERSION = 1

TABLES = (
    """
    CREATE TABLE meta (
        key   TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE trials (
        id        INTEGER PRIMARY KEY,
        state     TEXT NOT NULL
                  CHECK (state IN ('waiting', 'running', 'complete', 'pruned', 'failed')),
        decisions TEXT NOT NULL,
        key       TEXT NOT NULL,
        score     REAL,
        metrics   TEXT NOT NULL DEFAULT '{}',
        seconds   REAL NOT NULL DEFAULT 0,
        error     TEXT,
        trace     TEXT,
        seed      INTEGER NOT NULL,
        attempt   INTEGER NOT NULL DEFAULT 0,
        lost      INTEGER NOT NULL DEFAULT 0,
        same_as   INTEGER REFERENCES trials (id),
        started   REAL,
        finished  REAL
    )
    """,
    """
    CREATE TABLE steps (
        trial   INTEGER NOT NULL REFERENCES trials (id),
        step    INTEGER NOT NULL,
        metrics TEXT NOT NULL,
        PRIMARY KEY (trial, step)
    ) WITHOUT ROWID
    """,
)

MEASUREMENTS = """
    CREATE TABLE IF NOT EXISTS measurements (
        name  TEXT NOT NULL,
        model TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (name, model)
    ) WITHOUT ROWID
    """
