"""The errors that labelleak raises on purpose, each with one sentence that says what to do."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class LabelleakError(Exception):
    """Root of every error that labelleak raises on purpose; its text is fit for a user."""


class BadInput(LabelleakError, ValueError):
    """What was handed in cannot be used; the sentence says why and what to do (exit status 2)."""


class UnknownOption(BadInput, TypeError):
    """An argument has a name that is not taken; the sentence names the nearest one that is."""


class Diverged(BadInput):
    """Training led to weights that are NaN or infinite."""


class MissingExtra(BadInput, ImportError):
    """An optional library is not installed; the sentence names the extra that brings it."""


class NotApplicable(LabelleakError):
    """An attack's need is not granted by what is known, or not carried by the update."""


@contextmanager
def from_extra(sentence: str) -> Iterator[None]:
    """Say what to install where a library of an extra is imported and not there.

    >>> with from_extra("install labelleak[ray]"):
    ...     import no_such_library
    Traceback (most recent call last):
    labelleak.errors.MissingExtra: install labelleak[ray]
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtra(sentence) from error


def unknown_name(kind: str, name: str, known: Iterable[str]) -> BadInput:
    """Build the error for a name that is not in a list, naming the nearest one that is.

    >>> str(unknown_name("attack", "lgl", ["llg", "free"]))
    "unknown attack 'lgl'; did you mean 'llg'? Known: llg, free"
    """
    names = list(known)
    close = nearest(name, names)
    hint = f"; did you mean {close!r}?" if close else "."
    return BadInput(f"unknown {kind} {shown(name)}{hint} Known: {', '.join(names)}")


def names_checked(call: Callable[P, R]) -> Callable[P, R]:
    """Let a function refuse a keyword that it does not take in a sentence that names the nearest.

    >>> @names_checked
    ... def train(*, batch_size=1): ...
    >>> train(batchsize=2)
    Traceback (most recent call last):
    labelleak.errors.UnknownOption: unknown option 'batchsize'; did you mean 'batch_size'? \
Known: batch_size
    """
    known = [name for name in inspect.signature(call).parameters if name != "self"]

    @wraps(call)
    def checked(*given: P.args, **named: P.kwargs) -> R:
        for name in named:
            if name not in known:
                raise UnknownOption(str(unknown_name("option", name, known)))
        return call(*given, **named)

    return checked


def fields_checked(owner: T) -> T:
    """Let a dataclass refuse a field that it does not have, as `names_checked`."""
    made: Any = owner
    made.__init__ = names_checked(made.__init__)
    return owner


def nearest(name: str, known: Sequence[str]) -> str | None:
    """Return the name that was meant: of those alike, the one that the fewest slips lead to.

    >>> nearest("lgg", ["zlg", "llg"]), nearest("lgl", ["zlg", "llg"]), nearest("x", ["llg"])
    ('llg', 'llg', None)
    """
    typed = name[:100]
    alike = get_close_matches(typed, known, n=max(1, len(known)))
    return min(alike, key=lambda one: (_slips(typed, one), known.index(one)), default=None)


def _slips(typed: str, meant: str) -> int:
    """Count letters added, lost, changed or swapped with their neighbour (Damerau, 1964)."""
    above, row = list[int](), list(range(len(meant) + 1))
    for i, letter in enumerate(typed, 1):
        before, above, row = above, row, [i]
        for j, other in enumerate(meant, 1):
            slips = min(above[j] + 1, row[-1] + 1, above[j - 1] + (letter != other))
            if i > 1 < j and (letter, typed[i - 2]) == (meant[j - 2], other):
                slips = min(slips, before[j - 2] + 1)
            row.append(slips)
    return row[-1]


def shown(name: object) -> str:
    """Quote a name from outside in one short printable line.

    >>> shown("fc\\n" + "x" * 100)
    "'fc\\\\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...'"
    """
    text = str(name)
    return ascii(text if len(text) <= 60 else f"{text[:60]}...")


def shown_value(value: object) -> str:
    """Show a value from outside in one short printable line; only text is quoted.

    >>> shown_value("1"), shown_value(1.5), shown_value([1])
    ("'1'", '1.5', '[1]')
    """
    return shown(value) if isinstance(value, str) else shown(repr(value))[1:-1]


def shown_path(path: str | os.PathLike[str]) -> str:
    """Show a path as it is where that is one printable line, quoted where not."""
    text = os.fsdecode(path)
    return text if text.isprintable() and 0 < len(text) <= 300 else shown(text)


def few(names: Iterable[object], most: int = 12, *, quoted: bool = False) -> str:
    """List names from outside, at most so many, each in one short printable line.

    >>> few(["x", "y", "z"], most=2), few(["x"], quoted=True)
    ('x, y and 1 more', "'x'")
    """
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    said = map(shown, every[:most])
    return ", ".join(said if quoted else (name[1:-1] for name in said)) + more


def reason(error: BaseException) -> str:
    """Shorten a library's error to one printable line that names its class.

    >>> reason(ValueError("no\\nmore"))
    'ValueError: no'
    """
    first = (str(error).splitlines() or [""])[0][:160]
    line = "".join(sign if sign.isprintable() else "?" for sign in first)
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def printable(text: str) -> str:
    """Return text for a terminal: what could control it is escaped, lines and spaces stay.

    >>> print(printable("a\\x1b[2Jb\\u202ec"))
    a\\x1b[2Jb\\u202ec
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\xa0" else ascii(c)[1:-1] for c in text)
