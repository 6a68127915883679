"""The table of rules: family of the op table -> rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from retiarii.optimizer.rules import (
    attention,
    batch_norm,
    convolution,
    dropout,
    elementwise,
    embedding,
    factory,
    general,
    indexing,
    linear,
    matmul,
    normalisation,
    padding,
    pooling,
    randomness,
    recurrent,
    reduction,
    resampling,
    shape,
)
from retiarii.optimizer.rules.base import Fusion, Lowering, Rule
from retiarii.optimizer.rules.writing import resolved

RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        **attention.RULES,
        **batch_norm.RULES,
        **convolution.RULES,
        **dropout.RULES,
        **elementwise.RULES,
        **embedding.RULES,
        **factory.RULES,
        **indexing.RULES,
        **linear.RULES,
        **matmul.RULES,
        **normalisation.RULES,
        **padding.RULES,
        **pooling.RULES,
        **randomness.RULES,
        **recurrent.RULES,
        **reduction.RULES,
        **resampling.RULES,
        **shape.RULES,
    }
)


def lower_group(fusion: Fusion) -> Lowering | None:
    """How the group is computed, or ``None`` where no rule fuses it.

    Rows of the op table name their family in ``fuse``; pure functions without one go through
    ``torch.vmap`` where that is known to work.
    """
    fusion = replace(fusion, call=resolved(fusion.call))
    rule = RULES.get(fusion.call.spec.fuse or "")
    found = None if rule is None else rule(fusion)
    return general.rule(fusion) if found is None else found
