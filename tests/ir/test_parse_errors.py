"""A model that does not run is named with its place, its cause and what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
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
    assert error.cause.startswith(
        "the model does not run on its example inputs (x: float32[2, 5]): "
        "RuntimeError: mat1 and mat2"
    )
    assert error.where is not None
    assert error.where.startswith("module 'inner.fc' (Linear)")
    assert "test_parse_errors.py:" in error.where
    assert error.fix


def test_the_models_own_error() -> None:
    with pytest.raises(ParseError, match="ValueError: no masks today") as caught:
        parse(Outer(), (torch.zeros(2, 4), torch.zeros(2)))
    assert "the model itself (Outer)" in str(caught.value.where)


def test_arguments_that_forward_does_not_take() -> None:
    takes = r"forward takes \(x, mask=None\), and these example inputs do not fit: "
    with pytest.raises(ParseError, match=takes + "given nothing; missing x"):
        parse(Outer(), ())
    with pytest.raises(ParseError, match=takes + ".*; 3 positional arguments for 2"):
        parse(Outer(), (torch.zeros(2, 4), None, 3))
    some = {"mask": torch.zeros(2), "image": torch.zeros(2, 4)}
    given = r"given mask: float32\[2\], image: float32\[2, 4\]; missing x; it has no image"
    with pytest.raises(ParseError, match=takes + given) as caught:
        parse(Outer(), some)
    assert caught.value.where == "Outer.forward"


@pytest.mark.parametrize("given", [None, 4, [torch.zeros(2, 4)], np.zeros((2, 4))], ids=str)
def test_what_is_no_tensor_is_shown(given: Any) -> None:
    with pytest.raises(
        ParseError, match=rf"\(x: {'None' if given is None else type(given).__name__}"
    ):
        parse(Inner(), given)


class Product(nn.Module):
    def forward(self, x):
        return x @ x.double().t()


@pytest.mark.parametrize(
    ("model", "dtype", "cause"),
    [
        (lambda: nn.Linear(4, 2).double(), torch.float32, "same dtype, but got Float and Double"),
        (lambda: nn.Linear(4, 2), torch.complex64, "same dtype, but got ComplexFloat and Float"),
        (lambda: Inner().double(), torch.float32, "same dtype, but got Float and Double"),
        (Inner, torch.long, "same dtype, but got Long and Float"),
        (Inner, torch.bool, "same dtype, but got Bool and Float"),
        (Product, torch.float32, "same dtype, but got: float != double"),
        (lambda: nn.Softmax(-1), torch.long, "not implemented for 'Long'"),
    ],
)
def test_numbers_of_another_kind(model: Any, dtype: torch.dtype, cause: str) -> None:
    """Without data, these calls would do."""
    x = torch.zeros(2, 4, dtype=dtype)
    made = model()
    with pytest.raises((RuntimeError, NotImplementedError), match=cause):
        made(x)
    with pytest.raises(ParseError, match=f"does not run on its example inputs.*{cause}"):
        parse(made, x)


def test_numbers_that_are_mixed_and_do() -> None:
    class Masked(nn.Module):
        def forward(self, x, mask):
            scores = nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)
            return scores * mask.sum() + x.double()

    x, mask = torch.randn(2, 3, 4), torch.ones(3, 3, dtype=torch.bool)
    built = parse(Masked(), (x, mask)).to_module()
    torch.testing.assert_close(built(x, mask), Masked()(x, mask))


def test_a_forward_that_is_a_builtin() -> None:
    model = nn.Module()
    model.forward = torch.relu
    x = torch.randn(3, 4)
    torch.testing.assert_close(parse(model, torch.zeros(2, 4)).to_module()(x), x.relu())


@pytest.mark.parametrize(
    "odd",
    [
        lambda: torch.eye(4).to_sparse(),
        lambda: torch.nested.nested_tensor([torch.zeros(2, 4)], layout=torch.jagged),
        lambda: torch.quantize_per_tensor(torch.zeros(2, 4), 1.0, 0, torch.qint8),
    ],
    ids=["sparse", "nested", "quantized"],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_no_graph_has(odd: Any) -> None:
    with pytest.raises(ParseError, match=r"example input 'x' is a (sparse|nested)"):
        parse(Inner(), odd())


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
