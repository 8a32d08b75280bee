"""Records held by column: made already, or of a file and made when they are asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from labelleak.records.record import Record

# Stands where a record lacks a key.
ABSENT = object()
OWN_KEYS = tuple(name for name in Record.__dataclass_fields__ if name != "extra")


class Column(NamedTuple):
    """What records hold under one key.

    Attributes:
        values: values, `ABSENT` among them where a record lacks the key.
        codes: which of them each record holds; None where each has the one at its own place.
    """

    values: Sequence[Any]
    codes: np.ndarray | None

    def by_row(self) -> list[Any]:
        """Return the value of each record."""
        if self.codes is None:
            return list(self.values)
        return list(map(self.values.__getitem__, self.codes.tolist()))

    def used(self) -> list[Any]:
        """Return the values that some record holds, in the order of first use."""
        if self.codes is None:
            return list(self.values)
        return [self.values[code] for code in first_uses(self.codes, len(self.values))]


def first_uses(codes: np.ndarray, number: int) -> list[int]:
    """Return the codes below a number that are there, in the order of first use.

    >>> first_uses(np.array([2, 0, 2]), 3)
    [2, 0]
    """
    first = np.full(number, len(codes))
    first[codes[::-1]] = np.arange(len(codes))[::-1]  # of equals the last one counts
    order = np.argsort(first, kind="stable")
    return [int(code) for code in order[: int((first < len(codes)).sum())].tolist()]


def code_together(
    columns: Sequence[Column], size: int, *, typed: bool = False
) -> tuple[np.ndarray, int]:
    """Number records by their values in several columns, in the order of first use.

    Args:
        columns: what is compared.
        size: how many records there are.
        typed: whether equal values of other types, as 1 and True, are told apart.

    Returns:
        The number of each record, and how many numbers there are.
    """
    groups: dict[int | None, list[int]] = defaultdict(list)
    for place, (_, codes) in enumerate(columns):
        groups[None if codes is None else id(codes)].append(place)
    found, number = np.zeros(size, dtype=np.int64), 1
    for own in groups.values():
        # What stands in one part is compared there, and not record by record.
        kinds, least = _number([columns[place].values for place in own], typed=typed)
        codes = columns[own[0]].codes
        found = found * least + (kinds if codes is None else kinds[codes])
        found, number = _renumber(found, number * least)
    return found, number


def values_together(
    columns: Sequence[Column], codes: np.ndarray, number: int
) -> list[tuple[Any, ...]]:
    """Return the values in columns that each code below a number stands for."""
    first = np.zeros(number, dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    held = [
        [values[place] for place in (first if codes is None else codes[first]).tolist()]
        for values, codes in columns
    ]
    return list(zip(*held, strict=True))


def _number(columns: Sequence[Sequence[Any]], *, typed: bool) -> tuple[np.ndarray, int]:
    """Number the rows of columns by their values; return how many numbers there are, too."""
    numbers: dict[Any, int] = {}
    written: dict[int, str] = {}  # many records share one list
    codes = []
    for values in zip(*columns, strict=True):
        key = (values, tuple(map(type, values))) if typed else values
        try:
            codes.append(numbers.setdefault(key, len(numbers)))
        except TypeError:  # a list or dict cannot be hashed
            said = tuple(
                (type(one), written.get(id(one)) or written.setdefault(id(one), str(one)))
                for one in values
            )
            codes.append(numbers.setdefault((said,), len(numbers)))
    return np.array(codes, dtype=np.int64), max(1, len(numbers))


def _renumber(codes: np.ndarray, number: int) -> tuple[np.ndarray, int]:
    """Number codes below a number in the order of first use."""
    if number > 8 * len(codes) + 1024:
        codes = np.unique(codes, return_inverse=True)[1]
        number = len(codes)
    order = first_uses(codes, number)
    rank = np.zeros(number, dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank[codes], len(order)


class Made:
    """Records that were made already; what they hold is read off them key by key."""

    def __init__(self, rows: Sequence[Record]) -> None:
        self.rows = list(rows)
        self._extra: dict[str, list[Any]] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> Column | None:
        """Return what the records hold under a key; None for an extra key that none has."""
        if name in OWN_KEYS:
            return Column(list(map(attrgetter(name), self.rows)), None)
        held = self._by_key().get(name)
        return None if held is None else Column(held, None)

    def extras(self) -> list[str]:
        """Return the extra keys, in the order of first use."""
        return list(self._by_key())

    def take(self, places: Sequence[int] | np.ndarray) -> Made:
        """Return some of the records."""
        return Made([self.rows[place] for place in places])

    def row(self, place: int) -> Record:
        """Return one record."""
        return self.rows[place]

    def _by_key(self) -> dict[str, list[Any]]:
        if self._extra is None:
            self._extra = _by_key([row.extra for row in self.rows])
        return self._extra


def _by_key(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the values of each key, row by row, read in the order in which they lie in memory."""
    forms: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        forms[tuple(row)].append(index)
    found: dict[str, list[Any]] = {}
    for names, members in forms.items():
        values = list(chain.from_iterable(rows[index].values() for index in members))
        for place, name in enumerate(names):
            column = values[place :: len(names)]
            if len(forms) == 1:
                found[name] = column
                continue
            whole = found.setdefault(name, [ABSENT] * len(rows))
            for index, value in zip(members, column, strict=True):
                whole[index] = value
    return found


class Unmade:
    """Records of which the columns are there; each is made when it is asked for.

    Args:
        columns: what the records hold under each key.
        extras: parts that their extra keys stand in, in order, and which part each record has.
        more: extra keys that stand in no part, or hold another value than there.
        size: how many records there are.
    """

    def __init__(
        self,
        columns: Mapping[str, Column],
        extras: Sequence[tuple[Sequence[Mapping[str, Any]], np.ndarray]],
        size: int,
        more: Sequence[str] = (),
    ) -> None:
        self._columns = columns
        self._extras = extras
        self._size = size
        self._more = more

    def __len__(self) -> int:
        return self._size

    def column(self, name: str) -> Column | None:
        """Return what the records hold under a key; None for an extra key that none has."""
        found = self._columns.get(name)
        if found is None or name in OWN_KEYS:
            return found
        if not any(value is ABSENT for value in found.values):
            return found
        return None if all(value is ABSENT for value in found.used()) else found

    def extras(self) -> list[str]:
        """Return the extra keys, in the order of first use."""
        forms = [[tuple(part) for part in parts] for parts, _ in self._extras]
        kinds = [{form: n for n, form in enumerate(dict.fromkeys(own))} for own in forms]
        codes = np.zeros(self._size, dtype=np.int64)
        for own, kind, (_, which) in zip(forms, kinds, self._extras, strict=True):
            codes = codes * len(kind) + np.array([kind[form] for form in own])[which]
        found: dict[str, None] = {}
        for place in np.sort(np.unique(codes, return_index=True)[1]).tolist():
            found |= dict.fromkeys(self._extra(place))
        return list(found)

    def take(self, places: Sequence[int] | np.ndarray) -> Unmade:
        """Return some of the records."""
        chosen = np.asarray(places, dtype=np.int64)
        taken: dict[int, np.ndarray] = {}

        def pick(codes: np.ndarray) -> np.ndarray:
            # Columns of one part share their codes, before and after.
            return taken.setdefault(id(codes), codes[chosen])

        columns = {
            name: Column(values, chosen if codes is None else pick(codes))
            for name, (values, codes) in self._columns.items()
        }
        extras = [(parts, pick(codes)) for parts, codes in self._extras]
        return Unmade(columns, extras, len(chosen), self._more)

    def changed(self, columns: Mapping[str, Column]) -> Unmade:
        """Return records that hold something else under some keys."""
        more = dict.fromkeys([*self._more, *(name for name in columns if name not in OWN_KEYS)])
        return Unmade({**self._columns, **columns}, self._extras, self._size, list(more))

    def row(self, place: int) -> Record:
        """Make one record."""
        record = object.__new__(Record)
        # As the constructor of a frozen dataclass sets them, without a call for each.
        vars(record).update({name: self._value(name, place) for name in OWN_KEYS})
        vars(record)["extra"] = self._extra(place)
        return record

    @property
    def rows(self) -> list[Record]:
        """Make all records."""
        return list(self._all())

    def _all(self) -> Iterator[Record]:
        own = zip(*(self._columns[name].by_row() for name in OWN_KEYS), strict=True)
        for place, values in enumerate(own):
            record = object.__new__(Record)
            vars(record).update(zip(OWN_KEYS, values, strict=True), extra=self._extra(place))
            yield record

    def _value(self, name: str, place: int) -> Any:
        values, codes = self._columns[name]
        return values[place if codes is None else codes[place]]

    def _extra(self, place: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for parts, codes in self._extras:
            found.update(parts[codes[place]])
        for name in self._more:
            value = self._value(name, place)
            if value is not ABSENT:
                found[name] = value
        return found


__all__ = [
    "ABSENT",
    "OWN_KEYS",
    "Column",
    "Made",
    "Unmade",
    "code_together",
    "first_uses",
    "values_together",
]
