"""A model that does not run is named with its place, its cause and what to do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from retiarii.errors import ParseError
from retiarii.ir.parse import parse


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x)  # the line


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def forward(self, x, mask=None):
        if mask is not None:
            raise ValueError("no masks today")
        return self.inner(x)


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ParseError) as caught:
        parse(Outer(), torch.zeros(2, 5))
    error = caught.value
    assert "does not run on its example inputs: RuntimeError: mat1 and mat2" in error.cause
    assert error.where is not None
    assert error.where.startswith("module 'inner.fc' (Linear)")
    assert "test_parse_errors.py:" in error.where
    assert error.fix


def test_the_models_own_error() -> None:
    with pytest.raises(ParseError, match="ValueError: no masks today") as caught:
        parse(Outer(), (torch.zeros(2, 4), torch.zeros(2)))
    assert "the model itself (Outer)" in str(caught.value.where)


def test_arguments_that_forward_does_not_take() -> None:
    with pytest.raises(ParseError, match="missing a required argument: 'x'"):
        parse(Outer(), ())
    with pytest.raises(ParseError, match="too many positional arguments"):
        parse(Outer(), (torch.zeros(2, 4), None, 3))


def test_not_a_module() -> None:
    with pytest.raises(ParseError, match="a function cannot be parsed"):
        parse(lambda x: x, torch.zeros(1))


def test_lazy_modules() -> None:
    with pytest.raises(ParseError, match="lazy module"):
        parse(nn.Sequential(nn.LazyLinear(3)), torch.zeros(2, 4))


def test_the_model_is_left_alone_when_it_fails() -> None:
    model = Outer()
    keys = sorted(model.inner.__dict__)
    with pytest.raises(ParseError):
        parse(model, torch.zeros(2, 5))
    assert sorted(model.inner.__dict__) == keys
    assert not next(model.parameters()).is_meta
