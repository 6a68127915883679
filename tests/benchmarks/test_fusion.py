"""``benchmarks/fusion.py`` runs through, and counts what it says that it counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``--quick`` writes."""
    out = tmp_path_factory.mktemp("fusion") / "fusion"
    command = [sys.executable, "-c", "from retiarii.cli import main; main()", "bench", "fusion"]
    done = subprocess.run(
        [*command, "--quick", "--device", "cpu", "--out", str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert out.with_suffix(".md").read_text() in done.stdout
    found: dict[str, Any] = json.loads(out.with_suffix(".json").read_text())
    return found


def test_every_workload_has_its_row(quick: dict[str, Any]) -> None:
    assert [r["workload"] for r in quick["speed"]] == ["cnn", "hpo", "frozen", "tabular"]
    for row in quick["speed"]:
        assert {"foreach", "fused", "rt.merge", "cohort", "processes"} <= row["entries"].keys(), row
        assert ("vmap" in row["entries"]) == (row["workload"] != "tabular")
        # What did not take part says why.
        assert all(row["skipped"].values())
        assert "HFTA" in row["skipped"]


def test_merging_changed_no_result(quick: dict[str, Any]) -> None:
    for row in quick["speed"]:
        assert row["differences"].keys() == {"rt.merge", "cohort"}
        assert max(row["differences"].values()) < 1e-9, row["workload"]


def test_merged_steps_call_fewer_kernels(quick: dict[str, Any]) -> None:
    entries = quick["speed"][0]["entries"]
    assert 0 < entries["rt.merge"]["calls"] < entries["foreach"]["calls"]
    assert entries["rt.merge"]["peak"] > 0


def test_no_rule_launches_less_than_the_bound(quick: dict[str, Any]) -> None:
    assert len({each["forest"] for each in quick["scheduling"]}) == 6
    for each in quick["scheduling"]:
        assert len(each["groups"]) == 5
        assert each["bound"] <= min(each["groups"].values())
        assert max(each["groups"].values()) <= each["nodes"]
        if each["optimum"] is not None:
            assert each["bound"] <= each["optimum"] <= min(each["groups"].values())
    assert any(each["optimum"] is not None for each in quick["scheduling"])


def test_what_was_measured_outlives_an_interrupt(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from retiarii.cli import main; main()", "bench", "fusion"]
    out = tmp_path / "found" / "fusion"
    process = subprocess.Popen(
        [*command, "scheduling", "--largest", "1000", "--out", str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    while "s  scheduling" not in process.stderr.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    text, _ = process.communicate()
    assert process.returncode == 130
    assert text == out.with_suffix(".md").read_text()
    assert "- the rest: interrupted" in text
    assert "| NAS-Bench-201 | 2 |" in text
    found = json.loads(out.with_suffix(".json").read_text())
    assert 1 <= len(found["scheduling"]) < 15


def test_what_is_watched() -> None:
    from _fusion.watching import Watch, does_work

    aten = torch.ops.aten
    assert does_work(aten.add.Tensor)
    assert does_work(aten.add_.Tensor)
    assert does_work(aten.cat.default)
    assert not does_work(aten.view.default)
    assert not does_work(aten.transpose.int)
    assert not does_work(aten.empty.memory_format)
    held = torch.zeros(100)
    with Watch([held]) as watch:
        twice = held + held  # alive to the end
        (twice.view(10, 10).t() * 3).sum()  # the product is gone when the sum is there
        last = held.clone()
    assert watch.calls == 4
    assert watch.peak == 4 * (100 + 100 + 100 + 1)
    assert watch.live == 4 * (100 + 100 + 100)
    assert last.numel() == 100


def test_the_exponent_is_the_slope() -> None:
    from _fusion.merging import exponent

    assert exponent([10, 100, 1000], [3 * n**1.25 for n in (10, 100, 1000)]) == pytest.approx(1.25)


def test_ratios_are_of_the_same_rounds() -> None:
    from _fusion.race import Lap

    serial, ours = Lap((4.0, 40.0, 8.0), 1), Lap((2.0, 10.0, 8.0), 1)
    ratio = ours.over(serial)
    assert (ratio.low, ratio.median, ratio.high) == (1.5, 2.0, 3.0)
