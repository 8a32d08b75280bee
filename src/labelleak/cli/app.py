"""The command line: thin, and quick to help, since anything heavy is imported inside a command."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from labelleak.cli.attack import attack
from labelleak.cli.audit import audit, report
from labelleak.cli.capture import capture
from labelleak.cli.gate import gate
from labelleak.cli.paper import paper
from labelleak.cli.run import run
from labelleak.cli.tune import tune
from labelleak.cli.watch import watch
from labelleak.errors import LabelleakError, printable
from labelleak.records.provenance import VERSION

# No refusal takes more of the screen, whatever name from outside stands in it.
_LONGEST = 1500

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Audit how many training labels a federated learning update gives away.",
)


class Listing(StrEnum):
    """What `labelleak list` can list."""

    attacks = "attacks"
    defenses = "defenses"
    data = "data"
    models = "models"
    paper = "paper"
    schemes = "schemes"


def main() -> None:
    """Run the command line; what users do wrong ends in one sentence and status 2."""
    try:
        app()
    except LabelleakError as error:
        said = str(error)
        short = said if len(said) <= _LONGEST else f"{said[:_LONGEST]} ..."
        print(f"Error: {printable(short)}", file=sys.stderr)
        sys.exit(2)


def _show_number(wanted: bool) -> None:
    if wanted:
        print(f"labelleak {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_number, is_eager=True, help="Print and exit."),
    ] = False,
) -> None:
    pass


app.command()(audit)
app.command()(report)
app.command()(attack)
app.command()(capture)
app.command()(run)
app.command()(paper)
app.command()(tune)
app.command()(gate)
app.command()(watch)


@app.command(name="list")
def list_names(what: Annotated[Listing, typer.Argument(help="What to list.")]) -> None:
    """List attacks, defenses, data sets, models, experiments or batch schemes."""
    from labelleak.cli.listings import describe

    for name, line in describe(what.value):
        print(f"{name:<18} {line}")


@app.command()
def bench() -> None:
    """Measure speed on this machine: ratios and times, each taken in this one run."""
    from labelleak.studies.bench import run_bench

    for line in run_bench():
        print(line)


@app.command()
def selftest() -> None:
    """Audit the auditor: updates known to leak and known not to must be told apart."""
    from labelleak.audits.controls import run_controls

    failed = False
    for control in run_controls():
        print(control)
        failed |= not control.passed
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
