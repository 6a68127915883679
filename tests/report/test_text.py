"""What the terminal shows."""

from __future__ import annotations

from collections.abc import Callable

from retiarii.mutators.choice import Numbered
from retiarii.report.importance import Importance
from retiarii.report.text import confirmed_lines, curve_lines, decided, importance_lines
from retiarii.result import Result
from retiarii.training.trial import Trial

Search = Callable[..., Result]


def test_decisions_on_one_line() -> None:
    decisions = {"lr": 0.123456, "layer": Numbered.of(1, "Linear(8, 8)"), "op": "max", "n": 3}
    assert decided(decisions) == "lr=0.1235, layer=Linear(8, 8), op=max, n=3"


def test_curves_on_one_scale(search: Search) -> None:
    def rising(trial: Trial) -> float:
        for step in range(8):
            trial.report(step, score=float(step if trial.number else 0))
        return float(trial.number)

    lines = curve_lines(search(rising, trials=2), 5)
    assert lines[0] == "learning curves of score, from 0 to 7:"
    assert "▁▂▃▄▅▆▇█  step 7" in lines[1]
    assert "▁▁▁▁▁▁▁▁  step 7" in lines[2]


def test_long_curves_are_thinned_and_keep_their_end(search: Search) -> None:
    def rising(trial: Trial) -> float:
        for step in range(500):
            trial.report(step, score=float(step))
        return 499.0

    (_, line) = curve_lines(search(rising, trials=1), 5)
    shape = line.split()[3]
    assert len(shape) == 40
    assert shape[-1] == "█"


def test_no_reports(search: Search) -> None:
    assert curve_lines(search(lambda t: 1.0), 5) == ["no trial reported score on its way"]


def test_bars() -> None:
    found = Importance((("lr", 0.75), ("width", 0.25)), 30, frozenset({"width"}))
    assert importance_lines(found, "accuracy") == [
        "importance for accuracy (fANOVA, 30 complete trials):",
        "  lr      75.0 %  " + "█" * 40,
        "  width   25.0 %  " + "█" * 13 + "  (not asked of all)",
    ]


def test_confirmations_best_mean_first(search: Search) -> None:
    result = search(confirm=2)
    lines = confirmed_lines(result)
    assert lines[0] == "trained again from 2 seeds, mean and deviation of score:"
    assert result.best is not None
    assert lines[1].split()[:2] == ["trial", str(result.best.id)]
    assert len(lines) == 6
    assert confirmed_lines(search()) == []
