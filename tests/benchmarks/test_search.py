"""The search benchmark runs, and its spaces are what they say."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from retiarii.strategies.registry import STRATEGIES
from retiarii.strategies.sampling import sample

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def synthetic(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from _search import synthetic

    return synthetic


def test_quick(tmp_path):
    out = tmp_path / "search"
    command = [sys.executable, str(BENCHMARKS / "search.py"), "--quick", "--out", str(out)]
    # A folder without tables: they are skipped, and that is said.
    done = subprocess.run(
        [*command, "--tables", str(tmp_path)],
        check=True,
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert "NAS-Bench-201 is skipped" in done.stdout
    kept = json.loads(out.with_suffix(".json").read_text())
    assert {row["strategy"] for row in kept["runs"]} >= set(STRATEGIES)
    assert {row["batch"] for row in kept["runs"]} == {1, 4, 16, 64}
    for row in kept["runs"]:
        if "refused" not in row:
            means = [regret["mean"] for regret in row["regret"].values()]
            assert means == sorted(means, reverse=True)
            assert means[-1] >= 0
    assert "synthetic layers" in out.with_suffix(".md").read_text()


@pytest.mark.parametrize("name", ["LayersGame", "TuningGame"])
def test_no_point_is_better_than_the_optimum(synthetic, name):
    for seed in range(3):
        space = getattr(synthetic, name)().space(seed)
        rng = Random(seed)

        def draw(label, domain, rng=rng):
            return sample(domain, rng)

        scores = [space.score(space.replay(draw)) for _ in range(500)]
        assert max(scores) < 100.0
        assert abs(sum(scores) / len(scores)) < 15.0


def test_the_optimum_of_layers_is_reached(synthetic, monkeypatch):
    """By brute force, in a space of at most two layers."""
    monkeypatch.setattr(synthetic, "DEPTHS", (1, 2))
    space = synthetic.LayersGame().space(0)
    scores = []
    for depth in (0, 1):
        for family, *layers in itertools.product(range(3), *[synthetic.LAYERS] * (depth + 1)):

            def answer(label, domain, family=family, layers=layers, depth=depth):
                if label in ("family", "depth"):
                    return family if label == "family" else depth
                kind, detail = layers[int(label[-1])]
                options = {
                    "kind": ["conv", "attention", "pool", "skip", "mix"],
                    "width": [8, 16, 32, 64],
                    "heads": [1, 2, 4],
                }[label[:-1]]
                return options.index(kind if label.startswith("kind") else detail)

            scores.append(space.score(space.replay(answer)))
    assert max(scores) == pytest.approx(100.0)
