"""The benchmark of several objectives runs, with and without its table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TABLES = BENCHMARKS.parents[1] / "shared" / "tabular"


@pytest.mark.slow
@pytest.mark.parametrize("there", [False, True])
def test_it_runs(there: bool, tmp_path: Path) -> None:
    if there and not (TABLES / "nb201_cifar10.csv").is_file():
        pytest.skip(f"{TABLES} is not there")
    out = tmp_path / "objectives"
    command = [sys.executable, str(BENCHMARKS / "objectives.py"), "--seeds", "1", "--cells", "36"]
    command += ["--out", str(out), "--tables", str(TABLES if there else tmp_path)]
    done = subprocess.run(command, check=True, timeout=600, capture_output=True, text=True)
    assert ("is not there" in done.stdout) != there
    found = json.loads(out.with_suffix(".json").read_text())
    assert ("fronts" in found) == there
    assert len(found["proxies"]) == 6
    assert all(float(row["largest difference"]) < 1e-9 for row in found["proxies"])
    assert found["latency"][0]["tried on"] == 4
    for row in found.get("fronts", []):
        assert 0.5 < row["after 50"] <= row["after 150"] <= 1.0
