"""What all commands share: how errors are told, and how the program is called."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from retiarii.errors import RetiariiError

P = ParamSpec("P")

USER_MISTAKE = 2
INTERRUPTED = 130

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]


def tells_errors(command: Callable[P, None]) -> Callable[P, None]:
    """A command whose user's mistakes are told in three lines, with exit code 2.

    With ``debug=True`` among its arguments the traceback is shown too. Ctrl-C ends with code 130.
    """

    @functools.wraps(command)
    def told(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except RetiariiError as error:
            if kwargs.get("debug"):
                import traceback

                typer.echo(traceback.format_exc(), err=True)
            tell(error)
            raise typer.Exit(USER_MISTAKE) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None

    return told


def tell(error: RetiariiError) -> None:
    """Prints cause, place and fix, one line each, to stderr."""
    typer.echo(f"{typer.style('error:', fg='red', bold=True)} {error}", err=True)


def command_line(*words: str | Path) -> str:
    """A command for the user to type, with the program as they called it."""
    return f"{_program()} {shlex.join(str(word) for word in words)}"


def python_line(file: Path) -> str:
    """A command that runs a script with the Python that has torch: this one."""
    return f"{_as_typed(Path(sys.executable), 'python')} {shlex.quote(str(file))}"


def _program() -> str:
    called = Path(sys.argv[0])
    return _as_typed(called, "retiarii") if called.name == "retiarii" else "retiarii"


def _as_typed(program: Path, name: str) -> str:
    """``name`` where the shell would find this very program by it, else its path."""
    found = shutil.which(name)
    if found is not None and Path(found).parent == program.absolute().parent:
        return name
    return shlex.quote(os.path.relpath(program))


def seconds_text(seconds: float) -> str:
    """A duration as people say it: ``40 ms``, ``8 s``, ``3 min``, ``2.5 h``."""
    if seconds < 0.95:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def score_text(score: float | None) -> str:
    """A score in five digits, or nothing."""
    return "" if score is None else f"{score:.5g}"
