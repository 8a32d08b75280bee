"""What the parser refuses, in one sentence that names the nearest thing there is."""

from __future__ import annotations

from typing import Any

import click

from labelleak.errors import nearest, shown, unknown_name

_EXTRA = "Got unexpected extra argument"


def say_refusal(error: click.ClickException) -> str:
    """Return the parser's error as one sentence.

    >>> say_refusal(click.NoSuchOption("--trails"))
    "there is no option '--trails'"
    """
    context: Any = getattr(error, "ctx", None)
    known = context.command if context is not None else None
    if isinstance(error, click.NoSuchOption):
        options = [flag for one in getattr(known, "params", ()) for flag in one.opts]
        return (
            f"there is no option {shown(error.option_name)}{_nearest(error.option_name, options)}"
        )
    said = " ".join(error.format_message().split())
    name = _command_name(said)
    if name is not None and isinstance(known, click.Group):
        return str(unknown_name("command", name, known.list_commands(context)))
    if isinstance(error, click.MissingParameter):
        return f"{_called(error)} is missing; see `{_path(context)} --help`"
    if context is not None and said.startswith(_EXTRA):
        extra = said.removeprefix(_EXTRA).partition("(")[2].removesuffix(")")
        return (
            f"`{_path(context)}` takes no {shown(extra)} by itself; name the option that it is "
            f"for, as `{_path(context)} --help` lists them"
        )
    return said[:1].lower() + said[1:].removesuffix(".")


def _command_name(said: str) -> str | None:
    start = "No such command '"
    return said.removeprefix(start).partition("'")[0] if said.startswith(start) else None


def _nearest(name: str, known: list[str]) -> str:
    close = nearest(name, known)
    return f"; did you mean {close}?" if close else ""


def _called(error: click.MissingParameter) -> str:
    found: Any = error.param
    return str(found.opts[0]) if isinstance(found, click.Option) else found.name.upper()


def _path(context: Any) -> str:
    return context.command_path if context is not None else "labelleak"


__all__ = ["say_refusal"]
