"""``rt.merge``: many models, equal or different, as one module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from retiarii.errors import MergeError, ParseError
from retiarii.ir.graph import Graph
from retiarii.ir.parse import parse
from retiarii.optimizer.arguments import signature_of, taken
from retiarii.optimizer.collecting import without_collection
from retiarii.optimizer.compile import Options
from retiarii.optimizer.lift import Model
from retiarii.optimizer.merged import MergedModel
from retiarii.space import Candidate

_FUSE = ("auto", "on", "off", True, False)
_OWN_PARAMETERS = (torch.jit.ScriptModule, nn.DataParallel)


def merge(
    models: Sequence[Any],
    example_inputs: Any = None,
    *,
    dedup: bool = True,
    fuse: str | bool = "auto",
    batch: int | None = None,
    seeds: Sequence[int] | None = None,
    steps: int | None = None,
) -> MergedModel:
    """Merges models into one that computes, and trains, them all; results do not change.

    Args:
        models: modules, graphs or candidates, equal or different, that take the same inputs.
            They are not changed: the merged model has copies of their weights.
        example_inputs: as for `rt.parse`; needed where a model is a module.
        dedup: compute what several models have in common once.
        fuse: ``"auto"`` fuses where it pays on this device, ``"on"`` wherever it can, ``"off"``
            never. What pays is measured on the device that the models are on, for at most ten
            seconds a merge (``RETIARII_MEASURE=seconds``; 0 measures nothing, and fuses all), and
            remembered. ``merged.stats.choice`` says what came of it, and why.
        batch: the batch size that the models will get, which decides what pays; the example's
            where it is ``None``.
        seeds: one for each model: initial weights of candidates, and dropout.
        steps: training steps that are to come: the program is compiled by ``torch.compile`` where
            these repay what that takes (``merged.execution`` says so, and why); ``None`` compiles
            nothing.

    Returns:
        A module that returns a list with what each model returns.

    Raises:
        MergeError: no models, models that take different inputs, are on different devices, or
            train one parameter together; the message says which.
        ParseError: a module does not run on the example inputs.
    """
    if isinstance(models, nn.Module | Graph | Candidate):
        raise MergeError(
            f"models is one {type(models).__name__}, not a list of models",
            where="merge(models=...)",
            fix="give a list: [model]",
        )
    given = list(models)
    if not given:
        raise MergeError("there is nothing to merge: 0 models", fix="give at least one model")
    if not any(fuse is f or (fuse == f and isinstance(fuse, str)) for f in _FUSE):
        raise MergeError(f"fuse is {fuse!r}", where="merge(fuse=...)", fix="auto, on or off")
    if seeds is not None and len(seeds) != len(given):
        raise MergeError(
            f"{len(seeds)} seeds for {len(given)} models",
            where="merge(seeds=...)",
            fix="give one for each model",
        )
    originals = [m if isinstance(m, nn.Module) else None for m in given]
    how = ("on" if fuse else "off") if isinstance(fuse, bool) else fuse
    chosen = [0] * len(given) if seeds is None else seeds
    with without_collection():
        made = [
            _model(i, model, example_inputs, seed)
            for i, (model, seed) in enumerate(zip(given, chosen, strict=True))
        ]
        check_mergeable(made)
        merged = MergedModel(made, originals, Options(dedup=dedup, fuse=how, batch=batch))
    if seeds is not None:
        merged.seed(seeds)
    if steps is not None:
        merged.expect(steps)
    return merged


def _model(number: int, given: Any, example_inputs: Any, seed: int) -> Model:
    if isinstance(given, nn.Module):
        if example_inputs is None:
            raise MergeError(
                f"model {number} is a module, and there are no example inputs",
                where="merge(example_inputs=...)",
                fix="give what forward takes: a tensor, a tuple, or a dict of keyword arguments",
            )
        try:
            return Model.of(parse(given, example_inputs), given)
        except ParseError as error:
            where = f"model {number}" + (f", {error.where}" if error.where else "")
            raise ParseError(error.cause, where=where, fix=error.fix) from error
    if isinstance(given, Graph):
        return Model.of(given, given.to_module())
    if isinstance(given, Candidate):
        return Model.of(given.graph, given.build(seed))
    raise MergeError(
        f"model {number} is a {type(given).__name__}",
        where="merge(models=...)",
        fix="give modules, graphs, or candidates",
    )


def check_mergeable(models: Sequence[Model]) -> None:
    """Finds what would make the merged model differ from its models.

    Raises:
        MergeError: what was found, and in which models.
    """
    first = models[0].graph
    for number, model in enumerate(models):
        ours = [n.type for n in first.inputs]
        theirs = [n.type for n in model.graph.inputs]
        if ours != theirs or taken(first.context.forward) != taken(model.graph.context.forward):
            raise MergeError(
                f"models 0 and {number} take different inputs: {_taken(first, ours != theirs)} and "
                f"{_taken(model.graph, ours != theirs)}",
                fix="merge models that take the same batch",
            )
        _check_hooks(number, model)
        _check_opaque(number, model)
    owners: dict[int, tuple[int, str]] = {}
    devices: dict[torch.device, int] = {}
    for number, model in enumerate(models):
        trained = {k for k, t in model.tensors.items() if t.requires_grad}
        for key, tensor in model.tensors.items():
            devices.setdefault(tensor.device, number)
            if len(devices) > 1:
                (one, a), (two, b) = list(devices.items())[:2]
                raise MergeError(
                    f"model {a} is on {one} and model {b} on {two}",
                    fix="move them to one device before merging",
                )
            if key not in trained:
                continue
            other = owners.setdefault(id(tensor), (number, key))
            if other[0] != number:
                raise MergeError(
                    f"models {other[0]} and {number} train one parameter together "
                    f"({other[1]!r} and {key!r} are the same tensor)",
                    fix="merged models train apart: pass copy.deepcopy(model), or freeze what "
                    "they share with requires_grad_(False)",
                )


def _check_hooks(number: int, model: Model) -> None:
    """Hooks on parameters would see the gradients of all models at once."""
    for key, tensor in model.tensors.items():
        if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
            raise MergeError(
                f"parameter {key!r} of model {number} has a hook on its gradient",
                fix="remove the hook; change gradients in the training loop, after backward()",
            )


def _check_opaque(number: int, model: Model) -> None:
    """Modules that are called as they are are given parameters of the merged model."""
    for node in model.graph.opaque:
        held = model.module if not node.path else model.module.get_submodule(node.path)
        for module in held.modules():
            if isinstance(module, _OWN_PARAMETERS):
                what = type(module).__name__
                raise MergeError(
                    f"model {number} holds a {what}, which runs with no other parameters than "
                    "its own",
                    fix="merge the module that it was made of",
                )


def _taken(graph: Graph, types: bool) -> str:
    """What it takes: the tensors' types, or where these are equal, the arguments of forward."""
    if types:
        return ", ".join(str(n.type) for n in graph.inputs)
    return f"forward{signature_of(graph.context.forward)}"
