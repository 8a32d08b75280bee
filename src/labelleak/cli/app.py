"""The command line: thin, and quick to help, since anything heavy is imported inside a command."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import click
import typer

from labelleak.cli.commands import CommandGroup
from labelleak.cli.parsing import say_refusal
from labelleak.cli.terminal import INTERRUPTED, last_act
from labelleak.errors import LabelleakError, printable
from labelleak.records.provenance import VERSION

# No refusal takes more of the screen, whatever name from outside stands in it.
_LONGEST = 1500

app = typer.Typer(
    cls=CommandGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Audit how many training labels a federated learning update gives away.",
)


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


if __name__ == "__main__":
    main()
