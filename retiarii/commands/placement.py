"""Where ``retiarii run`` has its trials run: what the options say, made ready for `Experiment`."""

from __future__ import annotations

import os
from typing import Any, Final

from retiarii.errors import RetiariiError, nearest
from retiarii.runtime.cluster.need import Need

#: The environment's word on which executor is used where the command line says nothing.
EXECUTOR: Final = "RETIARII_EXECUTOR"
_EXECUTORS: Final = ("inline", "local", "ray")


def check_placement(
    executor: str | None,
    workers: int | None,
    cohort: str | None,
    address: str | None,
    cpus: float | None,
    gpus: float | None,
) -> dict[str, Any]:
    """Arguments of `Experiment`, from options of the command line.

    Raises:
        RetiariiError: a number is too small, an option is not of this executor, or the variable
            RETIARII_EXECUTOR names none.
    """
    chosen = executor or _by_environment()
    if workers is not None and workers < 1:
        raise RetiariiError(
            f"the number of workers is {workers}",
            where=f"--workers {workers}",
            fix="give 1 or more",
        )
    cluster = {"--address": address, "--cpus-per-worker": cpus, "--gpus-per-worker": gpus}
    for option, value in cluster.items():
        if value is None:
            continue
        if chosen != "ray":
            raise RetiariiError(
                f"{option} is about a Ray cluster, and the executor is {chosen}",
                where=f"{option} {value}",
                fix=f"add --executor ray, or leave {option} out",
            )
        least = 0.0 if option == "--gpus-per-worker" else 1e-4  # Ray's smallest share
        if isinstance(value, float) and value < least:
            raise RetiariiError(
                f"a worker cannot take {value:g} of a node",
                where=f"{option} {value:g}",
                fix="give a larger number",
            )
    return {
        "executor": chosen,
        "workers": workers,
        "cohort": _cohort(cohort),
        "address": address,
        "need": None if cpus is None and gpus is None else Need(cpus, gpus),
    }


def _by_environment() -> str:
    named = os.environ.get(EXECUTOR) or "local"
    if named not in _EXECUTORS:
        raise RetiariiError(
            f"there is no executor {named!r}",
            where=f"the variable {EXECUTOR}",
            fix=nearest(named, list(_EXECUTORS)),
        )
    return named


def _cohort(given: str | None) -> int | str | None:
    if given is None or given == "auto":
        return given
    if given.isdecimal() and int(given) >= 1:
        return int(given)
    raise RetiariiError(
        f"the size of a cohort is {given}", where=f"--cohort {given}", fix="give 1 or more, or auto"
    )
