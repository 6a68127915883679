"""What is measured of models before they are trained: as objectives, limits and filters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import retiarii as rt
from retiarii.errors import InfeasibleError, ObjectiveError, StoreError
from retiarii.experiment import Experiment
from retiarii.objectives import measures
from retiarii.result import Result, open_result
from retiarii.runtime.store import Store
from retiarii.training.function import Function
from retiarii.training.trial import Trial


def shape(result: Result) -> list[Any]:
    return [(t.id, t.state, dict(t.decisions), dict(t.metrics)) for t in result.trials]


class Widths(rt.Mutator):
    def mutate(self, graph: rt.Graph, target: rt.Node) -> None:
        graph.update(target, out_features=self.choice([2, 4, 8, 16, 32], label="width"))


def space() -> rt.ModelSpace:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    return rt.ModelSpace(model, torch.zeros(2, 4)).apply_mutator(["0", "2"], Widths())


def widest(trial: Trial) -> float:
    return float(sum(v for v in trial.decisions.values()))


def supervised(epochs: int = 1) -> rt.Supervised:
    torch.manual_seed(0)
    x = torch.randn(96, 4)
    data = (x, (x.sum(1) > 0).long())
    return rt.Supervised(
        data, data, loss=nn.CrossEntropyLoss(), optimizer=rt.SGD(lr=0.1), epochs=epochs
    )


def models(trials: int = 8, evaluator: Any = None, **options: Any) -> Result:
    options.setdefault("strategy", "random")
    return Experiment(space(), evaluator or Function(widest), trials=trials, **options).run()


# -- what is measured


def test_costs_are_measured_before_training() -> None:
    wanted = {"score": "max", "params": "min", "flops@1": "min", "model_size": "min"}
    result = models(objectives={**wanted, "activation_memory": "min"})
    for trial in result.trials:
        assert trial.candidate is not None
        cost = trial.candidate.cost()
        assert trial.metrics["params"] == cost.params
        assert trial.metrics["model_size"] == cost.size
        assert trial.metrics["flops@1"] == trial.candidate.cost(batch=1).flops
        assert trial.metrics["activation_memory"] == cost.activations


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Latency that is a function of the model, and which models were timed."""
    seen: list[str] = []

    def fixed(graph: Any, *, device: Any, batch: int | None, **_: Any) -> Any:
        seen.append(graph.canonical_hash())
        cost = graph.cost(batch=batch)
        seconds = 1e-3 + 1e-6 * cost.flops
        return type("Latency", (), {"seconds": seconds})()

    monkeypatch.setattr(measures, "latency", fixed)
    return seen


def test_latency_is_measured_once_a_model_and_kept(timed: list[str], tmp_path: Path) -> None:
    options: dict[str, Any] = {"directory": tmp_path, "objectives": "score=max,latency@4=min"}
    first = models(6, **options)
    assert len(timed) == len(set(timed)) == 6
    with_more = models(10, **options)
    assert len(timed) == 10
    assert shape(with_more)[:6] == shape(first)
    store = Store.read(tmp_path)
    assert {name for name, _ in store.measurements()} == {"latency@4"}
    assert sorted(store.measurements().values()) == sorted(
        t.metrics["latency@4"] for t in with_more.trials
    )
    store.close()


def test_latency_is_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETIARII_CACHE_DIR", str(tmp_path / "cache"))
    result = models(2, objectives="score=max,latency@3:cpu=min")
    for trial in result.trials:
        assert trial.candidate is not None
        kept = trial.candidate.graph.latency(device="cpu", batch=3)
        assert kept.cached
        assert trial.metrics["latency@3:cpu"] == kept.seconds > 0


def test_latency_of_many_models_is_predicted(
    timed: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(measures, "FITTED_TO", 8)
    notes: list[str] = []
    options: dict[str, Any] = {
        "objectives": "score=max,predicted_latency@4=min",
        "progress": lambda p: notes.append(p.note) if p.note else None,
    }
    result = models(20, **options)
    assert len(timed) == 8
    (note,) = (n for n in notes if n.startswith("latency is predicted"))
    assert "8 measured models" in note
    errors = []
    for trial in result.trials[8:]:
        assert trial.candidate is not None
        true = 1e-3 + 1e-6 * trial.candidate.cost(batch=4).flops
        errors.append(abs(trial.metrics["predicted_latency@4"] / true - 1))
    assert max(errors) < 0.05
    models(12, directory=tmp_path, **options)
    assert shape(models(20, directory=tmp_path, **options)) == shape(result)
    assert len(timed) == 16


def test_a_model_that_cannot_be_measured_is_a_failed_trial(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(self: Any, quantity: Any, candidate: Any) -> float:
        if 2 in candidate.decisions.values():
            raise InfeasibleError("no room")
        return 1.0

    monkeypatch.setattr(measures, "_WAYS", {"params": broken})
    ran = []

    def remember(trial: Trial) -> float:
        ran.append(trial.number)
        return 1.0

    options: dict[str, Any] = {"objectives": "score=max,params=min", "directory": tmp_path}
    result = models(25, Function(remember), **options)
    failed = [t for t in result.trials if 2 in t.decisions.values()]
    assert len(failed) == 9
    assert all(t.state == "failed" and "no room" in (t.error or "") for t in failed)
    assert sorted(ran) == [t.id for t in result.trials if t.state == "complete"]
    again = models(25, Function(remember), **options)
    assert shape(again) == shape(result)


def test_proxies_are_objectives_of_a_cohort_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from retiarii.proxies import passes

    sizes: list[int] = []
    real = passes.run

    def counted(proxy: Any, modules: Any, *rest: Any, **named: Any) -> Any:
        sizes.append(len(modules))
        return real(proxy, modules, *rest, **named)

    monkeypatch.setattr(passes, "run", counted)
    result = models(8, supervised(), cohort=4, objectives="accuracy=max,synflow=max,snip=max")
    assert sizes == [4, 4, 4, 4]  # two proxies, two cohorts
    assert all(t.metrics["synflow"] > 0 and t.metrics["snip"] > 0 for t in result.trials)


def test_what_a_function_reports_comes_before_what_is_built_in() -> None:
    result = models(3, Function(lambda t: {"score": 1.0, "params": 7.0}), objectives="params=min")
    assert [t.metrics["params"] for t in result.trials] == [7.0] * 3


def test_other_limits_and_filters_are_another_search(tmp_path: Path) -> None:
    models(2, directory=tmp_path, constraints=["params <= 300"])
    with pytest.raises(StoreError, match="constraints: was"):
        models(2, directory=tmp_path, constraints=["params <= 200"])
    with pytest.raises(StoreError, match=r"strategy\.prefilter: new"):
        models(2, directory=tmp_path, constraints=["params <= 300"], prefilter="synflow")


def test_another_device_is_another_search(timed: list[str], tmp_path: Path) -> None:
    objectives = "score=max,latency=min"
    models(2, directory=tmp_path, objectives=objectives)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        with pytest.raises(StoreError, match="latency_measured_on"):
            models(2, directory=tmp_path, objectives=objectives)
    finally:
        torch.set_num_threads(before)


# -- limits


def test_limits_are_kept_before_training() -> None:
    result = models(25, constraints=["params <= 120", "flops@1 > 60"])
    assert 0 < len(result.trials) < 25
    assert result.ended == "exhausted"
    assert result.skipped > 0
    for trial in result.trials:
        assert trial.candidate is not None
        assert trial.candidate.cost().params <= 120
        assert trial.candidate.cost(batch=1).flops > 60
    every = [c for c in space().enumerate() if c.cost().params <= 120]
    assert len(result.trials) == sum(c.cost(batch=1).flops > 60 for c in every)


def test_limits_on_latency_measure_what_else_is_kept_to(timed: list[str]) -> None:
    result = models(25, constraints=["latency@1 <= 0.00121", "params <= 120"])
    small = [c for c in space().enumerate() if c.cost().params <= 120]
    assert len(set(timed)) == len(timed) == len(small)
    assert len(result.trials) == sum(c.cost(batch=1).flops <= 210 for c in small) > 3


def test_what_was_measured_before_there_was_a_store_is_kept_too(
    timed: list[str], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"constraints": ["latency@1 <= 0.00121"], "directory": tmp_path}
    models(3, **options)
    store = Store.read(tmp_path)
    assert {key for _, key in store.measurements()} == set(timed)
    store.close()
    before = len(timed)
    models(3, **options)
    assert len(timed) == before


@pytest.mark.parametrize(
    ("limit", "samples"), [("params <= 3", 1000), ("latency <= 1e-9", 25), ("zen >= 1e9", 1000)]
)
def test_limits_that_nothing_meets(
    limit: str, samples: int, timed: list[str], tmp_path: Path
) -> None:
    place = tmp_path / "run"
    with pytest.raises(InfeasibleError, match="samples was feasible") as error:
        models(4, constraints=[limit], directory=place)
    name = limit.split()[0]
    assert f"of {1000} samples" in str(error.value)
    assert name in str(error.value)
    assert not place.exists()
    assert len(timed) <= samples


def test_few_models_are_timed_for_limits_that_nothing_meets(
    timed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from retiarii.objectives import limits

    monkeypatch.setattr(limits, "_TIMED", 5)
    with pytest.raises(InfeasibleError, match=r"did not meet `latency <= 1e-09`"):
        models(4, constraints=["latency <= 1e-9"])
    assert len(timed) == 5


def test_an_objective_that_supervised_does_not_report_is_found_before(tmp_path: Path) -> None:
    place = tmp_path / "run"
    with pytest.raises(ObjectiveError, match="no trial reports the objective 'acuracy'") as error:
        models(2, supervised(), objectives="acuracy=max,params=min", directory=place)
    assert "'accuracy'" in str(error.value)
    assert not place.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objectives": {"score": "min"}}, "the higher it is"),
        ({"objectives": {"score": "max", "snip": "max"}}, "snip needs labelled data"),
        ({"prefilter": "grad_norm"}, "grad_norm needs labelled data"),
        ({"warm_start": "nothing"}, "no proxy"),
        ({"objectives": {"score": "max", "latency:tpu": "min"}}, "tpu"),
        ({"constraints": ["speed < 2"]}, "not known before"),
    ],
)
def test_mistakes_are_found_before_anything_is_stored(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    place = tmp_path / "run"
    with pytest.raises(ObjectiveError, match=words):
        models(2, directory=place, **options)
    assert not place.exists()


# -- filters


def test_a_filter_trains_the_best_by_the_proxy() -> None:
    result = models(6, cohort=3, prefilter="synflow,times=3", seed=1)
    asked = models(18, seed=1)
    flow = {t.decisions.values().__str__(): t for t in result.trials}
    assert len(flow) == 6

    def flows(trials: Any) -> list[float]:
        found = measures.Measures(Function(widest), 1).values(
            "synflow", [t.candidate for t in trials]
        )
        return [float(value) for value in found]

    for start, taken in ((0, result.trials[:3]), (9, result.trials[3:])):
        best = sorted(flows(asked.trials[start : start + 9]), reverse=True)[:3]
        assert sorted(flows(taken), reverse=True) == pytest.approx(best)


def test_a_warm_start_is_of_the_first_cohort_alone() -> None:
    sizes: list[int] = []
    real = measures.Measures.values

    def counted(self: Any, name: str, candidates: Any) -> Any:
        sizes.append(len(candidates))
        return real(self, name, candidates)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures.Measures, "values", counted)
        result = models(9, cohort=3, warm_start="synflow,times=4", strategy="evolution")
    assert sizes == [12]
    assert len(result.trials) == 9


@pytest.mark.parametrize("strategy", ["evolution", "tpe", "local", "predictor", "random"])
def test_filtered_searches_resume(strategy: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "strategy": strategy,
        "cohort": 3,
        "prefilter": "synflow,times=2",
        "warm_start": "zen",
        "objectives": "score=max,params=min",
    }
    whole = models(11, **options)
    for trials in (4, 11):
        resumed = models(trials, directory=tmp_path, **options)
    assert shape(resumed) == shape(whole)
    assert shape(open_result(tmp_path)) == shape(whole)


def test_what_was_filtered_out_is_trained_when_nothing_else_is_left() -> None:
    result = models(100, cohort=4, prefilter="synflow,times=3")
    assert len(result.trials) == space().count() == 25
    assert len({json.dumps(dict(t.decisions)) for t in result.trials}) == 25


# -- beginnings


def test_trials_of_an_earlier_search_are_measured_too(tmp_path: Path) -> None:
    models(5, directory=tmp_path / "old")
    options: dict[str, Any] = {"objectives": "score=max,params=min", "strategy": "evolution"}
    options |= {"directory": tmp_path / "new", "continue_from": tmp_path / "old"}
    result = models(3, **options)
    assert len(result.trials) == 8
    for trial in result.trials:
        assert trial.candidate is not None
        assert trial.metrics["params"] == trial.candidate.cost().params
    assert shape(models(3, **options)) == shape(result)


def test_an_enqueued_candidate_is_measured_as_any_other() -> None:
    wanted = {"score": "max", "params": "min"}
    experiment = Experiment(
        space(), Function(widest), "nsga2", 3, objectives=wanted, prefilter="zen", cohort=2
    )
    experiment.enqueue({"Widths/0/width": 32, "Widths/2/width": 32})
    result = experiment.run()
    first = result.trials[0]
    assert first.candidate is not None
    assert first.metrics == {"score": 64.0, "params": first.candidate.cost().params}


def test_schedulers_go_with_objectives(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "objectives": "accuracy=max,params=min,synflow=max",
        "constraints": ["params <= 200"],
        "scheduler": "asha",
        "cohort": 4,
    }
    evaluator = supervised(3)
    result = models(8, evaluator, directory=tmp_path, **options)
    assert {t.state for t in result.trials} == {"complete", "pruned"}
    assert all({"accuracy", "params", "synflow"} <= set(t.metrics) for t in result.trials)
    assert {t.state for t in result.pareto} == {"complete"}
    assert shape(models(8, evaluator, directory=tmp_path, **options)) == shape(result)
