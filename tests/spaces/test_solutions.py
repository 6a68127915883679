"""docs/nas-solutions.md: every entry of its table leads to code that runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "nas-solutions.md"
TEXT = PAGE.read_text()
SECTION = re.compile(r"^## (.+?)$(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| \[(.+?)\]\(#(.+?)\) \|(.*)\|$", re.MULTILINE)


def anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


SECTIONS = {anchor(m.group(1)): BLOCK.findall(m.group(2)) for m in SECTION.finditer(TEXT)}
# The first block makes the names that all others use; pruning goes on with morphism's model.
COMMON = BLOCK.findall(TEXT)[0]
NEEDS = {"pruning": "network-morphism"}


def test_the_table_and_the_sections_are_the_same() -> None:
    assert [m.group(2) for m in ROW.finditer(TEXT)] == list(SECTIONS)
    assert all(SECTIONS.values())


@pytest.mark.parametrize("name", list(SECTIONS))
def test_an_entry_runs_by_itself(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "solution"}
    before = SECTIONS[NEEDS[name]] if name in NEEDS else []
    for code in [COMMON, *before, *SECTIONS[name]]:
        exec(compile(code, f"{PAGE.name}#{name}", "exec"), names)
