from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from retiarii.training.packed import packed, portable

TYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
]  # fmt: skip


@st.composite
def tensor_dicts(draw):
    found = {}
    for name in draw(st.lists(st.text(max_size=5), max_size=6, unique=True)):
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        values = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(len(found)))
        tensor = values.to(draw(st.sampled_from(TYPES)))
        found[name] = tensor.t() if tensor.ndim == 2 and draw(st.booleans()) else tensor
    return found


@given(tensor_dicts())
def test_the_library_reads_what_was_packed(tensors):
    read = safetensors.torch.load(packed(tensors))
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype is tensor.dtype
        assert torch.equal(read[name], tensor)


def test_as_many_bytes_as_the_library_writes():
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2).half(), "c": torch.tensor(7)}
    data, theirs = packed(tensors), safetensors.torch.save(tensors)
    assert len(data) == len(theirs)
    heads = [json.loads(d[8 : 8 + int.from_bytes(d[:8], "little")]) for d in (data, theirs)]
    assert heads[0] == heads[1]


def test_views_and_ties_are_written_as_they_show():
    base = torch.arange(6.0)
    tensors = {"all": base, "part": base[1:3], "every": base[::2], "scalar": base[5]}
    read = safetensors.torch.load(packed(tensors))
    assert all(torch.equal(read[k], v) for k, v in tensors.items())


@pytest.mark.parametrize("rare", [torch.complex64, torch.float8_e5m2])
def test_rare_types_go_by_the_library(rare):
    tensors = {"x": torch.ones(3).to(rare), "y": torch.ones(2)}
    read = safetensors.torch.load(packed(tensors))
    assert read["x"].dtype is rare
    assert read["x"].to(torch.complex64).tolist() == [1, 1, 1]


def test_portable_shares_nothing():
    base = torch.zeros(4)
    made = portable({"a": base, "b": base, "c": base[:2]})
    assert len({t.untyped_storage().data_ptr() for t in made.values()}) == 3
