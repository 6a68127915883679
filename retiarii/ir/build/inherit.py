"""Weights of a parent for a child: by module path and shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from retiarii.errors import SpaceError
from retiarii.ir.transfer import Transfer, transferred


def inherit(
    module: nn.Module, parent: Mapping[str, torch.Tensor], transfers: Sequence[Transfer] = ()
) -> tuple[str, ...]:
    """Copies from a parent's ``state_dict`` all that the module has with the same key and shape.

    As children inherit in Real et al., "Large-scale evolution of image classifiers" (ICML 2017).
    Paths are stable: a mutator gives a layer the same path in parent and child, as long as it
    gives it the same name. What a child widened, deepened or pruned starts from the parent's
    weights too, so that it computes what the parent did (Cai et al., "Efficient architecture
    search by network transformation", AAAI 2018).

    Args:
        module: the child; changed in place.
        parent: state_dict key -> tensor.
        transfers: how the child grew or was pruned: each is done to the parent's weights first,
            unless the parent grew like that itself.

    Returns:
        The keys that were copied.

    Raises:
        SpaceError: ``parent`` is no ``state_dict``, or its tensors have no values.
    """
    if not isinstance(parent, Mapping):
        raise SpaceError(
            f"the parent is a {type(parent).__name__}, not a state_dict",
            fix="give parent.state_dict()",
        )
    wrong = [k for k, v in parent.items() if not isinstance(v, torch.Tensor) or v.is_meta]
    if wrong:
        raise SpaceError(
            f"the parent's {wrong[0]!r} is no tensor with values",
            fix="give the state_dict itself: module.state_dict(), or what load_file returned",
        )
    weights = transferred(parent, transfers)
    copied: list[str] = []
    with torch.no_grad():
        for key, tensor in module.state_dict(keep_vars=True).items():
            found = weights.get(key)
            if isinstance(tensor, torch.Tensor) and found is not None:
                if found.shape != tensor.shape:
                    continue
                tensor.copy_(found)
                copied.append(key)
    return tuple(copied)
