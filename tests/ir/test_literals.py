from __future__ import annotations

from typing import Any

import pytest
import torch

from retiarii.ir.build.literals import Literals


def evaluated(text: str, literals: Literals) -> torch.Tensor:
    """What the expression makes in a file that has what it asks for."""
    lines = ["import torch", *literals.imports, *literals.helpers, *literals.footer()]
    scope: dict[str, Any] = {}
    exec("\n".join([*lines, f"made = {text}"]), scope)
    made: torch.Tensor = scope["made"]
    return made


def written(tensor: torch.Tensor) -> str:
    """The expression for a tensor, whose bits it makes."""
    literals = Literals(repr)
    text = literals.write(tensor, "a.table")
    made = evaluated(text, literals)
    assert made.dtype is tensor.dtype
    assert made.shape == tensor.shape
    assert made.is_contiguous()
    if tensor.numel():
        flat = made.flatten().view(torch.uint8)
        plain = tensor.resolve_conj().resolve_neg().contiguous()
        assert torch.equal(flat, plain.flatten().view(torch.uint8))
    return text


def relative_positions(side: int) -> torch.Tensor:
    """The index into a table of (2 side - 1)^2 offsets, for each pair of pixels of a window."""
    pixels = torch.stack(torch.meshgrid(2 * [torch.arange(side)], indexing="ij")).flatten(1)
    apart = pixels[:, :, None] - pixels[:, None] + side - 1
    return apart[0] * (2 * side - 1) + apart[1]


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (torch.zeros(40, 50), "torch.zeros((40, 50), dtype=torch.float32)"),
        (torch.ones(2000, dtype=torch.bool), "torch.ones((2000,), dtype=torch.bool)"),
        (torch.full((9, 9), -2.5), "torch.full((9, 9), -2.5, dtype=torch.float32)"),
        (torch.arange(512), "torch.arange(512)"),
        (torch.arange(7, 107), "torch.arange(7, 107)"),
        (torch.arange(100, 0, -2), "torch.arange(100, 0, -2)"),
        (torch.arange(512)[None], "torch.arange(512).reshape((1, 512))"),
        (torch.arange(99.0), "torch.arange(99).to(torch.float32)"),
        (torch.eye(30), "torch.eye(30, dtype=torch.float32)"),
        (
            torch.ones(64, 64).tril().bool()[None, None],
            "torch.ones((64, 64), dtype=torch.bool).tril().reshape((1, 1, 64, 64))",
        ),
        (
            torch.full((9, 12), -8.0).triu(2),
            "torch.full((9, 12), -8.0, dtype=torch.float32).triu(2)",
        ),
        (torch.ones(9, 12).triu(-3), "torch.ones((9, 12), dtype=torch.float32).triu(-3)"),
        (torch.ones(12, 9).tril(-2), "torch.ones((12, 9), dtype=torch.float32).tril(-2)"),
        (torch.ones(12, 9).tril(3), "torch.ones((12, 9), dtype=torch.float32).tril(3)"),
        (
            relative_positions(7),
            "grid(84, (7, 13), (7, 1), (7, -13), (7, -1)).reshape((49, 49))",
        ),
        (
            torch.arange(6).repeat_interleave(8).expand(5, 48),
            "grid(0, (5, 0), (6, 1), (8, 0)).reshape((5, 48))",
        ),
        (
            torch.tensor([0.25, 0.5, 0.25]).repeat(128, 2, 1),
            "torch.tensor([[[0.25, 0.5, 0.25]]], dtype=torch.float32).repeat(128, 2, 1)",
        ),
        (torch.tensor([0.5, -0.0]), "torch.tensor([0.5, -0.0], dtype=torch.float32)"),
    ],
)
def test_a_short_expression(tensor: torch.Tensor, text: str) -> None:
    assert written(tensor) == text


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.complex64,
        torch.int8,
        torch.uint8,
        torch.int32,
        torch.int64,
        torch.bool,
    ],
)
@pytest.mark.parametrize("shape", [(), (3,), (5, 7), (4, 25, 11)])
def test_any_tensor(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    tensor = (torch.randn(shape) * 50).round().clamp(min=0).to(dtype)
    text = written(tensor)
    assert ("stored(" in text) == (tensor.numel() > 64)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(0, 3),
        torch.tensor([float("nan"), float("inf"), 1.0]).repeat(31)[1:],
        torch.tensor([0.0, -0.0] * 50),  # equal, but of other bits
        torch.randn(40, 30).t(),
        torch.randn(90, dtype=torch.complex64).conj(),
        torch.randn(90, dtype=torch.complex64).conj().imag,
        torch.ones(90, dtype=torch.float8_e4m3fn),
        torch.randn(90).to(torch.float8_e5m2),
        torch.cat([torch.arange(50), torch.arange(50)[:23]]),
        torch.arange(100).double() + 2**30,
    ],
)
def test_what_only_looks_regular(tensor: torch.Tensor) -> None:
    written(tensor)


def test_equal_tensors_are_stored_once() -> None:
    literals = Literals(repr)
    torch.manual_seed(0)
    one, two = torch.randn(100), torch.randn(100)
    first, again = literals.write(one, "a"), literals.write(one.clone(), "b")
    assert first == again
    other = literals.write(two, "a")
    assert torch.equal(evaluated(other, literals), two)
    assert torch.equal(evaluated(first, literals), one)
    assert sum(line.endswith("(") for line in literals.footer()) == 2
    assert max(map(len, literals.footer())) <= 100
