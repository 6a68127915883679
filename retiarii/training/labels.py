"""The labels of an evaluator's choices."""

from __future__ import annotations

from retiarii.errors import EvaluatorError
from retiarii.mutators.choice import Description


def add_label(known: dict[str, Description], name: str, description: Description) -> str:
    """Enter ``description`` under its own label, or under ``name``; returns the label.

    Raises:
        EvaluatorError: another choice has that label.
    """
    label = description.label or name
    before = known.setdefault(label, description)
    if (before.domain, repr(before)) != (description.domain, repr(description)):
        raise EvaluatorError(
            f"label {label!r} names two different choices: {before!r} and {description!r}",
            where=f"hyper-parameter {name!r}",
            fix="give one of them its own label, or both the same options",
        )
    return label
