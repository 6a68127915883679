"""`retiarii run --executor ray` on one machine, as a user runs it; without Ray, skipped."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import retiarii

pytest.importorskip("ray", reason="Ray is not installed")

_HELPER = "SCALE = 2.0\n"
_SPACE = """
import os, sys, time
from pathlib import Path
import helper
import retiarii as rt

HERE = Path(__file__).parent


def score(trial):
    x = trial.hyperparameters["x"]
    print("said by the trial")
    print("and on stderr", file=sys.stderr)
    os.system("echo said by a child")
    (HERE / "begun").touch()
    while not (HERE / "go").exists():
        time.sleep(0.05)
    return x * helper.SCALE


space = None
evaluator = rt.Function(score, hyperparameters={"x": rt.uniform(0.0, 1.0)})
"""
_PATIENCE_SECONDS = 120.0
Begin = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Starts a search of three trials, and answers when the first is under way."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "helper.py").write_text(_HELPER)
    (project / "space.py").write_text(_SPACE)
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        main = "from retiarii.cli import main; main()"
        command = [sys.executable, "-c", main, "run", str(project / "space.py")]
        options = ["--executor", "ray", "--workers", "1", "--trials", "3", "--json"]
        process = subprocess.Popen(
            [*command, *options, "--out", str(tmp_path / "out")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(retiarii.__file__).parents[1])},
            start_new_session=True,  # a process group, as a terminal's
        )
        started.append(process)
        _until(lambda: (project / "begun").exists() or process.poll() is not None)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_it_just_works(begin: Begin, tmp_path: Path) -> None:
    process = begin()
    family = _descendants(process.pid)
    assert any("raylet" in name for name in family.values()), family
    # Nothing of it listens to other machines.
    listening = [address for pid in family for address in _listening(pid)]
    assert listening
    assert {host for host, _ in listening} <= {"127.0.0.1", "::1"}
    # Nobody else of this machine reads its files.
    for room in _rooms(family):
        assert stat.S_IMODE(room.stat().st_mode) == 0o700
    (tmp_path / "project" / "go").touch()
    out, err = process.communicate(timeout=_PATIENCE_SECONDS)
    assert process.returncode == 0, err
    # What comes out is the result alone; what is told on the way is ours alone.
    trials = json.loads(out)["trials"]
    assert [t["score"] for t in trials] == [2 * t["decisions"]["x"] for t in trials]
    assert len(trials) == 3
    assert "said by" not in err
    assert all(line.split("/")[0].isdigit() for line in err.splitlines()), err
    for number in range(3):
        log = tmp_path / "out" / "logs" / f"trial-{number:05d}.log"
        assert log.read_text().splitlines() == [
            "said by the trial",
            "and on stderr",
            "said by a child",
        ]
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
    # Nothing is left of Ray, nor beside the store.
    _until(lambda: not any(_alive(pid) for pid in family))
    assert not any(room.exists() for room in _rooms(family))
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left <= {"search.db", "lock", "logs", "trials"}


@pytest.mark.slow
def test_two_interrupts_end_it_and_ray(begin: Begin, tmp_path: Path) -> None:
    process = begin()
    family = _descendants(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1.0)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=_PATIENCE_SECONDS)
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    _until(lambda: not any(_alive(pid) for pid in family))
    # The same command goes on.
    (tmp_path / "project" / "go").touch()
    out, err = begin().communicate(timeout=_PATIENCE_SECONDS)
    assert len(json.loads(out)["trials"]) == 3, err


@pytest.mark.slow
def test_it_is_killed_and_goes_on(begin: Begin, tmp_path: Path) -> None:
    process = begin()
    family = _descendants(process.pid)
    process.kill()
    process.wait()
    _until(lambda: not any(_alive(pid) for pid in family))
    (tmp_path / "project" / "go").touch()
    out, err = begin().communicate(timeout=_PATIENCE_SECONDS)
    assert len(json.loads(out)["trials"]) == 3, err


def _until(fits: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not fits():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def _descendants(pid: int) -> dict[int, str]:
    """A process and all that it has started: pid -> command line."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rpartition(")")[2].split()[1]
                )
            except OSError:  # it has ended meanwhile
                continue
    found = {pid}
    while more := {p for p, parent in parents.items() if parent in found} - found:
        found |= more
    return {p: Path(f"/proc/{p}/cmdline").read_text().replace("\0", " ") for p in found}


def _listening(pid: int) -> Iterator[tuple[str, int]]:
    """The addresses at which a process listens, of TCP and TCP over IPv6."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(link))
        except OSError:
            continue
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                host, _, port = fields[1].partition(":")
                yield _host(host), int(port, 16)


def _host(hexadecimal: str) -> str:
    words = [
        int.from_bytes(bytes.fromhex(hexadecimal[i : i + 8]), "little")
        for i in range(0, len(hexadecimal), 8)
    ]
    if len(words) == 1:
        return ".".join(str(byte) for byte in words[0].to_bytes(4, "big"))
    *upper, last = words
    if upper == [0, 0, 0xFFFF]:  # an IPv4 address within IPv6
        return ".".join(str(byte) for byte in last.to_bytes(4, "big"))
    return "::1" if (upper, last) == ([0, 0, 0], 1) else hexadecimal


def _rooms(family: dict[int, str]) -> set[Path]:
    """The folders of Ray's files, by the command lines of its processes."""
    words = [word for name in family.values() for word in name.replace("=", " ").split()]
    found = {Path(*Path(word).parts[:3]) for word in words if word.startswith("/tmp/retiarii-ray-")}
    assert found
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
