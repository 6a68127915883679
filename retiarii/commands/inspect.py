"""``retiarii inspect``: what a space file says, before anything is trained."""

from __future__ import annotations

import json
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retiarii.commands.common import Debug, Json, tells_errors
from retiarii.errors import FileError, InfeasibleError

if TYPE_CHECKING:
    from retiarii.commands.anatomy import Anatomy
    from retiarii.commands.survey import Label, Size, Survey
    from retiarii.ir.graph import Graph
    from retiarii.runtime.source import Loaded
    from retiarii.space import ModelSpace

_OPTIONS_SHOWN = 8


@tells_errors
def inspect(
    space: Annotated[
        Path,
        typer.Argument(
            metavar="SPACE.PY",
            help="A file that defines `space` and `evaluator`.",
            show_default=False,
        ),
    ],
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="S", help="Look at a model sampled with this seed.", show_default=False
        ),
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="Print the graph alone, as text that reads back.")
    ] = False,
    svg: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the graph into an SVG file.", show_default=False),
    ] = None,
    latency: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            help="Also measure the model on this device (cpu, cuda), once.",
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="How long to count models and look for labels.")
    ] = 5.0,
    merge: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="K",
            help="Say what merging K sampled models would do, and why.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001 - tells_errors reads it
) -> None:
    """Show a space: how many models, which choices, and what the base or a sampled model costs."""
    from retiarii.runtime.source import load_space_file

    loaded = load_space_file(space)
    if merge is not None:
        from retiarii.commands.merging import inspect_merge

        inspect_merge(loaded, merge, seed or 0, as_json)
        return
    graph, decisions = _graph(loaded, seed)
    if graph is None and (text or svg is not None):
        raise FileError(
            "there is no graph: only hyper-parameters are searched",
            where=str(space),
            fix="leave out --text and --svg, or define `space = rt.ModelSpace(...)`",
        )
    if graph is not None and svg is not None:
        _draw(graph, svg)
    if text:
        typer.echo(str(graph), nl=False)
        return
    facts = _facts(loaded, graph, decisions, seconds, latency)
    if as_json:
        typer.echo(json.dumps(_as_json(facts), indent=2))
        return
    _print(facts, "base model" if seed is None else f"model sampled with seed {seed}")
    if svg is not None:
        typer.echo(f"\npicture: {svg}")


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is told about a space file.

    Attributes:
        size: how many models; ``None`` without a model space.
        survey: the labels, and whether decisions lead to models.
        constraints: what the models must satisfy.
        graph: of the base model, or of the sampled one.
        anatomy: what its parts are, and what they cost.
        decisions: of the sampled model.
    """

    file: Path
    size: Size | None
    survey: Survey
    constraints: tuple[str, ...]
    graph: dict[str, Any] | None
    anatomy: Anatomy | None
    decisions: dict[str, Any] | None


def _graph(loaded: Loaded, seed: int | None) -> tuple[Graph | None, dict[str, Any] | None]:
    """The graph to look at: the base model's, or a sampled one with its decisions."""
    if loaded.space is None:
        return None, None
    if seed is None:
        return loaded.space.graph, None
    candidate = loaded.space.sample(seed)
    return candidate.graph, dict(candidate.decisions)


def _facts(
    loaded: Loaded,
    graph: Graph | None,
    decisions: dict[str, Any] | None,
    seconds: float,
    device: str | None,
) -> _Facts:
    from retiarii.commands.anatomy import Anatomy
    from retiarii.commands.survey import survey
    from retiarii.search_space import SearchSpace

    space = loaded.space
    hyperparameters = loaded.evaluator.hyperparameters()
    surveyed = survey(SearchSpace(space, hyperparameters), seconds)
    labels = [label for name, label in surveyed.labels.items() if name not in hyperparameters]
    anatomy = None if graph is None else Anatomy.of(graph, device)
    return _Facts(
        loaded.path,
        None if space is None else _size(space, labels, seconds),
        surveyed,
        () if space is None else tuple(c.name for c in space.constraints),
        None if graph is None or anatomy is None else _summary(graph, anatomy),
        anatomy,
        decisions,
    )


def _size(space: ModelSpace, labels: list[Label], seconds: float) -> Size:
    """How many models there are; where something is required, each is asked, for some time."""
    from retiarii.commands.survey import Size, size
    from retiarii.mutators.choice import Real
    from retiarii.mutators.walk import walk

    if not space.constraints:
        return size(space, seconds)
    if any(isinstance(label.domain, Real) for label in labels):
        return Size(None, exact=True)
    number, end = 0, time.monotonic() + seconds
    # Not by space.enumerate(), which goes on alone while nothing meets the constraints.
    for way in walk(space.replay):
        number += not isinstance(way, InfeasibleError)
        if time.monotonic() > end:
            return Size(number, exact=False)
    return Size(number, exact=True)


def _summary(graph: Graph, anatomy: Anatomy) -> dict[str, Any]:
    return {
        "nodes": len(graph),
        "parameters": anatomy.cost.params,
        "inputs": {node.name: str(node.type) for node in graph.inputs},
        "outputs": [str(value.type) for value in graph.outputs],
        "opaque": [
            {"node": node.name, "reason": str(node.attrs["reason"]), "where": node.where}
            for node in graph.opaque
        ],
    }


def _draw(graph: Graph, file: Path) -> None:
    try:
        file.write_text(graph.to_svg(), encoding="utf-8")
    except OSError as error:
        raise FileError(
            f"cannot write the picture: {error.strerror}",
            where=str(file),
            fix="choose another --svg FILE",
        ) from error


def _choice_text(label: Label) -> str:
    from retiarii.mutators.choice import Categorical, show

    domain = label.domain
    if not isinstance(domain, Categorical):
        return f"{domain.low:g} to {domain.high:g}{', logarithmic' if domain.log else ''}"
    shown = [show(label.options[raw]) for raw in sorted(label.options)]
    text = ", ".join(shown[:_OPTIONS_SHOWN])
    return text if len(shown) == domain.n <= _OPTIONS_SHOWN else f"{text}, ... ({domain.n} in all)"


def _print(facts: _Facts, model: str) -> None:
    typer.echo(f"{facts.file}: {facts.size or 'hyper-parameters only'}")
    survey = facts.survey
    typer.echo("\nchoices:" if survey.labels else "\nno choices")
    _columns([(name, _choice_text(label)) for name, label in survey.labels.items()])
    if survey.infeasible:
        typer.echo(f"\ninfeasible: {survey.infeasible} of {survey.replays} looked at; the first:")
        typer.echo(textwrap.indent(str(survey.reason), "  "))
    if facts.constraints:
        typer.echo("\nrequired (each model is asked, so that counting visits all of them):")
        for name in facts.constraints:
            typer.echo(f"  {name}")
    graph, anatomy = facts.graph, facts.anatomy
    if graph is None or anatomy is None:
        return
    typer.echo(f"\n{model}:")
    _columns([(name, str(value)) for name, value in (facts.decisions or {}).items()])
    _columns(
        [
            ("nodes", f"{graph['nodes']:,}"),
            ("parameters", f"{graph['parameters']:,}"),
            *anatomy.totals(),
            *((f"input {name}", kind) for name, kind in graph["inputs"].items()),
            *((f"output {i}", kind) for i, kind in enumerate(graph["outputs"])),
        ]
    )
    typer.echo("")
    for line in anatomy.table():
        typer.echo(f"  {line}")
    if graph["opaque"]:
        typer.echo("\nopaque (they run as written, and mutators cannot look inside):")
        for each in graph["opaque"]:
            place = f" ({each['where']})" if each["where"] else ""
            typer.echo(f"  {each['node']}: {each['reason']}{place}")
    if anatomy.cost.uncounted:
        typer.echo(f"\nFLOPs not counted: inside {', '.join(anatomy.cost.uncounted)}")


def _columns(rows: list[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        typer.echo(f"  {name:<{width}}  {text}")


def _as_json(facts: _Facts) -> dict[str, Any]:
    from retiarii.runtime.shown import plain

    return {
        "space": str(facts.file),
        "models": None if facts.size is None else facts.size.models,
        "exact": facts.size is None or facts.size.exact,
        "choices": {name: _choice_json(label) for name, label in facts.survey.labels.items()},
        "infeasible": {"of": facts.survey.replays, "count": facts.survey.infeasible},
        "constraints": list(facts.constraints),
        "decisions": plain(facts.decisions),
        "graph": None
        if facts.graph is None or facts.anatomy is None
        else {**facts.graph, **facts.anatomy.as_json()},
    }


def _choice_json(label: Label) -> dict[str, Any]:
    from retiarii.mutators.choice import Categorical
    from retiarii.runtime.shown import plain

    domain = label.domain
    if not isinstance(domain, Categorical):
        return {"low": domain.low, "high": domain.high, "log": domain.log}
    return {"size": domain.n, "options": [plain(label.options[r]) for r in sorted(label.options)]}
