"""``retiarii inspect --merge K``: what merging K sampled models would do, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from retiarii.errors import FileError

if TYPE_CHECKING:
    from retiarii.optimizer.compile import Compiled
    from retiarii.optimizer.lift import Model
    from retiarii.optimizer.memory import Memory
    from retiarii.optimizer.plan import Group
    from retiarii.runtime.source import Loaded

_GROUPS_SHOWN = 20
_NAMES_SHOWN = 3


def inspect_merge(loaded: Loaded, count: int, seed: int, as_json: bool) -> None:
    """Prints what merging would do.

    Args:
        loaded: a space file.
        count: how many models to sample.
        seed: of the first; the others follow.
        as_json: print one JSON object.

    Raises:
        FileError: the file has no model space.
        MergeError: the models cannot be merged.
    """
    from retiarii.optimizer.compile import Options, compile_plan
    from retiarii.optimizer.lift import Model
    from retiarii.optimizer.memory import estimate_compiled
    from retiarii.optimizer.merge import check_mergeable

    if loaded.space is None:
        raise FileError(
            "there are no models to merge: only hyper-parameters are searched",
            where=str(loaded.path),
            fix="leave out --merge, or define `space = rt.ModelSpace(...)`",
        )
    seeds = range(seed, seed + count)
    samples = [loaded.space.sample(s) for s in seeds]
    models = [Model.of(c.graph, c.build(s)) for c, s in zip(samples, seeds, strict=True)]
    check_mergeable(models)
    given = loaded.evaluator.describe().get("batch_size")
    batch = given if isinstance(given, int) else models[0].graph.context.batch
    made = compile_plan(models, True, Options(batch=batch), None)
    device = next((t.device for m in models for t in m.tensors.values()), None)
    memory = estimate_compiled(made, models, batch, 1.0, device or _cpu())
    facts = _facts(made, models, memory, batch)
    facts["execution"] = _execution(made, loaded.evaluator, batch, device or _cpu())
    if as_json:
        typer.echo(json.dumps({"space": str(loaded.path), "seeds": list(seeds), **facts}, indent=2))
        return
    typer.echo(f"{loaded.path}: {count} models sampled with seeds {seeds[0]} to {seeds[-1]}")
    for line in _lines(facts, memory):
        typer.echo(line)


def _cpu() -> Any:
    import torch

    return torch.device("cpu")


def _facts(made: Compiled, models: Sequence[Model], memory: Memory, batch: int) -> dict[str, Any]:
    stats, choice = made.stats, made.choice
    groups = sorted(
        (g for g in made.plan.groups if len(g.members) > 1), key=lambda g: -len(g.members)
    )
    return {
        "batch": batch,
        "models": stats.models,
        "calls": {"before": stats.nodes_before, "after": stats.nodes_after},
        "shared": stats.shared,
        "fused": stats.fused,
        "groups": [_group(made, g) for g in groups],
        "apart": _apart(made, models),
        "copies": stats.copies,
        "memory": {
            "parameters": memory.parameters,
            "gradients": memory.gradients,
            "states": memory.states,
            "activations": memory.activations,
            "peak": memory.peak,
            "exact": memory.exact,
        },
        "choice": {
            "fuse": choice.fuse,
            "reason": choice.reason,
            "limits": list(choice.kept),
            "serial_seconds": choice.serial,
            "merged_seconds": choice.merged,
            "speed_up": choice.estimated_ratio,
        },
    }


def _execution(made: Compiled, evaluator: Any, batch: int, device: Any) -> str:
    """Whether the merged program would be compiled, and why; a search times its own steps."""
    from retiarii.optimizer.compiling import UNKNOWN, decide, refusal

    task, epochs = getattr(evaluator, "task", None), evaluator.describe().get("epochs")
    if task is None or not isinstance(epochs, int):
        return UNKNOWN.reason
    steps = epochs * -(-task.train.sampling.length // batch)
    why = refusal(made.code.source, len(made.code.templates))
    return decide(made.stats.nodes_after, why, steps, made.choice.merged, device).reason


def _group(made: Compiled, group: Group) -> dict[str, Any]:
    items = made.plan.forest.items
    first = items[group.members[0]]
    return {
        "size": len(group.members),
        "op": group.call.op,
        "type": ", ".join(map(str, first.call.results)),
        "members": [f"{items[m].owner}:{items[m].name}" for m in group.members],
    }


def _apart(made: Compiled, models: Sequence[Model]) -> list[dict[str, Any]]:
    """Calls that no group takes, by operation and reason."""
    items = made.plan.forest.items
    found: dict[tuple[str, str], int] = {}
    for group in made.plan.groups:
        if len(group.members) > 1:
            continue
        item = items[group.members[0]]
        reason = "no rule fuses it"
        if item.owner < 0:
            reason = "computed once for all models"
        elif item.call.op == "opaque":
            record = models[item.owner].graph.record(item.name)
            reason = f"it runs as it is: {record.attrs['reason']}"
        elif group.fused:
            reason = "no other call is like it, at the time when it can run"
            if not made.choice.fuse or made.choice.limits:
                reason = f"{reason}, or fusing it would not pay"
        key = (item.call.op, reason)
        found[key] = found.get(key, 0) + 1
    return [{"op": op, "count": n, "reason": why} for (op, why), n in found.items()]


def _lines(facts: dict[str, Any], memory: Memory) -> list[str]:
    calls, choice = facts["calls"], facts["choice"]
    rows = [
        ("calls", f"{calls['before']:,} become {calls['after']:,}"),
        ("shared", f"{facts['shared']:,} calls that several models, or places, have in common"),
        ("fused", f"{facts['fused']:,} calls in {len(facts['groups'])} groups"),
        ("copies", f"{facts['copies']:,} pieces, to bring members of groups together"),
        ("memory", f"{memory}, for SGD with momentum, {facts['batch']} samples a step"),
        ("choice", choice["reason"]),
        *(("", line) for line in choice["limits"]),
        ("run", facts["execution"]),
    ]
    lines = [f"  {name:<8}{text}" for name, text in rows]
    if facts["groups"]:
        lines.append("\ngroups, the largest first:")
        width = max(len(g["op"]) for g in facts["groups"])
        for group in facts["groups"][:_GROUPS_SHOWN]:
            more = group["size"] - _NAMES_SHOWN
            who = ", ".join(group["members"][:_NAMES_SHOWN]) + (f" and {more} more" * (more > 0))
            lines.append(f"  {group['size']:>4} x {group['op']:<{width}}  {group['type']}  {who}")
        hidden = len(facts["groups"]) - _GROUPS_SHOWN
        lines += [f"  and {hidden} groups more (--json has all)"] * (hidden > 0)
    if facts["apart"]:
        lines.append("\ncalls by themselves:")
        lines += [f"  {a['count']:>4} x {a['op']}: {a['reason']}" for a in facts["apart"]]
    return lines
