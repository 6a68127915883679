"""A trained model as four files that need torch and safetensors, and nothing of ours."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch

from retiarii.errors import FileError, RetiariiError
from retiarii.ir.types import FrozenDict, FrozenList, Result, TensorType, TypeOf, leaves
from retiarii.training.checkpoint import WEIGHTS
from retiarii.training.packed import portable

if TYPE_CHECKING:
    from torch import nn

    from retiarii.ir.graph import Graph
    from retiarii.trial_result import TrialResult

_FILES = ("model.py", "weights.safetensors", "decisions.json", "usage.py")
# Names that usage.py uses itself.
_TAKEN = frozenset(
    {"Model", "Path", "SimpleNamespace", "here", "load_file", "model", "output", "torch"}
)


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        files: the paths, in the order of reading.
        trained: whether the weights are those that the search trained; else initial ones.
    """

    files: tuple[Path, ...]
    trained: bool


def export(trial: TrialResult, out: Path, *, metric: str, force: bool = False) -> Exported:
    """Writes ``model.py``, ``weights.safetensors``, ``decisions.json`` and ``usage.py``.

    What is written is read back first: the source is run, takes the weights strictly, and must
    compute what the trained model computes.

    Args:
        trial: a finished trial, of a result that knows its space.
        out: a folder; made if it is not there.
        metric: what the score is called.
        force: write into a folder that has files already; those of other names stay.

    Raises:
        FileError: ``out`` is a file, is not empty, or cannot be written.
        GraphError: the model has parts that only its own code can stand for.
        RetiariiError: the trial has no model.
    """
    _check_place(out, force)
    candidate = trial.candidate
    if candidate is None:
        raise RetiariiError(
            "this search has no models, only hyper-parameters",
            where=f"trial {trial.id}",
            fix="read its decisions: retiarii show",
        )
    trained = (trial.directory / WEIGHTS).is_file()
    model = trial.load() if trained else candidate.build(trial.seed)
    graph = candidate.graph
    source = graph.to_source()
    weights = portable(model.state_dict())
    _check(source, weights, model, graph)
    report = {
        "trial": trial.id,
        "decisions": trial.to_json()["decisions"],
        "metric": metric,
        "score": trial.score,
        "metrics": trial.to_json()["metrics"],
        "weights": "trained" if trained else "initial",
    }
    contents = {
        "model.py": source.encode(),
        "weights.safetensors": safetensors.torch.save(weights),
        "decisions.json": (json.dumps(report, indent=2) + "\n").encode(),
        "usage.py": usage(graph).encode(),
    }
    return Exported(tuple(_write(out, contents)), trained)


def usage(graph: Graph) -> str:
    """A script that loads the exported model and runs it on inputs of the right shapes."""
    names = _input_names(graph)
    arguments = _arguments(graph, names)
    made = [
        f"{name} = {_example_text(node.types[0])}"
        for name, node in zip(names, graph.inputs, strict=True)
    ]
    return "\n".join(
        [
            '"""Loads the exported model and runs it once. It needs torch and safetensors only."""',
            "",
            "from pathlib import Path",
            *(["from types import SimpleNamespace"] if "SimpleNamespace(" in arguments else []),
            "",
            "import torch",
            "from safetensors.torch import load_file",
            "",
            "from model import Model",
            "",
            "here = Path(__file__).parent",
            "model = Model()",
            'model.load_state_dict(load_file(here / "weights.safetensors"))',
            "model.eval()",
            "",
            "# Put your own data here, prepared as it was for the search.",
            *made,
            "with torch.no_grad():",
            f"    output = model({arguments})",
            "print(output)",
            "",
        ]
    )


# --- usage.py --------------------------------------------------------------------------------


def _input_names(graph: Graph) -> list[str]:
    names: list[str] = []
    for node in graph.inputs:
        name = re.sub(r"\W+", "_", node.name).strip("_") or "x"
        if name[0].isdigit() or keyword.iskeyword(name) or name in _TAKEN:
            name = f"input_{name}"
        while name in names:
            name += "_"
        names.append(name)
    return names


def _arguments(graph: Graph, names: list[str]) -> str:
    """The call's arguments; parameters that the model does not read have defaults."""
    spec = graph.context.forward
    positional = [(n, s) for n, s in spec.params if n not in spec.keyword_only]
    while positional and not _reads(positional[-1][1]):
        positional.pop()
    parts = [_value_text(structure, names) for _, structure in positional]
    parts += [
        f"{name}={_value_text(structure, names)}"
        for name, structure in spec.params
        if name in spec.keyword_only and _reads(structure)
    ]
    return ", ".join(parts)


def _reads(structure: Any) -> bool:
    return any(isinstance(leaf, Result) for leaf in leaves(structure))


def _value_text(value: Any, names: list[str]) -> str:
    def text(inner: Any) -> str:
        return _value_text(inner, names)

    if isinstance(value, Result):
        return names[value.index]
    if isinstance(value, FrozenDict):
        return "{" + ", ".join(f"{key!r}: {text(v)}" for key, v in value) + "}"
    if isinstance(value, FrozenList):
        return "[" + ", ".join(map(text, value)) + "]"
    if type(value) is tuple and len(value) == 2 and isinstance(value[0], TypeOf):
        # model.py reads its items or attributes, whatever class it is of.
        if issubclass(value[0].target, Mapping):
            return text(FrozenDict(value[1]))
        return f"SimpleNamespace({', '.join(f'{k}={text(v)}' for k, v in value[1])})"
    if isinstance(value, tuple):
        return f"({', '.join(map(text, value))}{',' if len(value) == 1 else ''})"
    return repr(value)


def _example_text(kind: TensorType) -> str:
    shape = ", ".join(map(str, kind.shape)) if kind.shape else "()"
    if kind.dtype == torch.float32:
        return f"torch.rand({shape})"
    make = "rand" if kind.dtype.is_floating_point else "zeros"
    return f"torch.{make}({shape}, dtype={kind.dtype})"


# --- reading back ----------------------------------------------------------------------------


def _check(
    source: str, weights: Mapping[str, torch.Tensor], model: nn.Module, graph: Graph
) -> None:
    """Runs what is to be written, and compares it with the model.

    Raises:
        RetiariiError: they differ; a defect of ours, which must not leave the house.
    """
    names: dict[str, Any] = {"__name__": "model"}
    exec(compile(source, "model.py", "exec"), names)
    call = _arguments(graph, [f"inputs[{i}]" for i in range(len(graph.inputs))])

    def outputs(each: nn.Module) -> list[torch.Tensor]:
        torch.manual_seed(0)  # for the inputs, and for a forward that draws numbers
        inputs = [_example(node.types[0]) for node in graph.inputs]
        known = {"SimpleNamespace": SimpleNamespace, "inputs": inputs, "model": each.eval()}
        return _tensors(eval(f"model({call})", known))

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        twin: nn.Module = names["Model"]()
        twin.load_state_dict(dict(weights))
        got, wanted = outputs(twin), outputs(model)
    for a, b in zip(got, wanted, strict=True):
        if not torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True):
            raise RetiariiError(
                "the exported source computes something else than the trained model",
                where="model.py",
                fix="this is a defect of retiarii: please report it with your space.py",
            )


def _example(kind: TensorType) -> torch.Tensor:
    if kind.dtype.is_floating_point:
        return torch.rand(kind.shape, dtype=kind.dtype)
    return torch.zeros(kind.shape, dtype=kind.dtype)


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value.detach()]
    if isinstance(value, Mapping):
        return [t for v in value.values() for t in _tensors(v)]
    if isinstance(value, tuple | list):
        return [t for v in value for t in _tensors(v)]
    return []


# --- files -----------------------------------------------------------------------------------


def _check_place(out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise FileError("this is a file, not a folder", where=str(out), fix="choose another --to")
    if not force and out.is_dir() and any(out.iterdir()):
        raise FileError(
            "the folder is not empty",
            where=str(out),
            fix=f"choose another, or add --force to write {', '.join(_FILES)} into it",
        )


def _write(out: Path, contents: Mapping[str, bytes]) -> list[Path]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            partial = out / f".{name}.partial"
            partial.write_bytes(content)
            partial.replace(out / name)
    except OSError as error:
        raise FileError(
            f"cannot write: {error.strerror}",
            where=str(error.filename or out),
            fix="choose another --to",
        ) from error
    return [out / name for name in contents]
