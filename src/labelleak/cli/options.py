"""Commands are made from dataclasses of options: each field becomes one option of the command."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature, unwrap
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import click
import typer
from click.core import ParameterSource
from typer.core import TyperArgument, TyperCommand

from labelleak.errors import LabelleakError
from labelleak.records.options import Option, convert, declared, list_item

OUT = Path("out")
Overwrite = Annotated[bool, Option("Drop another run that lies in `out`.")]
Packed = Annotated[bool, Option("Write records.jsonl.gz, which takes a hundredth of the room.")]
_SPELLING: ContextVar[Mapping[str, str] | None] = ContextVar("spelling", default=None)
FullPaths = Annotated[
    bool, Option("Write paths into records and reports, in place of the files' names.")
]
RecordsFile = Annotated[
    Path, typer.Argument(help="A records.jsonl file, packed by gzip or not, or its folder.")
]


class _IntRange(click.IntRange):
    """Shows the range in the help; the dataclass checks it, so that Python says the same."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return click.INT.convert(value, param, ctx)


class _FloatRange(click.FloatRange):
    """As `_IntRange`."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return click.FLOAT.convert(value, param, ctx)


class ShellCommand(TyperCommand):
    """A command whose positional arguments keep their help, which click 8.5 drops from typer's."""

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        assert self.callback is not None
        hints = get_type_hints(unwrap(self.callback), include_extras=True)
        for one in self.params:
            if isinstance(one, TyperArgument):
                [told] = get_args(hints[one.name])[1:]
                one.help = told.help


@dataclass(frozen=True)
class _Field:
    """One field of an argument's dataclass, as an option of a command."""

    argument: str
    name: str
    kind: Any
    option: Option
    default: Any

    @property
    def flag(self) -> str:
        return f"--{(self.option.flag or self.name).replace('_', '-')}"

    def parameter(self, flags: Mapping[str, str]) -> Parameter:
        """Return the parameter that typer makes the option of."""
        kind, option, default = _plain(self.kind), self.option, self.default
        text = _spell(option.help, flags)
        names = [self.flag, *([f"--{option.also}"] if option.also else [])]
        told = typer.Option(*names, help=text, click_type=_range(kind, option))
        if default is not Parameter.empty and kind is not bool:
            kind = kind | None
        if isinstance(default, tuple):
            default = ",".join(map(str, default))
        hint: Any = Annotated[kind, told]
        return Parameter(self.name, Parameter.KEYWORD_ONLY, default=default, annotation=hint)

    def read(self, value: Any) -> Any:
        """Return what was typed as the dataclass takes it: a list split at its commas."""
        if value is None or list_item(self.kind) is None:
            return value
        parts = tuple(part.strip() for part in value.split(",") if part.strip())
        return convert(self.name, self.kind, parts)


def command(run: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function whose arguments are dataclasses of options or typer's own.

    Each field that holds an `Option` becomes one of the command. Messages about options are
    spelled as on the command line.
    """
    hints = get_type_hints(run, include_extras=True)
    hints.pop("return", None)
    arguments = signature(run).parameters
    found = [f for name in arguments for f in _fields(name, hints[name])]
    flags = {field.name: field.flag for field in found}
    groups = {field.argument: hints[field.argument] for field in found}
    parameters = [
        arguments[name].replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[name])
        for name in arguments
        if name not in groups
    ]
    parameters += [field.parameter(flags) for field in found]

    @wraps(run)
    def spelled(**given: Any) -> None:
        _SPELLING.set(flags)
        try:
            typed = {field.name: field.read(given.pop(field.name)) for field in found}
            for name, kind in groups.items():
                mine = {f.name: typed[f.name] for f in found if f.argument == name}
                given[name] = kind(**mine)
            run(**given)
        except LabelleakError as error:
            error.args = (spelled_for_shell(str(error)),)
            raise

    spelled.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    spelled.__annotations__ = {one.name: one.annotation for one in parameters}
    return spelled


def _fields(argument: str, kind: Any) -> Iterator[_Field]:
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return
    for name, hint, option in declared(kind):
        if option is not None:
            yield _Field(argument, name, hint, option, getattr(kind, name, Parameter.empty))


def _plain(kind: Any) -> Any:
    """Return the type that is typed in: the one beside None, text for lists and words."""
    parts = get_args(kind) if type(None) in get_args(kind) else (kind,)
    first = next(part for part in parts if part is not type(None))
    return first if first in (bool, int, float, Path) else str


def _range(kind: Any, option: Option) -> Any:
    low = option.min if option.above is None else option.above
    if kind not in (int, float) or (low is None and option.below is None):
        return None
    bounds: dict[str, Any] = {"min": low, "max": option.below}
    bounds |= {"min_open": option.above is not None, "max_open": option.below is not None}
    return _IntRange(**bounds) if kind is int else _FloatRange(**bounds)


def said(names: Iterable[str]) -> list[str]:
    """Return which options of the command that runs were typed, be it at their default."""
    context = click.get_current_context()
    plain = (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    return [name for name in names if context.get_parameter_source(name) not in plain]


def spelled_for_shell(text: str) -> str:
    """Write the names of options in a text as the command that runs takes them."""
    return _spell(text, _SPELLING.get() or {})


def _spell(text: str, flags: Mapping[str, str]) -> str:
    """Write the names of options as the command line does."""

    def spelled(found: re.Match[str]) -> str:
        flag = f"--{found[1].replace('_', '-')}"
        return flags.get(found[1], flag if flag in flags.values() else found[0])

    return re.sub(r"`(\w+)`", spelled, text)


__all__ = [
    "OUT",
    "FullPaths",
    "Overwrite",
    "Packed",
    "RecordsFile",
    "ShellCommand",
    "command",
    "said",
    "spelled_for_shell",
]
