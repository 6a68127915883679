"""`CurveFit`: a trial ends whose learning curve will hardly lead to a new best score."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from retiarii.errors import SchedulerError
from retiarii.schedulers.base import Curve, Known, Scheduler, Setting, below, checked

Array = NDArray[np.float64]

# A level, a slope, and the shape: what each family has free.
_FREE: Final = 3
# Of a curve's range: a fit is never trusted more than this, however well it goes through.
_FLOOR: Final = 0.01


@dataclass(frozen=True, slots=True)
class _Family:
    """Curves ``level + slope * shape(step, c)``, for each of a few ``c``."""

    shape: Callable[[Array, float], Array]
    constants: tuple[float, ...]


_FAMILIES: Final[tuple[_Family, ...]] = (
    _Family(lambda t, c: t**-c, (0.25, 0.5, 1.0, 2.0)),  # power law
    _Family(lambda t, c: np.exp(-c * t), (0.03, 0.1, 0.3, 1.0)),  # exponential
    _Family(lambda t, c: 1.0 / np.log(t + c), (1.5, 3.0)),  # inverse logarithm
    _Family(lambda t, c: 1.0 / (1.0 + t / c), (1.0, 4.0, 16.0)),  # saturating (MMF of order 1)
)


class CurveFit(Scheduler):
    """Stops what will not beat the best (after Domhan et al., Speeding up Automatic Hyperparameter
    Optimization of Deep Neural Networks by Extrapolation of Learning Curves, IJCAI 2015).

    After each step a few families of curves are fitted to the scores so far by least squares, and
    weighed by how well they fit (BIC). A trial ends if the probability that its score at the last
    epoch is better than the best of the earlier trials is below ``chance``. The paper samples the
    families' parameters; here each is linear but for one constant, of which a few values are tried.

    Args:
        chance: of a new best score, below which a trial ends.
        grace: steps that every trial gets; at least 4, since three numbers are fitted.
        epochs: the most epochs of a trial; by default what the evaluator says.
    """

    name: ClassVar[str] = "curve"

    def __init__(self, *, chance: float = 0.05, grace: int = 4, epochs: int | None = None) -> None:
        self.chance = below(self.name, "chance", chance, 1.0)
        self.grace: int = checked(self.name, "grace", grace, _FREE + 1)
        self.epochs = None if epochs is None else int(checked(self.name, "epochs", epochs, 1))

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        longest = self.epochs or setting.longest
        if longest is None:
            raise SchedulerError(
                "curve must know how many epochs a trial may have, and the evaluator does not say",
                where="scheduler curve",
                fix='give the number: --scheduler "curve,epochs=50"',
            )
        self._last = longest

    def stops(self, number: int, curve: Curve, known: Known) -> bool:  # noqa: ARG002
        if len(curve) < self.grace or curve[-1][0] >= self._last or known.best is None:
            return False
        return chance_above(curve, self._last, known.best) < self.chance

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "chance": self.chance,
            "grace": self.grace,
            "epochs": self.epochs,
        }


def chance_above(curve: Curve, last: int, best: float) -> float:
    """The probability that a curve is above ``best`` at step ``last``.

    Args:
        curve: at least four (step, score).
        last: the step to look at.
        best: the score to beat.
    """
    # Some count steps from 0; all families want them from 1 on.
    shift = 1 - min(curve[0][0], 1)
    steps = np.array([step + shift for step, _ in curve], dtype=np.float64)
    scores = np.array([score for _, score in curve], dtype=np.float64)
    spread = float(scores.max() - scores.min())
    floor = max(_FLOOR * spread, 1e-9 * max(1.0, float(np.abs(scores).max())))
    count = len(scores)
    fits = []
    for family in _FAMILIES:
        for constant in family.constants:
            shape = family.shape(steps, constant)
            ahead = float(family.shape(np.array([float(last + shift)]), constant)[0])
            design = np.stack([np.ones(count), shape], axis=1)
            found, _, rank, _ = np.linalg.lstsq(design, scores, rcond=None)
            if rank < design.shape[1]:
                continue
            rest = float(((design @ found - scores) ** 2).sum())
            noise = max(rest / (count - _FREE), floor**2)
            at = np.array([1.0, ahead])
            doubt = float(at @ np.linalg.solve(design.T @ design, at))
            fits.append((rest / count, float(at @ found), math.sqrt(noise * (1.0 + doubt))))
    if not fits:
        return 1.0
    errors = np.array([max(error, floor**2) for error, _, _ in fits])
    weights = (errors / errors.min()) ** (-count / 2)  # equal numbers of parameters: BIC
    chances = [0.5 * math.erfc((best - mean) / (dev * math.sqrt(2))) for _, mean, dev in fits]
    return float(weights @ np.array(chances) / weights.sum())
