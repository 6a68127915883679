"""The search benchmark runs, and its spaces are what they say."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from random import Random
from xml.etree.ElementTree import fromstring

import pytest

from retiarii.strategies.registry import STRATEGIES
from retiarii.strategies.sampling import sample

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def synthetic(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from _search import synthetic

    return synthetic


@pytest.mark.slow
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
    assert {row["strategy"] for row in kept["runs"]} >= set(STRATEGIES) - {"pbt"}
    assert any(row["strategy"].startswith("(Optuna") for row in kept["runs"])
    assert {row["batch"] for row in kept["runs"]} == {1, 4, 16, 64}
    for row in kept["runs"]:
        if "refused" not in row:
            means = [regret["mean"] for regret in row["regret"].values()]
            assert means == sorted(means, reverse=True)
            assert means[-1] >= 0
    page = out.with_suffix(".md").read_text()
    assert "synthetic layers" in page
    for name in ("search-synthetic-layers.svg", "search-synthetic-tuning-batches.svg"):
        assert f"({name})" in page
        assert fromstring((tmp_path / name).read_text()).tag.endswith("svg")
    assert set(kept["overhead"]) >= set(STRATEGIES) - {"pbt"}


def test_some_strategies_anew(tmp_path):
    """The others keep what was measured before."""
    out = tmp_path / "search"
    command = [sys.executable, str(BENCHMARKS / "search.py"), "--quick", "--out", str(out)]
    command += ["--tables", str(tmp_path), "--workers", "1", "--only"]
    for only in (["local", "grid"], ["local", "random"]):
        subprocess.run([*command, *only], check=True, timeout=300, capture_output=True)
    kept = json.loads(out.with_suffix(".json").read_text())
    played = [(row["space"], row["strategy"], row["batch"]) for row in kept["runs"]]
    assert len(set(played)) == len(played) == 2 * 3 * 4
    assert {name for _, name, _ in played} == {"local", "grid", "random"}


def test_a_run_of_more_seeds_is_the_same_seeds_and_more(synthetic):
    from _search.players import players
    from _search.playing import play_seeds

    make, game = players()["local"], synthetic.LayersGame()
    both = play_seeds(make, game, range(5, 7), 30)
    again = play_seeds(make, game, [5], 30).with_more(play_seeds(make, game, [6], 30))
    assert again.regrets == both.regrets
    assert len(both.regrets) == 2


def test_goals_are_told_by_name(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from _search.report import Report

    def row(strategy, mean, excellent):
        regret = {"150": {"mean": mean, "quartiles": [0, 0, 0]}}
        given = {"space": "NAS-Bench-201", "batch": 1, "seeds": 9}
        return {**given, "strategy": strategy, "regret": regret, "excellent": excellent}

    rows = [
        row("predictor", 0.01, 1.0),
        row("slow", 0.5, 0.4),
        row("random", 0.9, 0.1),
        row("(simple)", 0.0, 1.0),
    ]
    said = "\n".join(Report({"trials": 300}, (), (), rows, {})._goals(rows))
    assert "all but `random`, `slow` (40 %)" in said
    assert "0.010 (`predictor`; goal 0.02)" in said


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
