"""Points made from other points: replaying with inherited decisions, of which some are changed."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from retiarii.mutators.choice import Domain, Raw
from retiarii.strategies.sampling import fits, perturb, sample, size
from retiarii.strategies.tried import Step


class Heir:
    """A chooser that answers what was inherited, and draws what was not.

    Decisions that a change makes disappear are thereby dropped, and those that appear are drawn.
    It answers the same however often it is asked, so that a dry run and the replay agree.

    Args:
        genes: label -> the decision to take over.
        rng: draws the others.
    """

    __slots__ = ("_answers", "_genes", "_rng")

    def __init__(self, genes: Mapping[str, Step], rng: Random) -> None:
        self._genes = genes
        self._rng = rng
        self._answers: dict[tuple[str, Domain], Raw] = {}

    def __call__(self, label: str, domain: Domain) -> Raw:
        key = (label, domain)
        answer = self._answers.get(key)
        if answer is None:
            gene = self._genes.get(label)
            kept = gene is not None and fits(gene.domain, gene.raw, domain)
            answer = gene.raw if gene is not None and kept else sample(domain, self._rng)
            self._answers[key] = answer
        return answer


def genes_of(steps: tuple[Step, ...]) -> dict[str, Step]:
    """The decisions by label."""
    return {step.label: step for step in steps}


def mixed(steps: tuple[Step, ...], other: tuple[Step, ...], rng: Random) -> dict[str, Step]:
    """Each decision of both parents from either; those of one alone stay at hand."""
    genes = genes_of(steps)
    for step in other:
        if step.label not in genes or rng.random() < 0.5:
            genes[step.label] = step
    return genes


def mutate(
    genes: dict[str, Step], steps: tuple[Step, ...], rng: Random, scale: float, changes: int = 1
) -> None:
    """Changes ``changes`` decisions of ``steps``, in ``genes``; fewer where fewer can vary.

    Args:
        genes: changed in place; holds the labels of ``steps``.
        steps: the parent.
        rng: draws which, and what they become.
        scale: standard deviation of a numeric change, in unit space.
        changes: how many.
    """
    free = [step.label for step in steps if size(step.domain) != 1]
    for label in rng.sample(free, min(changes, len(free))):
        gene = genes[label]
        genes[label] = gene._replace(raw=perturb(gene.domain, gene.raw, rng, scale))
