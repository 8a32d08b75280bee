"""The commands by name: each is loaded when it is asked for, so that one pays for no other."""

from __future__ import annotations

from functools import cache
from importlib import import_module

import click
import typer
from typer.core import TyperGroup

from labelleak.cli.options import ShellCommand

# The file of each command, and the function in it, in the order in which the help lists them.
_HOMES = {
    "audit": "audit",
    "report": "report",
    "attack": "attack",
    "capture": "capture",
    "run": "run",
    "paper": "paper",
    "tune": "tune",
    "gate": "gate",
    "watch": "watch",
    "records": "records",
    "verify": "verify",
    "doctor": "doctor",
    "bench": "bench",
    "list": "list_names",
    "selftest": "selftest",
}


class CommandGroup(TyperGroup):
    """The commands of the program, loaded one by one; as the parser takes a group of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, without loading one."""
        return list(_HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name, or None if there is none."""
        return load_command(cmd_name) if cmd_name in _HOMES else None


@cache
def load_command(name: str) -> click.Command:
    """Load one command from its file, where a function bears the file's name.

    >>> load_command("list").name
    'list'
    """
    home = _HOMES[name]
    run = getattr(import_module(f"labelleak.cli.{home}"), home)
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
    alone.command(name=name, cls=ShellCommand)(run)
    return typer.main.get_command(alone)


def load_all() -> dict[str, click.Command]:
    """Load every command."""
    return {name: load_command(name) for name in _HOMES}


__all__ = ["CommandGroup", "load_all", "load_command"]
