"""Small searches to report on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from retiarii.experiment import Experiment
from retiarii.mutators.choice import choice, loguniform, uniform
from retiarii.result import Result
from retiarii.training.function import Function
from retiarii.training.trial import Trial

Search = Callable[..., Result]


def curved(trial: Trial) -> dict[str, float]:
    """Three reports; what matters most is ``x``."""
    h = trial.hyperparameters
    score = -((h["x"] - 2.0) ** 2) - (h["kind"] != "b") * 0.1
    for step in (1, 2, 3):
        trial.report(step, score=score - 1.0 / step)
        if trial.should_stop():
            break
    return {"score": score, "params": 100.0 + h["x"]}


@pytest.fixture
def search() -> Search:
    def run(fn: Any = curved, trials: int = 12, **options: Any) -> Result:
        choices = options.pop(
            "choices",
            {
                "x": uniform(-5.0, 5.0),
                "kind": choice(["a", "b", "c"]),
                "lr": loguniform(1e-4, 1.0),
            },
        )
        evaluator = Function(fn, hyperparameters=choices, maximize=options.pop("maximize", True))
        options.setdefault("strategy", "random")
        return Experiment(None, evaluator, trials=trials, **options).run()

    return run
