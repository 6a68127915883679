"""Every python block of the README and of docs/ runs, page by page, with small budgets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://)([^)#]+)")


def blocks(page: Path) -> list[tuple[int, str]]:
    """(line number, code) of each block."""
    text = page.read_text()
    return [(text[: m.start()].count("\n") + 2, m.group(1)) for m in BLOCK.finditer(text)]


def small(code: str) -> str:
    """The code with budgets cut to what a test can wait for."""
    code = re.sub(r"\btrials=64\b", "trials=2", code)
    return re.sub(r"\bepochs=\d+", "epochs=1", code)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p)], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "docs_page"}
    for line, code in blocks(page):
        # Errors then point to the page itself.
        padded = "\n" * (line - 1) + small(code)
        exec(compile(padded, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(FENCED.sub("", page.read_text())):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_readme_example_is_forty_lines_and_has_360_models() -> None:
    (_, code), *_ = blocks(ROOT / "README.md")
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    names: dict[str, Any] = {"__name__": "readme"}
    exec(code, names)
    assert names["space"].count() == 360
