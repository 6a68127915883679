"""One model's state, in and out of the merged model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from retiarii.errors import MergeError
from retiarii.optimizer.storage import Storage

Values = Callable[[str], Tensor]


def check_state(
    storage: Storage,
    model: int,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    present: Values,
) -> None:
    """Finds what would make loading a state wrong, for this model or for another.

    Args:
        storage: where everything lies.
        model: whose state it is.
        own: the state that the model was merged with: its keys and shapes count.
        state: what is to be loaded.
        present: the merged model's tensor of a key.

    Raises:
        MergeError: other keys or shapes, or another value for what other models read as well.
    """
    wrong = sorted(set(own) ^ set(state)) or [
        k for k, v in state.items() if v.shape != own[k].shape
    ]
    if wrong:
        raise MergeError(
            f"the state does not fit model {model}: {', '.join(wrong[:5])}",
            fix="give what state_dict_of(model) returns, or the model's own state_dict",
        )
    others = _sharers(storage, model, state)
    for key, other in others.items():
        now = present(key)
        if not torch.allclose(state[key].to(now), now, rtol=0, atol=0, equal_nan=True):
            raise MergeError(
                f"models {model} and {other} share {key!r}, and the state has another value",
                where=f"load_state_dict_of({model}, ...)",
                fix="load the states into the models and merge those, or merge(dedup=False)",
            )


def _sharers(storage: Storage, model: int, keys: Iterable[str]) -> dict[str, int]:
    """Key -> another model that reads the same tensor."""
    plain = {
        storage.places[model, k]: k
        for k in keys
        if (model, k) in storage.places and storage.stacks[storage.places[model, k][0]].plain
    }
    if not plain:
        return {}
    return {
        plain[place]: other
        for (other, _), place in storage.places.items()
        if other != model and place in plain
    }


def check_frozen(storage: Storage, held: Callable[[str], Tensor]) -> None:
    """A frozen layer that several models read is one tensor, which cannot be trained apart.

    Args:
        storage: of all models.
        held: the tensor of a stack's name.

    Raises:
        MergeError: it takes a gradient now.
    """
    for stack in storage.stacks:
        if stack.plain and stack.kind == "parameter" and held(stack.name).requires_grad:
            raise MergeError(
                f"models share {stack.homes[0][1]!r}, which was frozen when they were merged, "
                "and now takes a gradient",
                fix="unfreeze it in the models, and merge them again",
            )


def take_over(
    module: nn.Module,
    present: Callable[[str, Tensor], Tensor],
    learns: Callable[[str], bool | None],
) -> None:
    """Gives a module the present values, and the types and devices that they have.

    Args:
        module: a model on its own.
        present: the value for a key, and for the module's own tensor of that name.
        learns: whether the parameter of a key takes a gradient; ``None`` leaves it.
    """
    named: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    named.update(module.named_buffers(remove_duplicate=False))
    with torch.no_grad():
        for key, tensor in named.items():
            value = present(key, tensor)
            if (value.dtype, value.device) != (tensor.dtype, tensor.device):
                tensor.data = tensor.data.to(value)
            tensor.copy_(value)
            takes = learns(key)
            if takes is not None and isinstance(tensor, nn.Parameter):
                tensor.requires_grad_(takes)
