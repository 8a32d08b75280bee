"""Options: frozen dataclasses whose fields hold help, default and range, and check themselves."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from numbers import Real
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from labelleak.errors import BadInput, few, shown, shown_value


@dataclass(frozen=True)
class Option:
    """What an annotation says of an option: ``trials: Annotated[int, Option("...", min=1)] = 100``.

    A range holds for every element of a list. A list may not be empty.

    Attributes:
        help: what the option means, in a sentence.
        min: least value.
        above: bound that a value must lie above.
        below: bound that a value must lie below.
        max: greatest value.
        repeats: whether a list may name a value twice.
        infinite: whether infinity is a value, which says that there is no bound.
        flag: name on the command line, where it is not the field's.
        also: another name that the command line takes.
    """

    help: str
    min: float | None = None
    above: float | None = None
    below: float | None = None
    max: float | None = None
    repeats: bool = False
    infinite: bool = False
    flag: str | None = None
    also: str | None = None

    def refuse(self, value: object) -> str | None:
        """Return why a value is out of range, or None if it is within.

        >>> Option("Samples.", min=1).refuse(0)
        'must be at least 1'
        """
        if isinstance(value, bool) or not isinstance(value, Real):
            return None
        try:
            value = float(value)
        except OverflowError:  # a whole number of hundreds of digits
            value = math.nan
        if not (math.isfinite(value) or (self.infinite and value == math.inf)):
            return "must be a finite number"
        if self.min is not None and value < self.min:
            return f"must be at least {self.min:g}"
        if self.above is not None and value <= self.above:
            return f"must be above {self.above:g}"
        if self.below is not None and value >= self.below:
            return f"must be below {self.below:g}"
        if self.max is not None and value > self.max:
            return f"must be at most {self.max:g}"
        return None

    def check(self, name: str, value: object) -> None:
        """Refuse a value out of range, an empty list, or one that repeats itself.

        Raises:
            BadInput: naming the option and the value.
        """
        listed = isinstance(value, tuple)
        if value == ():
            raise BadInput(f"`{name}` is empty; name at least one")
        for one in value if listed else (value,):  # type: ignore[attr-defined]
            if why := self.refuse(one):
                raise BadInput(f"`{name}` {shown_value(one)}: {why}")
        if listed and not self.repeats and (repeated := _repeated(value)):  # type: ignore[arg-type]
            raise BadInput(f"`{name}` lists {few(repeated)} more than once")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Choices of a user, checked when they are made.

    A message names an option as Python does, in backquotes; the command line puts its own
    spelling there. A single value stands for a list of one.

    Raises:
        BadInput: naming the first option that cannot be, and why.

    >>> @dataclass(frozen=True, kw_only=True)
    ... class Drawn(Options):
    ...     sizes: Annotated[tuple[int, ...], Option("Samples per batch.", min=1)] = (8,)
    >>> Drawn(sizes=[1, 4]).sizes, Drawn(sizes=2).sizes
    ((1, 4), (2,))
    >>> Drawn(sizes=[1, 0])
    Traceback (most recent call last):
    labelleak.errors.BadInput: `sizes` 0: must be at least 1
    """

    def __post_init__(self) -> None:
        for name, kind, option in declared(type(self)):
            value = convert(name, kind, getattr(self, name))
            if option is not None:
                option.check(name, value)
            object.__setattr__(self, name, value)


def declared(owner: type) -> tuple[tuple[str, Any, Option | None], ...]:
    """Return name, type and `Option` of each field of a dataclass, in order."""
    return _declared(cast(Hashable, owner))


@cache
def _declared(owner: Any) -> tuple[tuple[str, Any, Option | None], ...]:
    hints = get_type_hints(owner, include_extras=True)
    return tuple(_split(field.name, hints[field.name]) for field in fields(owner))


def _split(name: str, hint: Any) -> tuple[str, Any, Option | None]:
    if get_origin(hint) is not Annotated:
        return name, hint, None
    kind, *notes = get_args(hint)
    return name, kind, next((note for note in notes if isinstance(note, Option)), None)


@cache
def list_item(kind: Any) -> Any:
    """Return the type of a list option's elements, or None where the option takes one value.

    >>> list_item(tuple[int, ...] | None), list_item(int)
    (<class 'int'>, None)
    """
    found = [part for part in (kind, *get_args(kind)) if get_origin(part) is tuple]
    return get_args(found[0])[0] if found else None


def convert(name: str, kind: Any, value: Any) -> Any:
    """Convert a value to a field's type as pydantic does, which is loaded only where it must."""
    if list_item(kind) is not None and isinstance(value, str | int | float | Path):
        value = (value,)
    if is_plainly(kind, value):
        return value
    from pydantic import ValidationError

    try:
        return adapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        given = first["input"]
        # Of anything else the type alone is shown: it may be a user's data.
        found = repr(given) if isinstance(given, int | float) else f"a {type(given).__name__}"
        found = shown(given) if isinstance(given, str | Path) else found
        for sort, words in (("int_", "whole numbers"), ("float_", "numbers")):
            if first["type"].startswith(sort):
                raise BadInput(f"`{name}` takes {words}, not {found}") from error
        reason = first["msg"].removeprefix("Input ")
        raise BadInput(f"`{name}` {found}: {reason}") from error


def is_plainly(kind: Any, value: Any) -> bool:
    """Return whether a plain value is just of its type, so that it would come back as it is.

    Where this is False the value may be right all the same: pydantic tells.

    >>> is_plainly(dict[Literal["a"], float], {"a": 0.5}), is_plainly(float, 1)
    (True, False)
    """
    if get_origin(kind) in (Union, UnionType):
        return any(is_plainly(one, value) for one in get_args(kind))
    of = get_args(kind)
    if type(value) is tuple:
        listed = get_origin(kind) is tuple and of[1:] == (...,)
        return listed and all(is_plainly(of[0], one) for one in value)
    if type(value) is list:
        return get_origin(kind) is list and all(is_plainly(of[0], one) for one in value)
    if type(value) is dict:
        keys, values = of if get_origin(kind) is dict else (None, None)
        return keys is not None and all(
            is_plainly(keys, key) and is_plainly(values, one) for key, one in value.items()
        )
    if isinstance(value, str | Path) and not str(value).isascii():
        return False  # it may hold what is no text
    if get_origin(kind) is Literal:
        return type(value) is str and value in of
    if value is None:
        return kind is type(None)
    if type(value) is type(Path()):
        return kind is Path
    return type(value) in (bool, int, float, str) and kind is type(value)


@cache
def adapter(kind: Any) -> Any:
    """Return what pydantic checks values of a type with."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _repeated(values: Sequence[object]) -> list[str]:
    return sorted({str(value) for value in values if values.count(value) > 1})


__all__ = ["Option", "Options", "adapter", "convert", "declared", "is_plainly", "list_item"]
