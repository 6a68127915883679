from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retiarii.errors import EvaluatorError, TrialError
from retiarii.training.events import Failed, Finished, Reported, Started, TrialEvent
from retiarii.training.trial import Trial, describe_error, failures_end

numbers = st.floats(allow_nan=False)
metrics = st.dictionaries(st.text(max_size=5), numbers, max_size=3)
events = st.one_of(
    st.builds(Started, st.integers(0)),
    st.builds(Reported, st.integers(0), st.integers(0), metrics),
    st.builds(Finished, st.integers(0), numbers, metrics, st.booleans()),
    st.builds(Failed, st.integers(0), st.text(), st.text()),
)


@given(events)
def test_events_round_trip_as_one_line(event):
    line = event.to_json()
    assert len(line.splitlines()) == 1
    assert TrialEvent.from_json(line) == event


def test_nan_in_a_report_survives():
    event = TrialEvent.from_json(Reported(1, 2, {"x": math.nan}).to_json())
    assert isinstance(event, Reported)
    assert math.isnan(event.metrics["x"])


@pytest.mark.parametrize("line", ["[]", "nonsense", '{"event": "Else"}', '{"event": "Started"}'])
def test_other_lines_are_refused(line):
    with pytest.raises(ValueError):
        TrialEvent.from_json(line)


def test_report_takes_numbers_of_all_kinds(toys):
    trial, log = toys.trial()
    trial.report(3, a=1, b=np.float32(0.5), c=torch.tensor([2.0]), d=True)
    assert log.events == [Reported(0, 3, {"a": 1.0, "b": 0.5, "c": 2.0, "d": 1.0})]


@pytest.mark.parametrize("value", ["0.5", None, torch.ones(2), [1.0], 1j])
def test_report_refuses_what_is_not_a_number(toys, value):
    trial, log = toys.trial()
    with pytest.raises(EvaluatorError, match="metric 'x' is not a number"):
        trial.report(1, x=value)
    assert not log.events


@pytest.mark.parametrize("step", [-1, 1.5, True, "1"])
def test_report_refuses_a_bad_step(toys, step):
    with pytest.raises(EvaluatorError, match="step"):
        toys.trial()[0].report(step, x=1)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_must_be_finite(toys, score):
    trial, log = toys.trial()
    with failures_end(trial):
        trial.finish(score)
    assert "the score is" in log.failed.message


def test_it_ends_once(toys):
    trial, _ = toys.trial()
    trial.finish(1)
    with pytest.raises(EvaluatorError, match="ended before"):
        trial.fail("late")


def test_an_exception_fails_the_trial_and_keeps_its_traceback(toys):
    trial, log = toys.trial()
    with failures_end(trial):
        raise KeyError("width")
    cause, place = log.failed.message.splitlines()
    assert cause == "KeyError: 'width'"
    assert place.startswith(f"  at: {__file__}:")
    assert "test_trial.py" in log.failed.traceback


def test_the_place_of_an_exception_is_in_the_users_code(toys):
    trial, log = toys.trial()
    with failures_end(trial):
        json.loads("nonsense")
    assert log.failed.message.splitlines()[1].startswith(f"  at: {__file__}:")
    assert describe_error(ValueError("never raised")) == "ValueError: never raised"


def test_our_errors_keep_their_lines(toys):
    trial, log = toys.trial()
    with failures_end(trial):
        raise TrialError("cause", where="place", fix="do this")
    assert log.failed.message.splitlines() == ["cause", "  at: place", "  fix: do this"]


def test_an_interrupt_passes_through(toys):
    trial, log = toys.trial()
    with pytest.raises(KeyboardInterrupt), failures_end(trial):
        raise KeyboardInterrupt
    assert trial.outcome is None
    assert not log.events


def test_a_trial_made_by_hand_needs_no_channel():
    trial = Trial(0, 1)
    trial.report(0, x=1)
    assert trial.should_stop() is False
    trial.finish(2)
    assert trial.outcome == Finished(0, 2.0, {})
