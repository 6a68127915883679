"""What a merged model was lowered for and cannot do otherwise: dimensions, sizes, a mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from retiarii.errors import MergeError
from retiarii.optimizer.lift import Model


@dataclass(frozen=True, slots=True)
class Fixed:
    """What a merged model runs with; ``None`` is anything.

    Attributes:
        batch: the one batch size.
        training: the one mode.
        sizes: of inputs: (number of the input, its name, dimension, the one size, where it is
            read).
        dims: each input's name and number of dimensions: calls are lowered for it.
    """

    batch: int | None = None
    training: bool | None = None
    sizes: tuple[tuple[int, str, int, int, str | None], ...] = ()
    dims: tuple[tuple[str, int], ...] = ()

    def check_sizes(self, inputs: Sequence[Tensor]) -> None:
        """Raises MergeError for inputs of other sizes, or of another number of them."""
        for (name, dims), given in zip(self.dims, inputs, strict=True):
            if given.dim() != dims:
                raise MergeError(
                    f"the input {name!r} has shape {list(given.shape)}, and the models were "
                    f"lowered for {dims} dimension{'s' * (dims != 1)}",
                    fix="merge with example inputs of as many dimensions",
                )
        for number, name, dim, size, where in self.sizes:
            shape = inputs[number].shape
            if shape[dim] != size:
                raise MergeError(
                    f"the input {name!r} has size {shape[dim]} in dimension {dim}, and a merged "
                    f"model was lowered for {size}: its Python reads this size",
                    where=where,
                    fix=f"merge with example inputs of size {size}, or give inputs of {size}",
                )

    def check_batch(self, size: int) -> None:
        """Raises MergeError for another batch size."""
        if self.batch is not None and size != self.batch:
            raise MergeError(
                f"the batch has {size} samples, and a merged model runs with {self.batch} only",
                fix=f"merge with example inputs of {size} samples, or write the model so that it "
                "runs at every batch size",
            )

    def check_mode(self, training: bool | None) -> None:
        """Raises MergeError for another mode."""
        if self.training is not None and training is not None and training != self.training:
            names = {True: "training", False: "evaluation"}
            raise MergeError(
                f"a merged model runs in {names[self.training]} mode only",
                fix=f"call merged.{'train' if self.training else 'eval'}()",
            )


def fixed_of(models: Sequence[Model]) -> Fixed:
    """What the models allow together.

    Raises:
        MergeError: two of them run in different modes only.
    """
    contexts = [m.graph.context for m in models]
    batches = {c.batch for c in contexts if "batch" in c.fixed}
    modes = {c.training for c in contexts if "training" in c.fixed}
    if len(modes) > 1:
        raise MergeError(
            "one model runs in training mode only, and another in evaluation mode only",
            fix="export or parse them in the same mode",
        )
    sizes: dict[tuple[int, int], tuple[int, str, int, int, str | None]] = {}
    for model in models:
        inputs = [node.record for node in model.graph.inputs]
        for at in model.graph.sizes:
            of = inputs[at.input]
            size = of.types[0].shape[at.dim]
            sizes.setdefault((at.input, at.dim), (at.input, of.name, at.dim, size, at.where))
    found = tuple(sizes[at] for at in sorted(sizes))
    dims = tuple((n.name, len(n.type.shape)) for n in models[0].graph.inputs)
    return Fixed(min(batches, default=None), min(modes, default=None), found, dims)
