"""Candidates that the user writes down: a JSON file of decisions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retiarii.errors import FileError, SpaceError

if TYPE_CHECKING:
    from retiarii.experiment import Experiment

_FORM = 'write a list of dicts of label -> value: [{"width": 64, "lr": 0.01}]'


def read_candidates(file: Path) -> list[dict[str, Any]]:
    """The candidates of a file: a list of dicts, or one dict.

    Raises:
        FileError: it is not there, cannot be read, or holds something else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError(
            "there is no such file", where=f"--enqueue {file}", fix="give a JSON file"
        ) from None
    except OSError as error:
        raise FileError(
            f"cannot read the candidates: {error.strerror}",
            where=f"--enqueue {file}",
            fix="give a JSON file that can be read",
        ) from error
    except ValueError as error:
        raise FileError(f"this is not JSON: {error}", where=str(file), fix=_FORM) from error
    listed = [found] if isinstance(found, dict) else found
    if not isinstance(listed, list):
        raise FileError(f"it holds a {type(found).__name__}", where=str(file), fix=_FORM)
    for at, each in enumerate(listed):
        if not isinstance(each, dict):
            raise FileError(
                f"candidate {at} is a {type(each).__name__}", where=str(file), fix=_FORM
            )
    return listed


def enqueue_all(experiment: Experiment, candidates: list[dict[str, Any]], file: Path) -> None:
    """Has each of them evaluated.

    Raises:
        SpaceError: one of them is none of this space; it says which.
    """
    for at, decisions in enumerate(candidates):
        try:
            experiment.enqueue(decisions)
        except SpaceError as error:
            where = f"{file}, candidate {at}" + (f": {error.where}" if error.where else "")
            raise SpaceError(error.cause, where=where, fix=error.fix) from error
