"""Read a whole file of records as one frame: what lines repeat is parsed and checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labelleak.records.columns import ABSENT, OWN_KEYS, Column, Unmade
from labelleak.records.frame import RecordFrame
from labelleak.records.parts import Parts, read_parts
from labelleak.records.record import SCHEMA, are_of_kind, read_records
from labelleak.records.repeating import LAST, OWN, RATES
from labelleak.records.together import Columns, read_columns
from labelleak.records.values import are_sound

_FIRST = tuple(name for name in OWN_KEYS if name not in (*OWN, *LAST))
_Read = tuple[Columns, Columns, list[dict[str, Any]]]


def read_frame(path: Path) -> RecordFrame:
    """Read every record of a file, as `read_records`, and make none before it is asked for.

    Raises:
        BadInput: if the file cannot be read, or a whole line in it is no record.
    """
    parts = read_parts(path)
    found = None if parts is None else read_unmade(parts)
    return RecordFrame(read_records(path)) if found is None else RecordFrame(found)


def read_unmade(parts: Parts) -> Unmade | None:
    """Parse the parts of lines; None where one may be at fault.

    Each part is an object by itself, so a line is the object of all their keys, as in `repeating`.
    """
    trials = _trials(parts.trials)
    read = [
        _parse(parts.first, _FIRST),
        _parse(parts.rates, RATES[:-1]),
        _parse(parts.seconds, RATES[-1:]),
        _parse(parts.last, LAST),
        _parse(parts.ends, (), closed=True),
    ]
    if trials is None or any(one is None or not _is_right(one) for one in read):
        return None
    known = [one for one in read if one is not None]
    names = [name for one in known for name in one[1]]
    if known[1][1] or known[2][1] or len({*names, *OWN_KEYS}) != len(names) + len(OWN_KEYS):
        return None  # a key that is in two parts, or among the rates
    codes = parts.codes()
    columns = {
        "schema": Column([SCHEMA], np.zeros(len(parts), dtype=np.int64)),
        "trial": Column(trials, codes[0]),
    }
    for (own, beside, extras), which in zip(known, codes[1:], strict=True):
        columns |= {name: Column(values, which) for name, values in own.items()}
        for name, values in beside.items():
            all_have = len(values) == len(extras)
            columns[name] = Column(values if all_have else _each(extras, name), which)
    flags = columns["flags"]
    columns["flags"] = Column(list(map(tuple, flags.values)), flags.codes)
    lasting = [(one[2], which) for one, which in zip(known, codes[1:], strict=True) if one[1]]
    return Unmade(columns, lasting, len(parts))


def _trials(texts: Mapping[bytes, int]) -> list[int] | None:
    """Parse the numbers of trials, which JSON writes without leading zeros."""
    if not all(text.isdigit() and len(text) <= 15 for text in texts):
        return None
    found = list(map(int, texts))
    return found if [b"%d" % one for one in found] == list(texts) else None


def _parse(
    texts: Mapping[bytes, int], names: Sequence[str], *, closed: bool = False
) -> _Read | None:
    """Parse the texts of one kind of part, each of which begins with a comma before a name."""
    try:
        said = [text[2:].decode() for text in texts]
    except UnicodeDecodeError:
        return None
    return read_columns([f"{{{text}" if closed else f"{{{text}}}" for text in said], names)


def _is_right(read: _Read) -> bool:
    return are_of_kind(read[0]) and are_sound(*read[:2])


def _each(extras: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    return [extra.get(name, ABSENT) for extra in extras]


__all__ = ["read_frame", "read_unmade"]
