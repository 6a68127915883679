from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from retiarii.errors import TrialError
from retiarii.training.checkpoint import (
    Checkpoints,
    load_weights,
    optimizer_tensors,
    restore_optimizer,
    save_weights,
    write_atomic,
)
from retiarii.training.optimizers import SGD, Adam, AdamW, RMSprop


def names(directory):
    return sorted(p.name for p in directory.iterdir())


def save(keeper, *epochs):
    for epoch in epochs:
        keeper.save(epoch, {"w": torch.full((3,), float(epoch))}, {"epoch": epoch})


def test_the_newest_two_stay(tmp_path):
    keeper = Checkpoints(tmp_path / "deep" / "trial", "me")
    assert keeper.newest() is None
    save(keeper, 1, 2, 3)
    found = keeper.newest()
    assert (found.epoch, found.meta) == (3, {"epoch": 3})
    assert found.tensors["w"].tolist() == [3.0] * 3
    assert names(tmp_path / "deep" / "trial") == [
        f"checkpoint-0000{e}.{kind}" for e in (2, 3) for kind in ("json", "safetensors")
    ]


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_newest_falls_back(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("trial")
    save(Checkpoints(directory, "me"), 1, 2)
    victim = directory / f"checkpoint-00002.{data.draw(st.sampled_from(['json', 'safetensors']))}"
    content = victim.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    how = data.draw(st.sampled_from(["cut", "flip", "missing"]))
    if how == "cut":
        victim.write_bytes(content[:at])
    elif how == "flip":
        # A letter's case may be all that a flipped bit changes in whitespace; use a bit that shows.
        victim.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
    else:
        victim.unlink()
    keeper = Checkpoints(directory, "me")
    found = keeper.newest()
    if found.epoch == 2:
        # Only layout was hit: whatever is read must still be what was written.
        assert victim.suffix == ".json"
    assert found.tensors["w"].tolist() == [float(found.epoch)] * 3
    save(keeper, found.epoch + 1)
    assert Checkpoints(directory, "me").newest().epoch == found.epoch + 1


def test_anothers_checkpoint_is_not_used_and_goes(tmp_path):
    save(Checkpoints(tmp_path, "other"), 7, 8)
    keeper = Checkpoints(tmp_path, "me")
    assert keeper.newest() is None
    save(keeper, 1)
    assert names(tmp_path) == ["checkpoint-00001.json", "checkpoint-00001.safetensors"]


def test_finished_needs_the_weights_and_the_identity(tmp_path):
    keeper = Checkpoints(tmp_path, "me")
    save(keeper, 1)
    assert keeper.finished() is None
    keeper.finish({"score": 1})
    assert names(tmp_path) == ["finished.json"]
    assert keeper.finished() is None
    save_weights(tmp_path, nn.Linear(2, 2).state_dict())
    assert keeper.finished() == {"score": 1}
    assert Checkpoints(tmp_path, "other").finished() is None


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("view", torch.arange(6.0).view(2, 3).t())
        self.register_buffer("part", torch.arange(10.0)[2:5])
        self.register_buffer("flag", torch.tensor(True))
        self.register_buffer("short", torch.ones(2, dtype=torch.bfloat16))
        self.register_buffer("none", torch.zeros(0))


def test_weights_load_strictly_tied_and_strided_ones_too(tmp_path):
    model = Tied()
    path = save_weights(tmp_path, model.state_dict())
    other = Tied()
    other.load_state_dict(load_file(path), strict=True)
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
        assert torch.equal(value, load_weights(tmp_path)[key])
    assert other.head.weight is other.embed.weight
    # The file holds what the tensors show, not the storage behind them.
    assert path.stat().st_size < 2000


@pytest.mark.parametrize(
    "description",
    [
        SGD(lr=0.1),
        SGD(lr=0.1, momentum=0.9),
        Adam(amsgrad=True),
        AdamW(),
        RMSprop(momentum=0.5, centered=True),
    ],
    ids=repr,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_optimizer_goes_on_as_if_unbroken(tmp_path, description, dtype):
    def step(model, optimizer):
        optimizer.zero_grad()
        model(torch.ones(2, 3, dtype=dtype)).square().sum().backward()
        optimizer.step()

    torch.manual_seed(0)
    model = nn.Linear(3, 2).to(dtype)
    optimizer = description.build(model.parameters())
    step(model, optimizer)
    step(model, optimizer)
    keeper = Checkpoints(tmp_path, "me")
    tensors, plain = optimizer_tensors(optimizer)
    keeper.save(1, {**tensors}, {"optimizer": plain})
    saved = keeper.newest()
    twin = nn.Linear(3, 2).to(dtype)
    twin.load_state_dict(model.state_dict())
    again = description.build(twin.parameters())
    restore_optimizer(again, saved.tensors, saved.meta["optimizer"])
    for _ in range(3):
        step(model, optimizer)
        step(twin, again)
    assert torch.equal(model.weight, twin.weight)


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "weights"
    write_atomic(path, b"before")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TrialError, match="No space left on device") as caught:
        write_atomic(path, b"after")
    assert path.read_bytes() == b"before"
    assert "make room" in str(caught.value.fix)


def test_the_meta_is_readable_json(tmp_path):
    save(Checkpoints(tmp_path, "me"), 4)
    body = json.loads((tmp_path / "checkpoint-00004.json").read_text())
    assert body["epoch"] == 4
    assert body["meta"] == {"epoch": 4}
