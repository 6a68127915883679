"""Two conditional spaces whose optimum is known, another one for each seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from random import Random

from _search.spaces import KnownPoint
from retiarii.mutators.choice import (
    Chooser,
    Recorder,
    choice,
    loguniform,
    randint,
    recording,
    uniform,
)
from retiarii.seeding import derive
from retiarii.strategies.sampling import sample

Values = dict[str, object]

# A layer: its kind, and for some kinds one decision more.
LAYERS = tuple(
    [("conv", width) for width in (8, 16, 32, 64)]
    + [("attention", heads) for heads in (1, 2, 4)]
    + [(kind, None) for kind in ("pool", "skip", "mix")]
)
DEPTHS = (1, 2, 3, 4, 5)
FAMILIES = ("plain", "dense", "residual")


class SyntheticSpace:
    """What ``ask`` asks, scored by ``value``, on a scale: 0 is the mean of random points, 100 the
    optimum."""

    best = 100.0

    def __init__(
        self, ask: Callable[[], object], value: Callable[[Values], float], best: float, seed: int
    ) -> None:
        self._ask, self._value, self._best = ask, value, best
        rng = Random(derive(seed, "scale"))
        points = [self.replay(lambda _, domain: sample(domain, rng)) for _ in range(400)]
        self._mean = statistics.fmean(value(_values(point)) for point in points)

    def replay(self, chooser: Chooser) -> KnownPoint:
        recorder = Recorder(chooser)
        with recording(recorder):
            self._ask()
        made = recorder.decisions
        return KnownPoint(made, None, repr([(d.label, d.raw) for d in made]))

    def score(self, point: KnownPoint) -> float:
        value = self._value(_values(point))
        return 100.0 * (value - self._mean) / (self._best - self._mean)


def _values(point: KnownPoint) -> Values:
    return {decision.label: decision.value for decision in point.decisions}


class LayersGame:
    """A family, a depth, and layers of kinds that bring decisions of their own.

    A layer's value depends on its place and on the layer before it; the optimum is found by
    dynamic programming. 3 * (10 + ... + 10**5) = 333,330 points.
    """

    name = "synthetic layers"
    unit = "percent of the optimum over a random point"
    excellent = 2.0

    def space(self, seed: int) -> SyntheticSpace:
        rng = Random(derive(seed, self.name))
        family = {name: rng.gauss(0.0, 1.0) for name in FAMILIES}
        depth = {count: rng.gauss(0.0, 1.0) - 0.3 * count for count in DEPTHS}
        alone = {(at, layer): rng.gauss(0.0, 1.0) for at in range(DEPTHS[-1]) for layer in LAYERS}
        pairs = {(a, b): rng.gauss(0.0, 0.7) for a in LAYERS for b in LAYERS}

        def value(values: Values) -> float:
            layers = [
                (kind, values.get(f"width{at}", values.get(f"heads{at}")))
                for at in range(int(str(values["depth"])))
                for kind in [values[f"kind{at}"]]
            ]
            total = family[str(values["family"])] + depth[len(layers)]
            total += sum(alone[at, layer] for at, layer in enumerate(layers))
            return total + sum(map(pairs.__getitem__, pairwise(layers)))

        @cache
        def ending(at: int, last: tuple[str, int | None]) -> float:
            """The most that layers 0 to ``at`` can be worth, the last being this one."""
            before = (ending(at - 1, b) + pairs[b, last] for b in LAYERS) if at else (0.0,)
            return alone[at, last] + max(before)

        best = max(family.values()) + max(
            depth[count] + max(ending(count - 1, layer) for layer in LAYERS) for count in DEPTHS
        )
        return SyntheticSpace(_layers, value, best, seed)


def _layers() -> None:
    choice(list(FAMILIES), label="family")
    for at in range(choice(list(DEPTHS), label="depth")):
        kind = choice(["conv", "attention", "pool", "skip", "mix"], label=f"kind{at}")
        if kind == "conv":
            choice([8, 16, 32, 64], label=f"width{at}")
        elif kind == "attention":
            choice([1, 2, 4], label=f"heads{at}")


class TuningGame:
    """An optimizer and a schedule, with numbers that only some of them have.

    The loss is a bowl in each branch; the learning rate's best value depends on the batch size.
    """

    name = "synthetic tuning"
    unit = "percent of the optimum over a random point"
    excellent = 2.0

    def space(self, seed: int) -> SyntheticSpace:
        rng = Random(derive(seed, self.name))
        kinds = dict(zip(rng.sample(["sgd", "adam", "lion"], 3), (0.0, 0.2, 0.6), strict=True))
        plans = dict(zip(rng.sample(["cosine", "steps"], 2), (0.0, 0.15), strict=True))
        rates = {kind: rng.uniform(-3.5, -1.5) for kind in kinds}
        batch = rng.randint(16, 512)
        momentum, decay, gamma = rng.uniform(0.1, 0.9), rng.uniform(-5.5, -2.5), rng.random()
        drops = rng.randint(1, 8)

        def value(values: Values) -> float:
            numbers = {label: v for label, v in values.items() if isinstance(v, int | float)}
            kind, plan = str(values["optimizer"]), str(values["schedule"])
            larger = math.log2(numbers["batch"] / batch)
            loss = kinds[kind] + plans[plan] + 0.02 * larger**2
            loss += (math.log10(numbers["lr"]) - rates[kind] - 0.15 * larger) ** 2
            loss += 0.1 * (math.log10(numbers["decay"]) - decay) ** 2
            if kind == "sgd":
                loss += 2.0 * (numbers["momentum"] - momentum) ** 2
            if plan == "steps":
                loss += (numbers["gamma"] - gamma) ** 2 + 0.02 * (numbers["drops"] - drops) ** 2
            return -math.sqrt(loss)

        return SyntheticSpace(_tuning, value, 0.0, seed)


def _tuning() -> None:
    if choice(["sgd", "adam", "lion"], label="optimizer") == "sgd":
        uniform(0.0, 0.99, label="momentum")
    loguniform(1e-5, 1.0, label="lr")
    loguniform(1e-6, 1e-2, label="decay")
    randint(8, 1024, label="batch", log=True)
    if choice(["cosine", "steps"], label="schedule") == "steps":
        uniform(0.0, 1.0, label="gamma")
        randint(1, 8, label="drops")
