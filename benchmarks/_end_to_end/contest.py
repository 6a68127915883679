"""Who takes part, and who was the best of those that did the same in another way."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from _end_to_end.runs import FailedError, Run, Runs

OURS, OURS_WORKERS, OFF = "retiarii", "retiarii, {} workers", "retiarii, --fuse off"
# As it comes, trials are trained in a process of their own, where nobody can look.
INLINE = "retiarii, --executor inline"
PLAIN, PLAIN_WORKERS = "Optuna and PyTorch", "Optuna and PyTorch, {} processes"
LAST = "--channels-last"
_TRIED = 6
_TRY_SECONDS = 90.0

# How the plain loop may be run in one process; {} is the number of cores.
VARIANTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "one thread": ("--threads", "1"),
        "one thread, channels last": ("--threads", "1", LAST),
        "{} threads": ("--threads", "{}"),
        "{} threads, channels last": ("--threads", "{}", LAST),
        "torch.compile": ("--threads", "1", "--compile"),
    }
)


@dataclass(frozen=True)
class Contest:
    """How the contest is held.

    Attributes:
        runs: starts contestants.
        rounds: in each, every contestant searches once.
        seconds: of a task after which no further round begins.
        workers: processes, for those that take several.
        compiled: whether to try ``torch.compile``, too.
    """

    runs: Runs
    rounds: int
    seconds: float
    workers: int
    compiled: bool


@dataclass(frozen=True)
class Task:
    """What was found.

    Attributes:
        name: of the task.
        variants: of the plain loop: name -> seconds that all trials would take, or why not.
        chosen: the fastest of them.
        runs: contestant -> its searches, a round each; all train the same candidates.
        own: likewise, each with the candidates of its own strategy.
    """

    name: str
    variants: dict[str, float | str]
    chosen: str
    runs: dict[str, list[Run]]
    own: dict[str, list[Run]]


def play(contest: Contest, name: str, own: bool) -> Task:
    """All rounds of one task; contestants take turns."""
    runs, workers = contest.runs, str(contest.workers)
    random = ("--strategy", "random")
    variants: dict[str, float | str] = {}
    chosen = ""
    found: dict[str, list[Run]] = {}
    began = time.monotonic()
    for seed in range(contest.rounds):
        if seed and time.monotonic() - began > contest.seconds:
            break
        ours = runs.ours(name, seed, *random)
        same = ours.decisions
        if not chosen:
            variants = _variants(contest, name, same)
            chosen = min(
                (v for v in variants if isinstance(variants[v], float)),
                key=lambda v: float(variants[v]),
            )
        # Of the layouts, what is faster in one process is so in several.
        several = ("--processes", workers, *(w for w in VARIANTS[chosen] if w == LAST))
        made = {
            OURS: ours,
            PLAIN: runs.plain(name, seed, *_filled(VARIANTS[chosen], workers), enqueue=same),
            OURS_WORKERS: runs.ours(name, seed, *random, "--workers", workers),
            PLAIN_WORKERS: runs.plain(name, seed, *several, enqueue=same),
        }
        if seed == 0:  # what says little more the second time
            made[INLINE] = runs.ours(name, seed, *random, "--executor", "inline")
            made[OFF] = runs.ours(name, seed, *random, "--fuse", "off")
        for who, run in made.items():
            found.setdefault(who.format(workers), []).append(run)
    each: dict[str, list[Run]] = {}
    for seed in range(len(found[OURS]) if own else 0):
        each.setdefault("retiarii, tpe", []).append(runs.ours(name, seed, "--strategy", "tpe"))
        tpe = ("--sampler", "tpe", *_filled(VARIANTS[chosen], workers))
        each.setdefault(f"{PLAIN}, TPE", []).append(runs.plain(name, seed, *tpe))
    named = {variant.format(workers): seconds for variant, seconds in variants.items()}
    return Task(name, named, chosen.format(workers), found, each)


def _variants(contest: Contest, name: str, same: list[dict[str, object]]) -> dict[str, float | str]:
    """Trains the first few candidates in each way; how long all would take.

    Each trial has the time that it took, and the first what came before it, such as compiling.
    """
    found: dict[str, float | str] = {}
    for variant, words in VARIANTS.items():
        if variant == "torch.compile" and not contest.compiled:
            found[variant] = "not tried"
            continue
        arguments = _filled(words, str(contest.workers))
        few = min(_TRIED, contest.runs.trials)
        try:
            run = contest.runs.plain(
                name, 0, *arguments, enqueue=same, trials=few, limit=_TRY_SECONDS
            )
        except FailedError as failed:
            found[variant] = str(failed)
            continue
        ends = [at for at, _ in run.scores]
        each = statistics.mean(b - a for a, b in itertools.pairwise(ends))
        found[variant] = ends[0] + each * (contest.runs.trials - 1)
    return found


def _filled(words: tuple[str, ...], workers: str) -> list[str]:
    return [word.format(workers) for word in words]
