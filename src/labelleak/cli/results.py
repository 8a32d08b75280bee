"""How commands end: one JSON object where that is asked for, else the result in a line or two."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from labelleak.errors import printable
from labelleak.records.options import Option, Options

if TYPE_CHECKING:
    from labelleak.records.record import Record
    from labelleak.report.verdict import Verdict

Json = Annotated[bool, Option("Print one JSON object.")]


@dataclass(frozen=True, kw_only=True)
class Shown(Options):
    """What is printed."""

    json: Json = False


def print_json(found: Any) -> None:
    """Print an object on one line."""
    print(json.dumps(found, allow_nan=False))


def print_wrapped(name: str, line: str, *, indent: int = 20) -> None:
    """Print a name and a line about it, within the width of the terminal."""
    width = max(40, shutil.get_terminal_size((80, 24)).columns)
    room = f"{name:<{indent}}" if len(name) < indent else f"{name} "
    print(
        textwrap.fill(
            printable(f"{room}{' '.join(line.split())}"),
            width,
            subsequent_indent=" " * indent,
            break_on_hyphens=False,
            break_long_words=False,
        )
    )


def judge(records: Iterable[Record]) -> Verdict:
    """Return the verdict of records, each trial once."""
    from labelleak.records.repeats import count_once
    from labelleak.report.verdict import reach_verdict

    return reach_verdict(count_once(records))


def say_verdict(verdict: Verdict) -> str:
    """Say the verdict as the page gives it."""
    from labelleak.report.opening import say_verdict as words

    return words(verdict)


def paths(**named: Path) -> dict[str, str]:
    """Return paths as JSON holds them."""
    return {name: str(path) for name, path in named.items()}


__all__ = ["Json", "Shown", "judge", "paths", "print_json", "print_wrapped", "say_verdict"]
