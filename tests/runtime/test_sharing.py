from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from retiarii.experiment import Experiment
from retiarii.runtime.sharing import LEAST_BYTES, publish
from retiarii.runtime.source import load_space_file

pytestmark = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="this system has no files without a name"
)
COUNT = LEAST_BYTES // 4


def large(seed: int = 0, count: int = COUNT) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def pointer(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def test_equal_memory_is_let_go_of() -> None:
    published = publish([large()[10:].view(-1, 2), large(1)])
    assert published is not None
    whole = large()
    parts = [whole[10:].view(-1, 2), whole[:10], large(1, 2 * COUNT), large(2)]
    before = [pointer(part) for part in parts]
    assert published.shared.adopt(parts) == LEAST_BYTES
    assert [pointer(part) == old for part, old in zip(parts, before, strict=True)] == [
        False, False, True, True
    ]  # fmt: skip
    assert pointer(parts[0]) == pointer(parts[1])
    assert torch.equal(parts[0], whole[10:].view(-1, 2))
    assert torch.equal(parts[1], whole[:10])
    assert parts[0].shape == (COUNT // 2 - 5, 2)


def test_who_writes_writes_to_a_copy() -> None:
    published = publish([large()])
    assert published is not None
    one, other = large(), large()
    published.shared.adopt([one])
    published.shared.adopt([other])
    one[0] = 5.0
    assert other[0] != 5.0
    with pytest.raises(OSError, match="not permitted"):
        os.pwrite(published.shared.fd, b"x", 0)
    fd = published.shared.fd
    del published
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert torch.equal(other, large())  # for as long as it is used


class _Own(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(COUNT - 1),
        torch.zeros(COUNT).requires_grad_(),
        torch.zeros(COUNT).as_subclass(_Own),
        torch.zeros(COUNT, device="meta"),
        torch.eye(3).to_sparse(),
    ],
    ids=["small", "gradient", "subclass", "meta", "sparse"],
)
def test_what_stays_as_it_is(tensor: torch.Tensor) -> None:
    assert publish([tensor]) is None
    published = publish([large(), torch.zeros(COUNT)])
    assert published is not None
    assert published.shared.adopt([tensor]) == 0


def test_a_system_that_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        assert publish([large()]) is None
    monkeypatch.delattr(os, "memfd_create")
    assert publish([large()]) is None


SPACE = """
import os, time
import torch
from torch import nn
import retiarii as rt

COUNT = 40_000
data = torch.randn(COUNT, 150, generator=torch.Generator().manual_seed(0))  # 24 MB
labels = (data.sum(1) > 0).long()


class Widen(rt.Mutator):
    def mutate(self, graph, target):
        graph.update(target, out_features=self.choice([2, 3, 4, 5], label="width"))


space = rt.ModelSpace(
    nn.Sequential(nn.Linear(150, 2), nn.Linear(2, 2)), example_inputs=torch.zeros(2, 150)
)
space.apply_mutator("0", Widen())


def memory(outputs, targets):
    # What of the 24 MB is this process's own, in kB: pages of memory that was mapped have a name.
    owned, inside = 0, False
    pointers = (data.data_ptr(), data.data_ptr() + 24_000_000)
    with open("/proc/self/smaps") as maps:
        for line in maps:
            if "-" in line.split()[0]:
                first, last = (int(each, 16) for each in line.split()[0].split("-"))
                inside = first < pointers[1] and last > pointers[0]
            elif inside and line.startswith("Anonymous:"):
                owned += int(line.split()[1])
    return float(owned)


evaluator = rt.Supervised(
    (data[:30_000], labels[:30_000]), (data[30_000:], labels[30_000:]),
    loss=nn.CrossEntropyLoss(), optimizer=rt.SGD(lr=0.1), epochs=1, batch_size=10_000,
    metric=memory, maximize=False,
)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_have_no_copy_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "space.py"
    file.write_text(SPACE)
    loaded = load_space_file(file)
    result = Experiment(
        loaded.space, loaded.evaluator, "grid", 2, executor="local", workers=2, source=loaded,
        fuse="off", cohort=1,
    ).run()  # fmt: skip
    assert [t.state for t in result.trials] == ["complete", "complete"]
    # A page at the edge, or none: all of it was its own before.
    assert all(t.score is not None and t.score < 1000 for t in result.trials)
    assert all(
        type(each) is torch.Tensor and each.untyped_storage().nbytes() > LEAST_BYTES
        for each in loaded.evaluator.kept()[:1]
    )


def test_nothing_is_left_when_all_are_killed(tmp_path: Path) -> None:
    """It has no name: with the last process it is gone."""
    script = """
    import os, torch
    from retiarii.runtime.sharing import publish
    published = publish([torch.zeros(2_000_000)])
    print(os.readlink(f"/proc/self/fd/{published.shared.fd}"), flush=True)
    os.kill(os.getpid(), 9)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert done.returncode == -9
    assert done.stdout == "/memfd:retiarii-data (deleted)\n"
