"""The metric of each model of a cohort."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from retiarii.training.cohort.outputs import Outputs
from retiarii.training.metrics import MeanMeter, Meter, Metric
from retiarii.training.structure import map_tensors, pairs, tensors


class CohortMeters:
    """One meter a model. Ours are computed for all models at once, a user's one by one.

    Args:
        metric: what models are scored by.
        models: how many there are.
        run: ``(model, call)``: runs a user's code under the model's random numbers.
    """

    def __init__(
        self, metric: Metric, models: int, run: Callable[[int, Callable[[], Any]], Any]
    ) -> None:
        self._run = run
        self._meters: list[Meter] | None = None
        if metric.meter is not None:
            self._meters = [metric.meter() for _ in range(models)]
        self._builtin = metric.builtin

    @property
    def active(self) -> bool:
        """Whether there is a metric other than the validation loss."""
        return self._meters is not None

    def update(self, outputs: Outputs, targets: Any) -> dict[int, Exception]:
        """Take in one batch; answers the models whose metric cannot be computed, and why."""
        assert self._meters is not None
        first = self._meters[outputs.models[0]]
        if isinstance(first, MeanMeter) and _batched(outputs.value, targets):
            try:
                self._update_all(first, outputs, targets)
            except Exception as error:
                return dict.fromkeys(outputs.models, error)
            return {}
        failed = {}
        for place, model in enumerate(outputs.models):
            own = outputs.member(place)
            meter = self._meters[model]
            try:
                self._run(model, partial(meter.update, own, targets))
            except Exception as error:
                failed[model] = error
        return failed

    def compute(self, model: int) -> float:
        """A model's metric; whatever a user's metric raises goes through."""
        assert self._meters is not None
        meter = self._meters[model]
        return meter.compute() if self._builtin else float(self._run(model, meter.compute))

    def _update_all(self, first: MeanMeter, outputs: Outputs, targets: Any) -> None:
        count = len(outputs.models)
        folded = map_tensors(lambda t: t.flatten(0, 1), outputs.value)
        # Metrics are of samples one by one, so the models' samples may lie in one batch.
        spread = map_tensors(lambda t: t.expand(count, *t.shape).flatten(0, 1), targets)
        for position, (output, target) in enumerate(pairs(folded, spread, first.user)):
            values: Tensor = first.values(output, target).reshape(count, -1)
            sums = values.sum(1)
            for place, model in enumerate(outputs.models):
                meter = self._meters[model]  # type: ignore[index]
                assert isinstance(meter, MeanMeter)
                meter.add(position, sums[place], values.shape[1])


def _batched(outputs: Any, targets: Any) -> bool:
    """Whether outputs (stacked) and targets have a dimension of samples, and the same."""
    sizes = {t.shape[1] if t.ndim > 1 else -1 for t in tensors(outputs)}
    sizes |= {t.shape[0] if t.ndim else -1 for t in tensors(targets)}
    return len(sizes) == 1 and -1 not in sizes
