"""Tensors as Python: a short expression where one makes the same bits, else their bytes."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

# Up to how many elements a tensor's numbers are the easiest to read, and are still readable.
_FEW, _SEVERAL = 16, 64
_AXES = 6  # of a grid; more of them would explain nothing
_EXACT = 2**24  # up to here, float32 has all integers
_LINE = 84
_INDENT = "    "

_GRID = '''
def grid(start, *axes):
    """``start``, and from there ``step * index`` along each (length, step), outermost first."""
    made = torch.tensor([start])
    for length, step in axes:
        made = (made[:, None] + step * torch.arange(length)).flatten()
    return made
'''
_STORED = '''
def stored(name, dtype, *shape):
    """A tensor from its bytes, which are at the end of this file."""
    held = bytearray(zlib.decompress(base64.b64decode(STORED[name])))
    return torch.frombuffer(held, dtype=dtype).reshape(shape)
'''
_HELPERS = {"grid": _GRID, "stored": _STORED}


class Literals:
    """Writes tensors, and keeps what a file needs beside the expressions.

    Every expression is evaluated before it is used: it makes the very bits of its tensor.

    Args:
        number: writes a Python number, or nested lists of numbers.
    """

    # What a file that holds such expressions must not call otherwise.
    names = frozenset({*_HELPERS, "STORED", "base64", "zlib"})

    def __init__(self, number: Callable[[Any], str]) -> None:
        self._number = number
        self._scope: dict[str, Any] = {"torch": torch}
        exec(_GRID, self._scope)
        self._texts: dict[tuple[torch.dtype, tuple[int, ...], bytes], str] = {}
        self._stored: dict[str, bytes] = {}

    def write(self, tensor: torch.Tensor, name: str) -> str:
        """An expression that makes the tensor.

        Args:
            tensor: strided, with values, of any dtype and shape.
            name: what it is called, should its bytes be stored.
        """
        held = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        key = (held.dtype, tuple(held.shape), _bytes(held))
        if key not in self._texts:  # layers of a kind often have equal tables
            self._texts[key] = self._written(held, name)
        return self._texts[key]

    @property
    def helpers(self) -> list[str]:
        """The source of the functions that the expressions call."""
        texts = self._texts.values()
        return [code for name, code in _HELPERS.items() if any(f"{name}(" in t for t in texts)]

    @property
    def imports(self) -> set[str]:
        return {"import base64", "import zlib"} if self._stored else set()

    def footer(self) -> Iterator[str]:
        """The lines at the end of the file: the bytes, readable as base64."""
        if not self._stored:
            return
        yield "# Tensors that are in no state_dict: the bytes of each, packed by zlib, as base64."
        yield "STORED = {"
        for name, held in self._stored.items():
            text = base64.b64encode(zlib.compress(held, 9)).decode()
            yield f'{_INDENT}"{name}": ('
            yield from (f'{_INDENT * 2}"{text[i : i + _LINE]}"' for i in range(0, len(text), _LINE))
            yield f"{_INDENT}),"
        yield "}"

    def _written(self, tensor: torch.Tensor, name: str) -> str:
        for text in self._expressions(tensor):
            if self._makes(text, tensor):
                return text
        once = _once(tensor)
        if once is not None:
            counts = [n // m for n, m in zip(tensor.shape, once.shape, strict=True)]
            return f"{self.write(once, name)}.repeat({', '.join(map(str, counts))})"
        spelled = self._spelled(tensor) if tensor.numel() <= _SEVERAL else ""
        if spelled and self._makes(spelled, tensor):
            return spelled
        name = self._free(name)
        self._stored[name] = _bytes(tensor)
        return f'stored("{name}", {", ".join([str(tensor.dtype), *map(str, tensor.shape)])})'

    def _makes(self, text: str, tensor: torch.Tensor) -> bool:
        with torch.device("cpu"):
            made = eval(text, self._scope)
        return (
            made.dtype is tensor.dtype
            and made.shape == tensor.shape
            and torch.equal(_as_bytes(made), _as_bytes(tensor))
        )

    def _free(self, wanted: str) -> str:
        name, number = wanted, 0
        while name in self._stored:
            number += 1
            name = f"{wanted}_{number}"
        return name

    # --- what may make a tensor ----------------------------------------------------------------

    def _expressions(self, tensor: torch.Tensor) -> Iterator[str]:
        if tensor.numel() <= _FEW:
            yield self._spelled(tensor)
        if tensor.numel():
            yield from self._filled(tensor)
            yield from self._triangle(tensor)
            yield from self._affine(tensor)

    def _spelled(self, tensor: torch.Tensor) -> str:
        flat = tensor.dim() > 1 and tensor.numel() > _FEW
        numbers = self._number((tensor.flatten() if flat else tensor).tolist())
        made = f"torch.tensor({numbers}, dtype={tensor.dtype})"
        # Of an empty tensor, the nested lists do not say the whole shape.
        whole = not flat and tensor.numel() > 0
        return made if whole else f"{made}.reshape({tuple(tensor.shape)})"

    def _full(self, shape: tuple[int, ...], value: Any, dtype: torch.dtype) -> str:
        for function, of in (("zeros", 0), ("ones", 1)):
            if value == of:
                return f"torch.{function}({shape}, dtype={dtype})"
        return f"torch.full({shape}, {self._number(value)}, dtype={dtype})"

    def _filled(self, tensor: torch.Tensor) -> Iterator[str]:
        first = tensor.flatten()[:1]
        if torch.equal(tensor.flatten(), first.expand(tensor.numel())):
            yield self._full(tuple(tensor.shape), first.item(), tensor.dtype)

    def _triangle(self, tensor: torch.Tensor) -> Iterator[str]:
        """An identity, or a mask above or below a diagonal."""
        if tensor.dim() < 2 or tensor.numel() != tensor.shape[-1] * tensor.shape[-2]:
            return
        matrix = tensor.reshape(tensor.shape[-2:])
        there = matrix != 0
        if not bool(there.any()):
            return
        rows, columns = matrix.shape
        value = matrix[there][0].item()
        shaped = "" if tensor.dim() == 2 else f".reshape({tuple(tensor.shape)})"
        if value == 1 and rows == columns:
            yield f"torch.eye({rows}, dtype={tensor.dtype}){shaped}"
        full = self._full((rows, columns), value, tensor.dtype)
        across, down = int(there[0].sum()), int(there[:, 0].sum())
        below = across - 1 if across else down - rows
        above = columns - across if across < columns else 1 - down
        for call, diagonal in (("tril", below), ("triu", above)):
            yield f"{full}.{call}({diagonal or ''}){shaped}"

    def _affine(self, tensor: torch.Tensor) -> Iterator[str]:
        """Numbers that go up or down evenly along the axes of some grid: positions, say."""
        if tensor.dtype is torch.bool or tensor.is_complex():
            return
        flat = tensor.flatten()
        if tensor.is_floating_point():
            flat = flat.double()
            if not bool((flat == flat.round()).all() and (flat.abs() <= _EXACT).all()):
                return
        flat = flat.long()
        axes = _axes(flat)
        if axes is None:
            return
        start = int(flat[0])
        if len(axes) == 1:
            ((length, step),) = axes
            bounds = [start, start + length * step, step]
            bounds = bounds if step != 1 else bounds[:2] if start else bounds[1:2]
            text = f"torch.arange({', '.join(map(str, bounds))})"
        else:
            text = f"grid({', '.join(map(str, (start, *axes)))})"
        if tensor.dtype is not torch.int64:
            text += f".to({tensor.dtype})"
        yield text if tensor.dim() == 1 else f"{text}.reshape({tuple(tensor.shape)})"


def _axes(flat: torch.Tensor) -> list[tuple[int, int]] | None:
    """(length, step) of nested axes along which integers are even, outermost first."""
    axes: list[tuple[int, int]] = []
    if torch.equal(flat, flat[:1].expand_as(flat)):
        return None
    while flat.numel() > 1:
        step = flat[1] - flat[0]
        breaks = (flat.diff() != step).nonzero()
        length = int(breaks[0]) + 1 if len(breaks) else flat.numel()
        if flat.numel() % length or len(axes) == _AXES:
            return None
        blocks = flat.reshape(-1, length)
        if not torch.equal(blocks, blocks[:, :1] + step * torch.arange(length)):
            return None
        axes.insert(0, (length, int(step)))
        flat = blocks[:, 0]
    return axes


def _once(tensor: torch.Tensor) -> torch.Tensor | None:
    """The part that a tensor repeats along some of its dimensions; ``None`` for none."""
    part = tensor
    for dim, size in enumerate(tensor.shape):
        first = part.narrow(dim, 0, 1) if size > 1 else part
        if size > 1 and torch.equal(_as_bytes(first.expand_as(part)), _as_bytes(part)):
            part = first
    return None if part is tensor or not tensor.numel() else part.contiguous()


def _as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def _bytes(tensor: torch.Tensor) -> bytes:
    return _as_bytes(tensor).numpy().tobytes()
