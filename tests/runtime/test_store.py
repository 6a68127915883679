from __future__ import annotations

import json
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from retiarii.errors import StoreError
from retiarii.mutators.choice import Categorical, Decision, Numbered, Real
from retiarii.runtime.place import check_writable, make_directory
from retiarii.runtime.schema import APPLICATION_ID
from retiarii.runtime.store import Store

DECISIONS = (
    Decision("op", Categorical(2), 1, max),
    Decision("lr", Real(0.0, 1.0), 0.1 + 0.2, 0.1 + 0.2),
)
SEED = 2**63 - 1


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store.create(tmp_path)
    yield made
    made.close()


def _add(store: Store, number: int = 0) -> None:
    store.add(number, DECISIONS, f"key{number}", SEED, 1.0)


def test_a_trial_as_written(store: Store) -> None:
    _add(store)
    row = store.row(0)
    assert row is not None
    assert (row.state, row.key, row.seed, row.score, row.same_as) == (
        "waiting", "key0", SEED, None, None
    )  # fmt: skip
    # The number comes back bit for bit; what JSON lacks is shown as text.
    assert row.decisions == (("op", 1, "max"), ("lr", 0.1 + 0.2, 0.1 + 0.2))
    assert row.raws == (("op", 1), ("lr", 0.1 + 0.2))
    assert store.row(1) is None


def test_options_without_names_keep_what_they_stand_for(store: Store) -> None:
    option = Numbered.of(1, "Linear(8, 8)")
    store.add(0, [Decision("layer", Categorical(2), 1, option)], "key", SEED, 1.0)
    row = store.row(0)
    assert row is not None
    ((_, _, value),) = row.decisions
    assert value == 1
    assert json.dumps(value) == "1"
    assert repr(value) == "Linear(8, 8)"


def test_life_of_a_trial(store: Store) -> None:
    _add(store)
    store.start(0, 10.0)
    store.report(0, 1, {"loss": 0.5}, 2.0, progress=False)
    store.report(0, 2, {"loss": float("inf")}, 3.0, progress=False)
    store.report(0, 2, {"loss": 0.25}, 4.0, progress=False)
    assert store.steps(0) == [(1, {"loss": 0.5}), (2, {"loss": 0.25})]
    store.start(0, 99.0)
    store.finish(0, "complete", 0.75, {"accuracy": 0.75}, 5.0, 20.0)
    row = store.rows()[0]
    assert (row.state, row.score, row.metrics, row.seconds) == (
        "complete", 0.75, {"accuracy": 0.75}, 5.0
    )  # fmt: skip
    assert (row.started, row.finished) == (10.0, 20.0)


def test_retry_forgets_the_steps_and_losing_a_worker_does_not(store: Store) -> None:
    _add(store)
    store.report(0, 1, {"loss": 0.5}, 2.0, progress=False)
    store.lose(0, 1, "died", 2.5)
    assert store.steps(0) == [(1, {"loss": 0.5})]
    row = store.rows()[0]
    assert (row.state, row.lost, row.attempt, row.seed) == ("waiting", 1, 0, SEED)
    store.report(0, 2, {"loss": 0.4}, 3.0, progress=True)
    assert store.rows()[0].lost == 0
    store.retry(0, 1, 7, "NaN", "trace", 3.0)
    assert store.steps(0) == []
    row = store.rows()[0]
    assert (row.state, row.attempt, row.seed, row.error, row.trace) == (
        "waiting", 1, 7, "NaN", "trace"
    )  # fmt: skip
    store.fail(0, "NaN again", None, 4.0, 5.0)
    assert (store.rows()[0].state, store.rows()[0].error) == ("failed", "NaN again")


def test_reused_scores(store: Store) -> None:
    _add(store)
    store.finish(0, "pruned", 0.5, {"a": 1.0}, 9.0, 2.0)
    original = store.rows()[0]
    store.add_reused(1, DECISIONS, "key0", SEED, 3.0, original)
    _add(store, 2)
    store.reuse(2, original, 4.0)
    for row in store.rows()[1:]:
        assert (row.state, row.score, row.metrics, row.same_as) == ("pruned", 0.5, {"a": 1.0}, 0)
        assert row.seconds == 0


def test_release(store: Store) -> None:
    for number in range(3):
        _add(store, number)
        store.start(number, 1.0)
    store.finish(1, "complete", 1.0, {}, 1.0, 1.0)
    store.release()
    assert [row.state for row in store.rows()] == ["waiting", "complete", "waiting"]


def test_meta_and_reopening(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    store.set_meta(identity={"seed": 1}, trials=3)
    store.set_meta(trials=5)
    _add(store)
    store.close()
    for opened in (Store.create(tmp_path), Store.read(tmp_path)):
        assert opened.meta("identity") == {"seed": 1}
        assert opened.meta("trials") == 5
        assert opened.meta("absent", 7) == 7
        assert opened.count() == 1
        opened.close()


def test_files_are_the_owners_alone(store: Store, tmp_path: Path) -> None:
    _add(store)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["search.db", "search.db-shm", "search.db-wal"]
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_reading_while_it_is_written(store: Store, tmp_path: Path) -> None:
    reader = Store.read(tmp_path)
    for number in range(3):
        _add(store, number)
        assert reader.count() == number + 1
    with pytest.raises(StoreError, match="cannot be written"):
        reader.start(0, 1.0)
    reader.close()


def test_a_store_under_one_kilobyte_a_trial(store: Store, tmp_path: Path) -> None:
    decisions = [Decision(f"cell/op{i}", Categorical(5), 3, "conv3x3") for i in range(6)]
    for number in range(500):
        store.add(number, decisions, "0" * 32, SEED, 1e9)
        store.start(number, 1e9)
        store.finish(number, "complete", 1 / 3, {"accuracy": 1 / 3}, 1 / 3, 1e9)
    store.close()
    assert (tmp_path / "search.db").stat().st_size < 500 * 1024


@pytest.mark.parametrize(
    "content", [b"not a database at all" * 99, b"SQLite format 3\0" + b"\xff" * 4096]
)
def test_damaged_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "search.db").write_bytes(content)
    for make in (Store.create, Store.read):
        with pytest.raises(StoreError):
            make(tmp_path)
    assert (tmp_path / "search.db").read_bytes() == content


def test_truncated_file(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    for number in range(200):
        _add(store, number)
    store.close()
    file = tmp_path / "search.db"
    file.write_bytes(file.read_bytes()[:9000])
    with pytest.raises(StoreError, match="damaged"):
        Store.read(tmp_path).rows()


def test_somebody_elses_database(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "search.db") as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    for make in (Store.create, Store.read):
        with pytest.raises(StoreError, match="not written by retiarii"):
            make(tmp_path)
    with sqlite3.connect(tmp_path / "search.db") as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]
    other.close()


def test_another_version(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "search.db") as other:
        other.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(StoreError, match="format 99"):
        Store.create(tmp_path)


def test_killed_before_the_tables_were_made(tmp_path: Path) -> None:
    (tmp_path / "search.db").touch()
    store = Store.create(tmp_path)
    assert store.count() == 0
    store.close()


def test_nothing_stored(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no search is stored here"):
        Store.read(tmp_path)


def test_full_disk_while_searching(store: Store) -> None:
    _add(store)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")

    def fill() -> None:
        for number in range(1, 1000):
            _add(store, number)

    with pytest.raises(StoreError, match="disk is full"):
        fill()
    count = store.count()
    store._db.execute("PRAGMA max_page_count = 100000")
    _add(store, count)  # nothing of what failed is left
    assert [row.id for row in store.rows()] == list(range(count + 1))


def test_full_disk_before_the_search(tmp_path: Path) -> None:
    (tmp_path / ".probe").symlink_to("/dev/full")
    with pytest.raises(StoreError, match="No space left") as caught:
        check_writable(tmp_path)
    assert "free some space" in str(caught.value)


def test_directory_that_cannot_be_written() -> None:
    # Not even root writes there.
    with pytest.raises(StoreError, match="cannot write"):
        check_writable(Path("/proc"))
    with pytest.raises(StoreError, match="cannot make"):
        make_directory(Path("/proc/search"))


def test_directory_that_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "inner"):
        with pytest.raises(StoreError, match="cannot make"):
            make_directory(path)


def test_database_that_is_a_link(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.db"
    target.touch()
    inner = make_directory(tmp_path / "search")
    (inner / "search.db").symlink_to(target)
    with pytest.raises(StoreError, match="cannot open the store"):
        Store.create(inner)
