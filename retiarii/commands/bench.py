"""``retiarii bench``: the benchmarks of a source checkout."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from retiarii.commands.common import Debug, tells_errors
from retiarii.errors import RetiariiError, nearest

# What is not an option of ours is the benchmark's own.
PASSES_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@tells_errors
def bench(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(help="Which one; without it they are listed.", show_default=False),
    ] = None,
    debug: Debug = False,  # noqa: ARG001 - tells_errors reads it
) -> None:
    """List the benchmarks, or run one; further options are passed on to it."""
    found = _benchmarks()
    if name is None:
        width = max(map(len, found))
        for each, file in found.items():
            typer.echo(f"{each:<{width}}  {_about(file)}")
        return
    if name not in found:
        raise RetiariiError(
            f"there is no benchmark {name!r}",
            where=str(_folder()),
            fix=nearest(name, list(found)),
        )
    raise typer.Exit(_run([sys.executable, str(found[name]), *context.args]))


def _run(command: list[str]) -> int:
    """Runs it to its end; what it has measured when it is interrupted, it still writes."""
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # it gets one, too


def _folder() -> Path:
    return Path(__file__).parents[2] / "benchmarks"


def _benchmarks() -> dict[str, Path]:
    """Name -> file.

    Raises:
        RetiariiError: this is no source checkout.
    """
    files = sorted(_folder().glob("[!_]*.py"))
    if not files:
        raise RetiariiError(
            "there are no benchmarks here: they come with the source, not with the package",
            where=str(_folder()),
            fix="clone the repository, and run `make env` in it",
        )
    return {file.stem: file for file in files}


def _about(file: Path) -> str:
    text = ast.get_docstring(ast.parse(file.read_bytes())) or ""
    return text.partition("\n")[0]
