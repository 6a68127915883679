"""What docs/merging.md shows is what the code does: parts of it are generated.

``python tests/test_docs_merging.py`` writes them anew.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

import retiarii as rt
from retiarii.errors import MergeError
from retiarii.ir.ops import OPS
from retiarii.optimizer.rules.registry import RULES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "merging.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PASS = re.compile(r"<!-- pass: ([\w ]+) -->\n(?:\n```text\n.*?^```\n)?", re.MULTILINE | re.DOTALL)
_TABLE = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def passes(page: str) -> dict[str, str]:
    """Name -> what it prints, for the models of the page's first block."""
    code = _BLOCK.findall(page)[0]
    made = io.StringIO()
    with mock.patch.dict(os.environ, {"RETIARII_PRINT": "passes"}), redirect_stderr(made):
        exec(compile(code, str(PAGE), "exec"), {"__name__": "docs_page"})
    found: dict[str, str] = {}
    for part in made.getvalue().split("--- after ")[1:]:
        name, _, text = part.partition("\n")
        found.setdefault(name, text.strip())  # what comes later is of another mode
    return found


def families() -> Iterator[str]:
    """The families that have a rule, with the operations of each."""
    yield "| family | operations |"
    yield "|---|---|"
    for family in sorted(RULES):
        rows = [name for name, spec in OPS.items() if spec.fuse == family]
        lower = {name.lower().replace("_", "") for name in rows if name.islower()}
        rows = [n for n in rows if n.islower() or n.lower() not in lower]
        more = f" and {len(rows) - 12} more" if len(rows) > 12 else ""
        yield f"| {family} | {', '.join(f'`{n}`' for n in rows[:12])}{more} |"


def unmerged() -> Iterator[str]:
    """The operations that run one by one, with the reasons that the rules' own test has."""
    file = ROOT / "tests" / "optimizer" / "rules" / "test_table.py"
    spec = importlib.util.spec_from_file_location("rules_table", file)
    assert spec is not None
    assert spec.loader is not None
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    reasons: dict[str, list[str]] = {}
    for op, reason in table.UNMERGED.items():
        reasons.setdefault(reason, []).append(f"`{op}`")
    some = {**table.UNMERGED_CALLS, **dict.fromkeys(table.UNMERGED_TRAINING, table._DROPS)}
    for (op, _), reason in some.items():
        known = reasons.setdefault(reason, [])
        known += [] if f"some calls of `{op}`" in known else [f"some calls of `{op}`"]
    yield "| runs one by one | because |"
    yield "|---|---|"
    for reason, ops in reasons.items():
        yield f"| {', '.join(ops)} | {reason} |"


def _hooked() -> nn.Module:
    model = nn.Linear(4, 2)
    hook: Any = model.weight.register_post_accumulate_grad_hook
    hook(lambda weight: None)
    return model


def _twice() -> object:
    model = nn.Linear(4, 2)
    return rt.merge([model, model], torch.zeros(2, 4))


class _Picture(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean((2, 3))


class _Masked(nn.Module):
    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return x if mask is None else x * mask


def _unlike() -> object:
    one, other = (
        rt.parse(nn.Linear(4, 2), torch.zeros(2, 4)),
        rt.parse(_Picture(), torch.zeros(2, 1, 4, 4)),
    )
    return rt.merge([one, other])


def _called_otherwise() -> object:
    x = torch.zeros(2, 4)
    return rt.merge([_Masked(), _Masked()], x)(x, torch.ones(4))


def _pickled() -> None:
    torch.save(rt.merge([nn.Linear(4, 2)], torch.zeros(2, 4)), io.BytesIO())


def _unfrozen() -> object:
    torch.manual_seed(0)
    stem = nn.Linear(4, 4).requires_grad_(False)
    x = torch.zeros(2, 4)
    merged = rt.merge([nn.Sequential(stem, nn.Linear(4, 2)) for _ in range(2)], x)
    return merged.requires_grad_(True)(x)


class _Sum(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


class _SumOfPair(nn.Module):
    def forward(self, pair: list[torch.Tensor]) -> torch.Tensor:
        return pair[0] + pair[1]


def _otherwise() -> object:
    x = torch.zeros(2, 4)
    return rt.merge([rt.parse(_Sum(), (x, x)), rt.parse(_SumOfPair(), ([x, x],))])


REFUSED: dict[str, Callable[[], object]] = {
    "no models": lambda: rt.merge([], torch.zeros(2, 4)),
    "the same module twice": _twice,
    "models on two devices": lambda: rt.merge(
        [nn.Linear(4, 2), nn.Linear(4, 2, device="meta")], torch.zeros(2, 4)
    ),
    "models that take other inputs": _unlike,
    "models that take them otherwise": _otherwise,
    "a shared frozen layer, unfrozen later": _unfrozen,
    "hooks on parameters": lambda: rt.merge([_hooked()], torch.zeros(2, 4)),
    "modules that run with their own parameters only": lambda: rt.merge(
        [nn.DataParallel(nn.Linear(4, 2))], torch.zeros(2, 4)
    ),
    "a call of another structure than the example": _called_otherwise,
    "inputs of more or fewer dimensions": lambda: rt.merge([nn.Linear(4, 2)], torch.zeros(2, 4))(
        torch.zeros(4)
    ),
    "pickling the merged model": _pickled,
}


def refused() -> Iterator[str]:
    """What each refusal says."""
    yield "| what | the error |"
    yield "|---|---|"
    for what, call in REFUSED.items():
        try:
            call()
        except MergeError as error:
            yield f"| {what} | {error.cause}; fix: {error.fix} |"
        else:
            raise AssertionError(f"{what} is not refused")


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "families": families,
    "unmerged": unmerged,
    "refused": refused,
}


def generated(page: str) -> str:
    """The page with its generated parts as they should be."""
    printed = passes(page)
    shown = _PASS.findall(page)
    assert shown == list(printed), f"the passes are {list(printed)}, and the page shows {shown}"

    def block(found: re.Match[str]) -> str:
        return f"{found[0].splitlines()[0]}\n\n```text\n{printed[found[1]]}\n```\n"

    def table(found: re.Match[str]) -> str:
        return found[1] + "\n".join(TABLES[found[2]]()) + "\n" + found[3]

    return _TABLE.sub(table, _PASS.sub(block, page))


def test_the_page_shows_what_the_code_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETIARII_MEASURE", "0")
    page = PAGE.read_text()
    wanted = generated(page)
    assert page.splitlines() == wanted.splitlines(), f"run python {Path(__file__).name}"


def test_every_generated_part_is_on_the_page() -> None:
    page = PAGE.read_text()
    found: list[Any] = [name for _, name, _ in _TABLE.findall(page)]
    assert found == list(TABLES)


if __name__ == "__main__":
    PAGE.write_text(generated(PAGE.read_text()))
