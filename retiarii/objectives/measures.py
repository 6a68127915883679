"""Measures models before they are trained; what was measured once is not measured again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import torch

from retiarii.errors import ObjectiveError, RetiariiError
from retiarii.ir.analysis.latency import device_name, latency
from retiarii.objectives.names import Quantity
from retiarii.objectives.predictor import LatencyPredictor, features
from retiarii.seeding import derive

if TYPE_CHECKING:
    from retiarii.proxies.base import Sample
    from retiarii.runtime.store import Store
    from retiarii.space import Candidate
    from retiarii.training.evaluator import Evaluator

# So many models are measured before `predicted_latency` predicts.
FITTED_TO: Final = 32
# Samples that proxies look at.
PROXY_BATCH: Final = 32
# Models that are merged for a proxy at most: their memory adds up.
_TOGETHER: Final = 32

Value = float | str


class Measures:
    """The values of a search's models, by canonical hash.

    Values are kept in the search's store, so that a search that resumes sees the same.

    Args:
        evaluator: has the batch that proxies are computed on, where it has one; else numbers are
            drawn. Latency is measured on its device, unless a name says otherwise.
        seed: the search's.
    """

    def __init__(self, evaluator: Evaluator, seed: int) -> None:
        self._evaluator = evaluator
        self._device = evaluator.trains_on()
        self._seed = derive(seed, "proxy") % 2**63
        self._store: Store | None = None
        self._known: dict[tuple[str, str], Any] = {}
        self._predictors: dict[str, LatencyPredictor] = {}
        self._notes: list[str] = []
        #: How many models were timed, in this process.
        self.timed = 0

    def attach(self, store: Store) -> None:
        """Takes over what a store holds, and keeps what is measured there from now on."""
        before = dict(self._known)
        self._known |= store.measurements()
        self._store = store
        for (name, key), value in before.items():
            if self._known[name, key] == value:
                store.keep_measurement(name, key, value)

    def notes(self) -> list[str]:
        """What is to be told since this was last asked, a line each."""
        found, self._notes = self._notes, []
        return found

    def device_of(self, quantity: Quantity) -> torch.device:
        """Where a quantity is timed."""
        return self._device if quantity.device is None else torch.device(quantity.device)

    def values(self, name: str, candidates: Sequence[Candidate]) -> list[Value]:
        """A number for each candidate, or why there is none.

        Proxies of all candidates are computed in one merged pass.

        Args:
            name: of a built-in objective or a proxy.
            candidates: any; equal models are measured once.
        """
        quantity = Quantity.of(name)
        assert quantity is not None
        keys = [candidate.canonical_hash() for candidate in candidates]
        new = {k: c for k, c in zip(keys, candidates, strict=True) if (name, k) not in self._known}
        if quantity.is_proxy:
            self._proxies(name, new)
        else:
            for key, candidate in new.items():
                self._keep(name, key, self._tried(_WAYS[quantity.what], quantity, candidate))
        return [self._known[name, key] for key in keys]

    def _tried(self, way: Callable[[Measures, Quantity, Candidate], float], *given: Any) -> Value:
        try:
            return float(way(self, *given))
        except RetiariiError as error:
            return error.cause

    def _keep(self, name: str, key: str, value: Any) -> None:
        self._known[name, key] = value
        if self._store is not None:
            self._store.keep_measurement(name, key, value)

    # -- costs

    def _params(self, quantity: Quantity, candidate: Candidate) -> float:
        del quantity
        return candidate.cost().params

    def _size(self, quantity: Quantity, candidate: Candidate) -> float:
        del quantity
        return candidate.cost().size

    def _flops(self, quantity: Quantity, candidate: Candidate) -> float:
        return candidate.cost(batch=quantity.batch).flops

    def _activations(self, quantity: Quantity, candidate: Candidate) -> float:
        return candidate.cost(batch=quantity.batch).activations

    def _latency(self, quantity: Quantity, candidate: Candidate) -> float:
        self.timed += 1
        where = self.device_of(quantity)
        return latency(candidate.graph, device=where, batch=quantity.batch).seconds

    def _predicted(self, quantity: Quantity, candidate: Candidate) -> float:
        place = f"{quantity.what}@{quantity.batch}:{self.device_of(quantity)} fit"
        known = features(candidate.cost(batch=quantity.batch))
        if place not in self._predictors:
            fit = {k: v for (name, k), v in self._known.items() if name == place}
            if len(fit) < FITTED_TO:
                seconds = self._latency(quantity, candidate)
                self._keep(place, candidate.canonical_hash(), [known, seconds])
                return seconds
            # In the order of hashes: that of measuring is not known to a search that resumes.
            made = LatencyPredictor.fit([tuple(fit[key]) for key in sorted(fit)])
            self._predictors[place] = made
            self._notes.append(str(made))
        return self._predictors[place].predict(known)

    # -- proxies

    def _proxies(self, name: str, new: Mapping[str, Candidate]) -> None:
        candidates = list(new.values())
        found: list[Value] = []
        for start in range(0, len(candidates), _TOGETHER):
            part = candidates[start : start + _TOGETHER]
            try:
                found += self._pass(name, part)
            except Exception:  # of one of them: that is told, and the others are computed
                found += [self._alone(name, candidate) for candidate in part]
        for key, value in zip(new, found, strict=True):
            finite = isinstance(value, str) or math.isfinite(value)
            self._keep(name, key, value if finite else f"its {name} is {value}")

    def _alone(self, name: str, candidate: Candidate) -> Value:
        try:
            return self._pass(name, [candidate])[0]
        except RetiariiError as error:
            return error.cause
        except Exception as error:  # any code of the model's
            return f"{name} cannot be computed: {type(error).__name__}: {error}"

    def _pass(self, name: str, candidates: Sequence[Candidate]) -> list[float]:
        from retiarii.proxies.passes import run
        from retiarii.proxies.registry import make_proxy

        proxy = make_proxy(name)
        modules = [candidate.build(self._seed).to(self._device) for candidate in candidates]
        return run(proxy, modules, self._sample(candidates[0]), self._seed)

    def _sample(self, candidate: Candidate) -> Sample:
        from retiarii.proxies.examples import drawn, of_examples

        batch = self._evaluator.examples(PROXY_BATCH, self._seed)
        if batch is None:
            return drawn(candidate.graph, PROXY_BATCH, self._device)
        return of_examples(batch, candidate, self._device)


_WAYS: Final[Mapping[str, Callable[[Measures, Quantity, Any], float]]] = MappingProxyType(
    {
        "params": Measures._params,
        "model_size": Measures._size,
        "flops": Measures._flops,
        "activation_memory": Measures._activations,
        "latency": Measures._latency,
        "predicted_latency": Measures._predicted,
    }
)


def shown_device(measures: Measures, quantity: Quantity) -> str:
    """Where a quantity is timed, as the identity of a search has it: elsewhere, other latencies.

    Raises:
        ObjectiveError: nothing can run there.
    """
    try:
        device = measures.device_of(quantity)
        torch.empty(1, device=device)
        return device_name(device)
    except (RuntimeError, AssertionError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ObjectiveError(
            f"nothing can be measured on device {quantity.device!r}: {first}",
            where="objectives",
            fix="name a device that is here: latency:cpu",
        ) from error
