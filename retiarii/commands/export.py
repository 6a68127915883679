"""``retiarii export``: a trained model as plain PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retiarii.commands.common import Debug, python_line, score_text, tells_errors
from retiarii.commands.show import Directory, pick
from retiarii.errors import FileError, RetiariiError

if TYPE_CHECKING:
    from retiarii.result import Result
    from retiarii.trial_result import TrialResult

_FINISHED = ("complete", "pruned")


@tells_errors
def export(
    directory: Directory,
    to: Annotated[
        Path, typer.Option("--to", metavar="OUT", help="The folder to write.", show_default=False)
    ],
    trial: Annotated[
        int | None,
        typer.Option(metavar="N", help="Which trial. (default: the best)", show_default=False),
    ] = None,
    space: Annotated[
        Path | None,
        typer.Option(
            metavar="SPACE.PY",
            help="Where the space file is now, if it was moved.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder with files.")] = False,
    debug: Debug = False,  # noqa: ARG001 - tells_errors reads it
) -> None:
    """Write a trained model as model.py, weights, decisions and a usage.py that runs it.

    They need torch and safetensors, and not retiarii.
    """
    chosen = _choose(directory, trial)
    from retiarii.export import export as write

    result = _with_space(directory, chosen, space)
    exported = write(result.trials[chosen], to, metric=result.metric, force=force)
    picked = result.trials[chosen]
    typer.echo(f"trial {picked.id}, {result.metric} {score_text(picked.score)}, as plain PyTorch:")
    for file in exported.files:
        typer.echo(f"  {file}")
    if not exported.trained:
        typer.echo(
            "its evaluator kept no trained weights: weights.safetensors has the initial ones"
        )
    typer.echo(f"\nrun it:  {python_line(exported.files[-1])}")


def _choose(directory: Path, number: int | None) -> int:
    """The trial to export.

    Raises:
        RetiariiError: there is none of that number, or it has no score.
    """
    from retiarii.result import open_result

    result = open_result(directory)
    picked: TrialResult | None = result.best if number is None else pick(result, number)
    if picked is None:
        raise RetiariiError(
            "no trial is complete yet, so there is no best model",
            where=str(directory),
            fix="let the search go on: run the same command again",
        )
    if picked.state not in _FINISHED:
        raise RetiariiError(
            f"trial {picked.id} is {picked.state}, and has no trained model",
            where=str(directory),
            fix="choose one that is complete: retiarii show",
        )
    return picked.id


def _with_space(directory: Path, number: int, moved: Path | None) -> Result:
    """The result, with the space that its models follow from.

    Raises:
        FileError: the space file is not there, or has changed so that the trial would be
            another model; or the trained weights are not there.
    """
    from retiarii.result import open_result
    from retiarii.runtime.source import load_space_file
    from retiarii.search_space import SearchSpace

    file = moved or open_result(directory).file
    if file is None:
        raise FileError(
            "this search was started from Python, not from a space file",
            where=str(directory),
            fix="give the file that makes its space and evaluator: --space SPACE.PY",
        )
    if moved is None and not file.exists():
        raise FileError(
            "the space file is not there any more, and models follow from it",
            where=str(file),
            fix="say where it is now: --space SPACE.PY",
        )
    loaded = load_space_file(file)
    result = open_result(directory, SearchSpace(loaded.space, loaded.evaluator.hyperparameters()))
    try:
        same = result.point(number).key() == result.row(number).key
    except RetiariiError as error:
        raise _changed(number, file, error.cause) from error
    if not same:
        raise _changed(number, file, "its decisions lead to another model now")
    if loaded.evaluator.keeps_weights:
        _check_weights(result.trials[number])
    return result


def _check_weights(trial: TrialResult) -> None:
    """Makes sure that initial weights are not taken for the trained ones.

    Raises:
        FileError: the trained weights are not there any more.
    """
    from retiarii.training.checkpoint import WEIGHTS

    file = trial.directory / WEIGHTS
    if not file.is_file():
        raise FileError(
            f"the trained weights of trial {trial.id} are not there any more",
            where=str(file),
            fix="restore the file from a copy, or choose another trial: --trial N",
        )


def _changed(number: int, file: Path, detail: str) -> FileError:
    return FileError(
        f"the space file has changed since trial {number} was trained: {detail}",
        where=str(file),
        fix="put the former version back, or give it by --space SPACE.PY",
    )
