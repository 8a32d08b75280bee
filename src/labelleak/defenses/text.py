"""The text form of defenses: written from their fields, parsed once at the border."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

from labelleak.errors import BadInput, unknown_name

T = TypeVar("T")


def write(defense: Any) -> str:
    """Write name and field values, fields at their default left out at the end.

    A flag (a field that is true or false) is written as its own name where it is set.
    """
    words = [str(defense.name)]
    for field in fields(defense):
        value = getattr(defense, field.name)
        if isinstance(value, bool):
            words.extend([field.name] if value else [])
        elif value != field.default or _later_matters(defense, field):
            words.append(f"{value:.12g}" if isinstance(value, float) else str(value))
    return ":".join(words)


def _later_matters(defense: Any, field: Field[Any]) -> bool:
    """Return whether a later positional field is not at its default: then this one is written."""
    names = [f.name for f in fields(defense)]
    later = fields(defense)[names.index(field.name) + 1 :]
    values = [(getattr(defense, f.name), f.default) for f in later]
    return any(value != default for value, default in values if not isinstance(value, bool))


def read(text: str, known: Mapping[str, Callable[..., T]]) -> T:
    """Build one defense from its text form, such as ``topk:0.2:feedback``.

    Raises:
        BadInput: for an unknown name, a word that is no number, or too few or too many words.
    """
    name, *words = [word.strip() for word in text.split(":")]
    if name not in known:
        raise unknown_name("defense", name, known)
    made = known[name]
    slots = list(fields(made))  # type: ignore[arg-type]
    flags = {f.name for f in slots if f.default is False}
    given: dict[str, Any] = {word: True for word in words if word in flags}
    open_slots = [f for f in slots if f.name not in flags]
    values = [word for word in words if word not in flags]
    form = write_form(made)
    needed = sum(f.default is MISSING for f in open_slots)
    if not needed <= len(values) <= len(open_slots):
        raise BadInput(f"cannot read the defense {text!r}; write it as {form}")
    for field, word in zip(open_slots, values, strict=False):
        given[field.name] = _value(field, word, f"cannot read {word!r} in {text!r}", form)
    return made(**given)


def write_form(made: Any) -> str:
    """Return the text form of a class of defenses: values in capitals, what may be left out in [].

    >>> from labelleak.defenses import TopK, GaussianNoise
    >>> write_form(GaussianNoise), write_form(TopK)
    ('gaussian:SIGMA', 'topk:KEEP[:feedback]')
    """
    words = [str(made.name)]
    for field in fields(made):
        if field.default is False:
            words.append(f"[:{field.name}]")
        elif field.default is MISSING:
            words.append(f":{field.name.upper()}")
        else:
            words.append(f"[:{field.name.upper()}]")
    return "".join(words)


def _value(field: Field[Any], word: str, trouble: str, form: str) -> Any:
    kinds: dict[str, Callable[[str], Any]] = {"float": float, "int": int}
    try:
        return kinds.get(str(field.type), str)(word)
    except ValueError as error:
        raise BadInput(f"{trouble}; write it as {form}") from error


def at_least_zero(value: float, what: str) -> None:
    """Refuse a strength that is negative, NaN or infinite."""
    if not 0 <= value < float("inf"):
        raise BadInput(f"{what} must be a number of at least 0, not {value:g}")


def above_zero(value: float, what: str) -> None:
    """Refuse a bound that is not above 0; infinite means no bound."""
    if not value > 0:
        raise BadInput(f"{what} must be above 0 (inf for no bound), not {value:g}")


def finite(value: float, what: str) -> None:
    """Refuse a strength that is not above 0, or infinite."""
    if not 0 < value < float("inf"):
        raise BadInput(f"{what} must be a number above 0, not {value:g}")


def share(value: float, what: str, *, least: float = 0.0, most: float = 1.0) -> None:
    """Refuse a share outside its range."""
    if not least <= value <= most:
        raise BadInput(f"{what} must lie between {least:g} and {most:g}, not {value:g}")
