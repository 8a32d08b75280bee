"""The errors that labelleak raises on purpose, each with one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class LabelleakError(Exception):
    """Root of every error that labelleak raises on purpose; its text is fit for a user."""


class BadInput(LabelleakError, ValueError):
    """What was handed in cannot be used; the sentence says why and what to do (exit status 2)."""


class Diverged(BadInput):
    """Training led to weights that are NaN or infinite."""


class MissingExtra(BadInput, ImportError):
    """An optional library is not installed; the sentence names the extra that brings it."""


class NotApplicable(LabelleakError):
    """An attack's need is not granted by what is known, or not carried by the update."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> BadInput:
    """Build the error for a name that is not in a list, naming the nearest one that is.

    >>> str(unknown_name("attack", "lgl", ["llg", "free"]))
    "unknown attack 'lgl'; did you mean 'llg'? Known: llg, free"
    """
    names = list(known)
    close = get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return BadInput(f"unknown {kind} {name!r}{hint} Known: {', '.join(names)}")


def shown(name: object) -> str:
    """Quote a name from outside in one short printable line.

    >>> shown("fc\\n" + "x" * 100)
    "'fc\\\\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...'"
    """
    text = str(name)
    return ascii(text if len(text) <= 60 else f"{text[:60]}...")
