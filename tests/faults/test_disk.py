"""A disk that is full, and files that are cut short."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retiarii.errors import DiskError, StoreError
from retiarii.experiment import Experiment
from retiarii.result import Result, open_result
from retiarii.runtime.source import load_space_file

EPOCHS = 4
# The evaluator's files are written as checkpoints are; each weighs half a megabyte.
WRITES = (
    '            file.with_suffix(".partial").write_text(json.dumps(state))\n'
    '            file.with_suffix(".partial").replace(file)\n',
    '            state["padding"] = "x" * 500_000\n'
    "            write_atomic(file, json.dumps(state).encode())\n",
)
IMPORTS = (
    "from retiarii.seeding import derive\n",
    "from retiarii.seeding import derive\nfrom retiarii.training.checkpoint import write_atomic\n",
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("executor", ["inline", "local"])
def test_a_disk_that_is_full_while_checkpoints_are_written(
    small_disk: Path,
    space_file: Path,
    changed: Callable[..., Path],
    undisturbed: Callable[..., Result],
    facts: Any,
    executor: str,
) -> None:
    """The search ends, and no trial fails; with room on the disk it goes on."""
    changed(space_file, WRITES, IMPORTS)
    options: dict[str, Any] = {"strategy": "random", "trials": 8, "workers": 1}
    expected = undisturbed(space_file, **options)
    loaded = load_space_file(space_file)
    search = small_disk / "search"

    def run() -> Result:
        return Experiment(
            loaded.space,
            loaded.evaluator,
            directory=search,
            source=loaded,
            executor=executor,
            **options,
        ).run()

    with pytest.raises(DiskError, match=r"cannot write state.json: No space left") as caught:
        run()
    assert "the same command then goes on" in str(caught.value)
    cut = open_result(search)
    assert {t.state for t in cut.trials} <= {"complete", "waiting", "running"}
    assert any(t.state == "complete" for t in cut.trials)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert facts(run()) == facts(expected)
    lines = (space_file.parent / "epochs.log").read_text().splitlines()
    ran = [tuple(map(int, line.split()[:2])) for line in lines]
    assert len(ran) - len(set(ran)) == 1  # the epoch that could not be written


def test_a_disk_that_is_full_for_the_store(small_disk: Path, space_file: Path) -> None:
    loaded = load_space_file(space_file)
    (small_disk / "others").write_bytes(b"\0" * 1_500_000)
    with pytest.raises(StoreError, match=r"full|space") as caught:
        Experiment(
            loaded.space, loaded.evaluator, "random", 4000, small_disk / "search", source=loaded
        ).run()
    assert "space" in str(caught.value.fix)


def test_a_disk_that_is_full_in_user_code(
    tmp_path: Path, space_file: Path, changed: Callable[..., Path]
) -> None:
    import errno

    full = "            if epoch == 3: raise OSError(28, 'No space left on device')\n"
    changed(space_file, ("            time.sleep(PAUSE)\n", full))
    assert errno.ENOSPC == 28
    loaded = load_space_file(space_file)
    with pytest.raises(DiskError, match="No space left on device, in user code") as caught:
        Experiment(
            loaded.space, loaded.evaluator, "random", 4, tmp_path / "search", source=loaded
        ).run()
    assert str(space_file) in str(caught.value.where)
    assert {t.state for t in open_result(tmp_path / "search").trials} == {"waiting"}


SUPERVISED = """
import torch
from torch import nn
import retiarii as rt

torch.manual_seed(0)
x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))


class Widen(rt.Mutator):
    def mutate(self, graph, target):
        graph.update(target, out_features=self.choice([4, 8, 12], label="width"))


space = rt.ModelSpace(
    nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)), example_inputs=torch.zeros(2, 6)
)
space.apply_mutator("0", Widen())
evaluator = rt.Supervised(
    (x, y), (x, y), loss=nn.CrossEntropyLoss(), optimizer=rt.SGD(lr=0.1), epochs=5,
    metric="loss",
)
"""


@pytest.mark.parametrize("harm", ["cut", "gone", "changed", "json"])
def test_a_checkpoint_that_is_damaged(tmp_path: Path, harm: str, facts: Any) -> None:
    """The one before it is used, and the epoch after that is trained again, to the same end."""
    file = tmp_path / "space.py"
    file.write_text(SUPERVISED)

    def run(directory: Path, **options: Any) -> Result:
        loaded = load_space_file(file)
        return Experiment(
            loaded.space,
            loaded.evaluator,
            "grid",
            3,
            directory,
            source=loaded,
            fuse="off",
            **options,
        ).run()

    expected = run(tmp_path / "whole")
    cut = run(tmp_path / "cut", total_epochs=9)
    assert cut.ended == "epochs"
    place = tmp_path / "cut" / "trials" / "1"
    newest = max(place.glob("checkpoint-*.safetensors"))
    assert newest.name == "checkpoint-00004.safetensors"
    data = newest.read_bytes()
    match harm:
        case "cut":
            newest.write_bytes(data[: len(data) // 2])
        case "gone":
            newest.unlink()
        case "changed":
            newest.write_bytes(data[:-4] + bytes(4))
        case "json":
            newest.with_suffix(".json").write_text(json.dumps({"epoch": 4}))
    again = run(tmp_path / "cut", total_epochs=100)
    assert facts(again) == facts(expected)
