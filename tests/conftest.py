"""What all tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

import retiarii

# One thread a process: the models here are small, and tests may start processes of their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What pays on this machine is no matter here: all that can be is fused.
os.environ.setdefault("RETIARII_MEASURE", "0")
# Commands run their trials in their own process, where nothing else is asked for: it starts sooner.
os.environ.setdefault("RETIARII_EXECUTOR", "inline")

# What is started in the background ignores Ctrl-C, and so would all that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Shared machines are slow at times: a deadline would say nothing about the code.
settings.register_profile("retiarii", deadline=None)
settings.load_profile("retiarii")

SPACES = Path(__file__).parent / "spaces"
SpaceFile = Callable[..., Path]


@pytest.fixture
def space_file(tmp_path: Path) -> SpaceFile:
    """Writes a space file like one of ``tests/spaces``, wrong in a place where wanted.

    ``space_file("lookup", ("old", "new"), ...)`` answers the path of the new ``space.py``; each
    change must apply exactly once.
    """

    def write(kind: str, *changes: tuple[str, str], name: str = "space.py") -> Path:
        text = (SPACES / f"{kind}.py").read_text()
        for old, new in changes:
            assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
            text = text.replace(old, new)
        file = tmp_path / name
        file.write_text(text)
        return file

    return write


@pytest.fixture
def epochs_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A space file that notes every epoch in ``epochs.log``; other processes can load it."""
    monkeypatch.setenv("PYTHONPATH", str(Path(retiarii.__file__).parents[1]))
    file = tmp_path / "project" / "space.py"
    file.parent.mkdir()
    file.write_text((SPACES / "epochs.py").read_text())
    return file
