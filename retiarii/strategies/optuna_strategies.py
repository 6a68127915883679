"""TPE, Gaussian processes, NSGA-II, NSGA-III and CMA-ES, as Optuna has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from retiarii.errors import StrategyError
from retiarii.strategies.base import whole, within
from retiarii.strategies.optuna_base import OptunaStrategy

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class TPE(OptunaStrategy):
    """Tree-structured Parzen estimator: more of what good points have and bad ones have not.

    All decisions together (multivariate), in groups of those that are asked together; trials that
    wait for a result count as bad ones, so that a batch spreads. Bergstra et al., "Algorithms for
    hyper-parameter optimization" (NeurIPS 2011); Falkner et al. (ICML 2018).

    Args:
        startup: random points that it begins with.
        candidates: points drawn from the good ones' density, of which the best is proposed.
        best: how many of the best results it sees.
        recent: how many of the newest it sees beside them.
        patience: infeasible proposals in a row before it gives up.

    Raises:
        StrategyError: an option is out of its range, or Optuna is not installed.
    """

    name: ClassVar[str] = "tpe"
    several: ClassVar[bool] = True

    def __init__(
        self,
        *,
        startup: int = 10,
        candidates: int = 24,
        best: int = 25,
        recent: int = 39,
        patience: int = 1000,
    ) -> None:
        super().__init__(best=best, recent=recent, patience=patience)
        self.startup = whole("startup", startup, 1)
        self.candidates = whole("candidates", candidates, 1)

    def sampler(self, seed: int) -> BaseSampler:
        from retiarii.strategies.optuna_samplers import GroupedTPE

        return GroupedTPE(seed, self.startup, self.candidates, self.best)

    def _options(self) -> tuple[str, ...]:
        return ("startup", "candidates", *super()._options())


class GP(OptunaStrategy):
    """Bayesian optimisation with a Gaussian process, over the decisions that every point has.

    Decisions that only some points have are left to TPE. A proposal takes it tens of milliseconds,
    and gains little once there are many results: after ``trials`` proposals TPE goes on alone.

    Args:
        startup: random points that it begins with.
        trials: proposals after which TPE takes over.
        deterministic: whether the same point always has the same score.
        best: how many of the best results it sees.
        recent: how many of the newest it sees beside them.
        patience: infeasible proposals in a row before it gives up.

    Raises:
        StrategyError: an option is out of its range, or Optuna or SciPy is not installed.
    """

    name: ClassVar[str] = "gp"
    NEEDS: ClassVar[dict[str, str]] = {"scipy": "scipy"}

    def __init__(
        self,
        *,
        startup: int = 10,
        trials: int = 200,
        deterministic: bool = False,
        best: int = 32,
        recent: int = 32,
        patience: int = 1000,
    ) -> None:
        super().__init__(best=best, recent=recent, patience=patience)
        self.startup = whole("startup", startup, 2)
        self.trials = whole("trials", trials, 1)
        if not isinstance(deterministic, bool):
            raise StrategyError(
                f"deterministic must be true or false, not {deterministic!r}",
                where="strategy option 'deterministic'",
                fix="give deterministic=True or False",
            )
        self.deterministic = deterministic

    def sampler(self, seed: int) -> BaseSampler:
        from retiarii.strategies.optuna_samplers import gp

        return gp(seed, self.startup, self.trials, self.best, deterministic=self.deterministic)

    def _options(self) -> tuple[str, ...]:
        return ("startup", "trials", "deterministic", *super()._options())


class CMAES(OptunaStrategy):
    """CMA-ES over the numbers that every point has; TPE for all other decisions.

    It suits spaces of many numbers. Hansen, "The CMA evolution strategy: a tutorial" (2016).

    Args:
        startup: random points that it begins with.
        population: points in a generation; ``None`` takes what suits the number of decisions.
        best: how many of the best results it sees.
        recent: how many of the newest it sees beside them; at least two generations.
        patience: infeasible proposals in a row before it gives up.

    Raises:
        StrategyError: an option is out of its range, or Optuna or cmaes is not installed.
    """

    name: ClassVar[str] = "cmaes"
    NEEDS: ClassVar[dict[str, str]] = {"cmaes": "cmaes>=0.12"}

    def __init__(
        self,
        *,
        startup: int = 10,
        population: int | None = None,
        best: int = 25,
        recent: int = 39,
        patience: int = 1000,
    ) -> None:
        super().__init__(best=best, recent=recent, patience=patience)
        self.startup = whole("startup", startup, 1)
        self.population = None if population is None else whole("population", population, 2)
        if self.population is not None and self.recent < 2 * self.population:
            raise StrategyError(
                f"recent ({recent}) must hold two generations of {population}",
                where="strategy option 'recent'",
                fix=f"give recent={2 * self.population} or more",
            )

    def sampler(self, seed: int) -> BaseSampler:
        from retiarii.strategies.optuna_samplers import cmaes

        return cmaes(seed, self.startup, self.population, self.best)

    def _options(self) -> tuple[str, ...]:
        return ("startup", "population", *super()._options())


class NSGA2(OptunaStrategy):
    """NSGA-II: generations of children of the best; for one score, a genetic algorithm.

    Decisions that only some points have are drawn at random. Deb et al., "A fast and elitist
    multiobjective genetic algorithm: NSGA-II" (IEEE TEC 2002).

    Args:
        population: points in a generation.
        crossover: probability that a child has two parents.
        mutation: probability that a decision changes; ``None`` changes one on average.
        patience: infeasible proposals in a row before it gives up.

    Raises:
        StrategyError: an option is out of its range, or Optuna is not installed.
    """

    name: ClassVar[str] = "nsga2"
    GENERATIONS: ClassVar[bool] = True
    several: ClassVar[bool] = True

    def __init__(
        self,
        *,
        population: int = 30,
        crossover: float = 0.9,
        mutation: float | None = None,
        patience: int = 1000,
    ) -> None:
        self.population = whole("population", population, 2)
        self.crossover = within("crossover", crossover, 0.0, 1.0)
        self.mutation = None if mutation is None else within("mutation", mutation, 0.0, 1.0)
        # Parents are the best so far; children are those of the last two generations.
        super().__init__(best=population, recent=3 * population, patience=patience)

    def sampler(self, seed: int) -> BaseSampler:
        from retiarii.strategies.optuna_samplers import nsga2

        return nsga2(seed, self.population, self.crossover, self.mutation)

    def _options(self) -> tuple[str, ...]:
        return ("population", "crossover", "mutation", "patience")


class NSGA3(NSGA2):
    """NSGA-III: as `NSGA2`, with what survives spread along reference points.

    For one score the two hardly differ. Deb and Jain, "An evolutionary many-objective optimization
    algorithm using reference-point-based nondominated sorting approach" (IEEE TEC 2014).
    """

    name: ClassVar[str] = "nsga3"

    def sampler(self, seed: int) -> BaseSampler:
        from retiarii.strategies.optuna_samplers import nsga3

        return nsga3(seed, self.population, self.crossover, self.mutation)
