"""Files between machines: only what changed, whole, and nowhere else than they belong."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from retiarii.errors import RetiariiError
from retiarii.runtime.cluster.shipping import Mirror, Tail, append_logs, unpack

# What a worker that is not to be trusted may call a file. None leads out of a test's own folder, or
# to what exists: where the check is broken, these are written, and deleted.
EVIL = [
    "../search.db",
    "/tmp/retiarii-no-such-folder/x",
    "a/b",
    "..",
    ".",
    "",
    ".hidden",
    "a\0b",
    "a\n",
    "..\\x",
    "x" * 300,
]


def test_a_mirror_tells_changes(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    mirror = Mirror(here)
    assert mirror.changes() == {}
    here.mkdir()
    (here / "a.json").write_bytes(b"1")
    (here / "b.safetensors").write_bytes(b"2")
    (here / "c.json.partial").write_bytes(b"3")
    (here / "folder").mkdir()
    changes = mirror.changes()
    assert changes == {"a.json": b"1", "b.safetensors": b"2"}
    unpack(there, changes)
    (here / "a.json").write_bytes(b"11")
    (here / "b.safetensors").unlink()
    changes = mirror.changes()
    assert changes == {"a.json": b"11", "b.safetensors": None}
    assert mirror.changes() == {}
    unpack(there, changes)
    assert {p.name: p.read_bytes() for p in there.iterdir()} == {"a.json": b"11"}


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("data", [b"x", None])
def test_no_name_leads_out_of_the_directory(tmp_path: Path, name: str, data: bytes | None) -> None:
    home = tmp_path / "trials" / "0"
    home.mkdir(parents=True)
    victim = tmp_path / "trials" / "search.db"
    victim.write_bytes(b"kept")
    with pytest.raises(RetiariiError, match="no plain file name"):
        unpack(home, {name: data})
    assert list(home.iterdir()) == []
    assert victim.read_bytes() == b"kept"


@pytest.mark.parametrize("name", [*EVIL, "trial-1.db", "status.json", "trial-x.log"])
def test_no_name_leads_out_of_the_logs(tmp_path: Path, name: str) -> None:
    with pytest.raises(RetiariiError, match="no plain file name"):
        append_logs(tmp_path / "logs", {name: b"x"})
    assert list(tmp_path.iterdir()) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A worker that sees the directory could make one; what it sends goes nowhere else."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"kept")
    home = tmp_path / "0"
    home.mkdir()
    (home / "a.json").symlink_to(victim)
    unpack(home, {"a.json": b"new"})
    assert (home / "a.json").read_bytes() == b"new"
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "trial-0.log").symlink_to(victim)
    append_logs(logs, {"trial-0.log": b"new"})
    assert victim.read_bytes() == b"kept"


def test_what_is_added_to_logs_is_told_once(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    tail = Tail(here)
    assert tail.news() == {}
    here.mkdir()
    (here / "trial-00001.log").write_bytes(b"one\n")
    append_logs(there, tail.news())
    assert tail.news() == {}
    with (here / "trial-00001.log").open("ab") as file:
        file.write(b"two\n")
    append_logs(there, tail.news())
    assert (there / "trial-00001.log").read_bytes() == b"one\ntwo\n"
    assert stat.S_IMODE((there / "trial-00001.log").stat().st_mode) == 0o600
    (here / "trial-00001.log").write_bytes(b"cut\n")  # it had become too long
    assert tail.news() == {"trial-00001.log": b"cut\n"}
