from __future__ import annotations

import json

import pytest

from retiarii.training.cohort.rates import Progress, Rates
from retiarii.training.schedules import Constant, Cosine, ReduceOnPlateau, WarmUp


def test_each_model_has_its_own_schedule_progress_and_state():
    plateau = ReduceOnPlateau(factor=0.5, patience=0)
    schedules = [Constant(), Cosine(), plateau, plateau, WarmUp(part=0.5, then=plateau)]
    rates = Rates(schedules, [0.1, 0.2, 0.3, 0.4, 0.5])
    at = [Progress(8 + i, 20, 4) for i in range(5)]
    assert rates.at(at) == pytest.approx(
        [0.1, Cosine().lr(9, 20, 0.2, 4), 0.3, 0.4, 0.5], rel=1e-15
    )
    for model in range(5):
        rates.after_epoch(model, 0.5, maximize=True)
        rates.after_epoch(model, 0.9 if model == 3 else 0.5, maximize=True)
    at = [Progress(12, 20, 4)] * 5
    assert rates.at(at) == [0.1, Cosine().lr(12, 20, 0.2, 4), 0.15, 0.4, 0.25]
    again = Rates(schedules, [0.1, 0.2, 0.3, 0.4, 0.5])
    for model in range(5):
        again.load_state_of(model, json.loads(json.dumps(rates.state_of(model))))
    assert again.at(at) == rates.at(at)
