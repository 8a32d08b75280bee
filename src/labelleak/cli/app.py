"""The command line: thin, and quick to help, since anything heavy is imported inside a command."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated, NoReturn

import click
import typer

from labelleak.cli.attack import attack
from labelleak.cli.audit import audit, report
from labelleak.cli.bench import bench
from labelleak.cli.capture import capture
from labelleak.cli.doctor import doctor
from labelleak.cli.gate import gate
from labelleak.cli.options import ShellCommand, command
from labelleak.cli.paper import paper
from labelleak.cli.parsing import say_refusal
from labelleak.cli.records import records
from labelleak.cli.results import Shown, print_json, print_wrapped
from labelleak.cli.run import run
from labelleak.cli.terminal import INTERRUPTED, last_act
from labelleak.cli.tune import tune
from labelleak.cli.verify import verify
from labelleak.cli.watch import watch
from labelleak.errors import BadInput, LabelleakError, printable, unknown_name
from labelleak.records.provenance import VERSION

# No refusal takes more of the screen, whatever name from outside stands in it.
_LONGEST = 1500

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
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
        with last_act():
            found = typer.main.get_command(app).main(prog_name="labelleak", standalone_mode=False)
    except LabelleakError as error:
        _refuse(str(error))
    except click.ClickException as error:
        _refuse(say_refusal(error))
    except click.Abort:
        sys.exit(INTERRUPTED)
    sys.exit(found if isinstance(found, int) else 0)


def _refuse(said: str) -> NoReturn:
    short = said if len(said) <= _LONGEST else f"{said[:_LONGEST]} ..."
    print(f"Error: {printable(short)}", file=sys.stderr)
    sys.exit(2)


def _show_number(wanted: bool) -> None:
    if wanted:
        print(f"labelleak {VERSION}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_number, is_eager=True, help="Print and exit."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


_COMMANDS = (
    audit,
    report,
    attack,
    capture,
    run,
    paper,
    tune,
    gate,
    watch,
    records,
    verify,
    doctor,
    bench,
)
for _run in _COMMANDS:
    app.command(cls=ShellCommand)(_run)


@app.command(name="list", cls=ShellCommand)
@command
def list_names(
    what: Annotated[str, typer.Argument(help=f"One of: {', '.join(Listing)}.")], *, shown: Shown
) -> None:
    """List attacks, defenses, data sets, models, experiments or batch schemes."""
    from labelleak.cli.listings import describe

    if what not in list(Listing):
        if what == "experiments":
            raise BadInput("experiments are listed by `labelleak list paper`")
        raise unknown_name("list", what, [one.value for one in Listing])
    found = dict(describe(what))
    if shown.json:
        print_json(found)
        return
    for name, line in found.items():
        print_wrapped(name, line)


@app.command(cls=ShellCommand)
@command
def selftest(shown: Shown) -> None:
    """Audit the auditor: updates known to leak and known not to must be told apart."""
    from labelleak.audits.controls import run_controls

    controls = []
    for control in run_controls():
        controls.append(control)
        if not shown.json:
            print(control)
    failed = sum(not control.passed for control in controls)
    if shown.json:
        told = {str(control): control.passed for control in controls}
        print_json({"passed": not failed, "controls": told})
    else:
        print(f"selftest {'FAILED' if failed else 'PASSED'}: {failed} of {len(controls)} failed")
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
