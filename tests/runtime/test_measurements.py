"""What the store keeps of models that were measured, and how a search is taken back."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from retiarii.runtime.place import DATABASE
from retiarii.runtime.store import Store


def tables(directory: Path) -> set[str]:
    with sqlite3.connect(directory / DATABASE) as connection:
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    connection.close()
    return {name for (name,) in found}


def test_measurements_are_kept_exactly(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    assert store.measurements() == {}
    assert "measurements" not in tables(tmp_path)  # most searches have none
    store.keep_measurement("latency@1", "abc", 0.1 + 0.2)
    store.keep_measurement("latency@1", "def", "it does not run")
    store.keep_measurement("latency@1 fit", "abc", [{"conv calls": 2.0}, 0.5])
    store.keep_measurement("latency@1", "def", 3.0)
    store.close()
    again = Store.read(tmp_path)
    assert again.measurements() == {
        ("latency@1", "abc"): 0.1 + 0.2,
        ("latency@1", "def"): 3.0,
        ("latency@1 fit", "abc"): [{"conv calls": 2.0}, 0.5],
    }
    again.close()


def test_a_search_is_taken_back_only_before_a_trial_has_ended() -> None:
    store = Store.memory()
    for number in range(2):
        store.add(number, (), f"key {number}", seed=0, now=1.0)
        store.start(number, 1.0)
        store.report(number, 1, {"loss": 1.0}, 0.1, progress=False)
    store.forget()
    assert (store.count(), store.count_steps()) == (0, 0)
    store.add(0, (), "key", seed=0, now=1.0)
    store.add(1, (), "other", seed=0, now=1.0)
    store.finish(0, "complete", 1.0, {}, 0.1, 2.0)
    store.forget()
    assert store.count() == 2
    store.close()
