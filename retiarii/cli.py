"""The command line: ``retiarii run | status | show | compare | export | inspect | bench``.

Commands import what they need when they run, so that help answers at once and without torch.
"""

from __future__ import annotations

from typing import Annotated

import typer

from retiarii import __version__
from retiarii.commands.bench import PASSES_ON, bench
from retiarii.commands.compare import compare
from retiarii.commands.export import export
from retiarii.commands.inspect import inspect
from retiarii.commands.run import run
from retiarii.commands.show import show
from retiarii.commands.status import status

app = typer.Typer(
    name="retiarii",
    help="Search for a neural network: one PyTorch model, and rules that say how it may change.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run)
app.command()(show)
app.command()(status)
app.command()(compare)
app.command()(export)
app.command()(inspect)
app.command(context_settings=PASSES_ON)(bench)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"retiarii {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    del version


def main() -> None:
    """Runs the command line; the process's exit code says how it went."""
    app()
