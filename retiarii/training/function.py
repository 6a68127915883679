"""An evaluator around a user's own function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from retiarii.errors import EvaluatorError, nearest
from retiarii.mutators.choice import Description
from retiarii.training.evaluator import Evaluator
from retiarii.training.fingerprint import describe_callable, jsonable
from retiarii.training.labels import add_label
from retiarii.training.trial import Trial, as_number, failures_end


class Function(Evaluator):
    """Scores a candidate by calling ``fn(trial)``; never merged with others.

    Args:
        fn: returns a number, or a dict of numbers in which ``metric`` is the score. It gets the
            trial: ``trial.decisions``, ``trial.candidate`` (``.build(seed)`` makes the model),
            ``trial.hyperparameters``, ``trial.report(step, **metrics)``, ``trial.should_stop()``.
        maximize: whether a higher score is better.
        metric: the score's name.
        hyperparameters: name to what may be chosen (``rt.loguniform(...)``), or to a plain value.
            ``trial.hyperparameters`` holds the values under these names.

    Raises:
        EvaluatorError: ``fn`` cannot be called, ``metric`` is no name, ``hyperparameters`` is no
            dict, or two choices share a label.
    """

    def __init__(
        self,
        fn: Callable[[Trial], Any],
        *,
        maximize: bool = True,
        metric: str = "score",
        hyperparameters: Mapping[str, Any] | None = None,
    ) -> None:
        if not callable(fn):
            raise EvaluatorError(
                f"Function was given {fn!r}, which cannot be called",
                where="Function(fn)",
                fix="give the function itself: rt.Function(score), not rt.Function(score(...))",
            )
        if not isinstance(metric, str):
            raise EvaluatorError(
                f"metric is {metric!r}, not a name",
                where="Function(metric=...)",
                fix="give the key of the score in what the function returns: metric='accuracy'",
            )
        if hyperparameters is not None and not isinstance(hyperparameters, Mapping):
            raise EvaluatorError(
                f"hyperparameters is a {type(hyperparameters).__name__}, not a dict",
                where="Function(hyperparameters=...)",
                fix='give a name to each: hyperparameters={"lr": rt.loguniform(1e-4, 1e-1)}',
            )
        self._fn = fn
        self.maximize = maximize
        self.metric = metric
        self._given = dict(hyperparameters or {})
        self._labels: dict[str, str] = {}
        self._plain: dict[str, Any] = {}
        self._descriptions: dict[str, Description] = {}
        for name, value in self._given.items():
            if isinstance(value, Description):
                self._labels[name] = add_label(self._descriptions, name, value)
            else:
                self._plain[name] = value

    def hyperparameters(self) -> Mapping[str, Description]:
        return self._descriptions

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "function",
            "function": describe_callable(self._fn),
            "metric": self.metric,
            "maximize": self.maximize,
            "hyperparameters": {k: jsonable(v) for k, v in sorted(self._given.items())},
        }

    def run(self, cohort: Sequence[Trial]) -> None:
        for trial in cohort:
            with failures_end(trial):
                self._call(trial)

    def _call(self, trial: Trial) -> None:
        trial.start()
        chosen = {n: trial.hyperparameters[label] for n, label in self._labels.items()}
        trial.hyperparameters = {**trial.hyperparameters, **self._plain, **chosen}
        answer = self._fn(trial)
        if not isinstance(answer, Mapping):
            score = as_number(answer, "what the function returned")
            trial.finish(score, {self.metric: score})
            return
        if self.metric not in answer:
            names = [str(name) for name in answer]
            raise EvaluatorError(
                f"the function returned a dict without {self.metric!r}, the score's name"
                + (f"; {nearest(self.metric, names)}" if names else "; it is empty"),
                where=f"trial {trial.number}",
                fix=f"return {{{self.metric!r}: ...}}, or name the score: "
                f"rt.Function(fn, metric={names[0] if names else 'score'!r})",
            )
        trial.finish(answer[self.metric], {str(k): v for k, v in answer.items()})
