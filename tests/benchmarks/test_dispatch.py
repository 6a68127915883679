"""The benchmark of dispatch runs; its store and its controller keep to what the issue asks for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "dispatch.py"


def _run(out: Path, *options: str) -> dict[str, list[dict[str, object]]]:
    command = [sys.executable, str(BENCHMARK), "--quick", "--out", str(out), *options]
    subprocess.run(command, check=True, timeout=500, capture_output=True)
    found: dict[str, list[dict[str, object]]] = json.loads(out.with_suffix(".json").read_text())
    return found


@pytest.mark.slow
def test_the_controller(tmp_path: Path) -> None:
    found = _run(tmp_path / "dispatch", "--only", "control", "--trials", "300")["control"]
    assert [(c["policy"], c["reports"]) for c in found] == [
        ("as given", 1),
        ("as given", 10),
        ("adaptive", 1),
    ]
    for each in found:
        stored, metrics = each["stored"], each["metrics"]
        assert isinstance(stored, float)
        assert isinstance(metrics, float)
        # A small store's pages are half empty; a long search's are not.
        assert 0 < stored - metrics < 1024
    text = (tmp_path / "dispatch.md").read_text()
    assert "## The controller" in text
    assert "## Workers" not in text


@pytest.mark.slow
def test_all_of_it(tmp_path: Path) -> None:
    found = _run(tmp_path / "dispatch")
    assert {"costs", "scaling", "suspending", "control"} <= found.keys()
    assert [c["executor"] for c in found["costs"]][:2] == ["inline", "local"]
    assert [s["workers"] for s in found["scaling"]] == [1, 2]
