"""Records with what they share found once: their conditions, blocks of chance and numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from labelleak.records.columns import (
    ABSENT,
    OWN_KEYS,
    Column,
    Made,
    Unmade,
    code_together,
    first_uses,
    values_together,
)
from labelleak.records.conditions import CONDITIONS
from labelleak.records.record import SETTING, THREAT_MODELS, Record
from labelleak.records.states import is_settled

_KEYS = ("init", *CONDITIONS)
_NUMBERS = {int, float, bool, type(None)}

Condition = tuple[tuple[str, str], ...]
# What all attacks on the same trials share: `SETTING`, initialisation and extra conditions.
Place = tuple[tuple[Any, ...], str, Condition]
# What the attacker holds, the attack's name, and whether it knows the defense.
Attacker = tuple[int, str, bool]
# What names an attack: arguments of `name_titles`.
TITLED = ("attack", "chosen", "attack_title")


class RecordFrame(Sequence[Record]):
    """A sequence of records that finds what is asked of all of them once.

    Args:
        records: the records; those that are `Unmade` are made when they are asked for.
        varying: the condition keys that tell records apart, if not those that vary here.

    >>> len(RecordFrame([]))
    0
    """

    def __init__(
        self, records: Iterable[Record] | Made | Unmade, *, varying: Sequence[str] | None = None
    ) -> None:
        self.held: Made | Unmade
        if isinstance(records, Made | Unmade):
            self.held = records
        else:
            self.held = records.held if isinstance(records, RecordFrame) else Made(list(records))
        if varying is not None:
            self.varying = list(varying)
        self._columns: dict[str, Column | None] = {}
        self._numbers: dict[str, np.ndarray] = {}
        self._values: dict[str, list[Any]] = {}
        self._distinct: dict[str, list[Any]] = {}

    @classmethod
    def of(cls, records: Iterable[Record]) -> RecordFrame:
        """Return records as a frame, the same one if they are."""
        return records if isinstance(records, cls) else cls(records)

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice) or "rows" in vars(self):
            return self.rows[place]
        size = len(self.held)
        if not -size <= place < size:
            raise IndexError("a frame has no such record")
        return self.held.row(place % size)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.rows)

    @cached_property
    def rows(self) -> list[Record]:
        """The records."""
        return self.held.rows

    def take(self, places: Sequence[int] | np.ndarray) -> RecordFrame:
        """Return some of the records, in the order of their places."""
        return RecordFrame(self.held.take(places))

    def ordered(self, *names: str) -> RecordFrame:
        """Return the records sorted by what they hold under keys of the contract."""
        codes, found = self.coded(names)
        rank = np.zeros(len(found), dtype=np.int64)
        rank[sorted(range(len(found)), key=found.__getitem__)] = np.arange(len(found))
        return self.take(np.argsort(rank[codes], kind="stable"))

    def column(self, name: str) -> Column | None:
        """Return what the records hold under a key; None for an extra key that none has."""
        if name not in self._columns:
            self._columns[name] = self.held.column(name)
        return self._columns[name]

    def coded(
        self, names: Iterable[str | Column | None], *, typed: bool = False
    ) -> tuple[np.ndarray, list[tuple[Any, ...]]]:
        """Number records by what they hold together, in the order of first use.

        Args:
            names: keys or columns that are compared; None where no record holds any.
            typed: whether equal values of other types, as 1 and True, are told apart.

        Returns:
            The number of each record, and the values by number.
        """
        columns = self._filled(names)
        codes, number = code_together(columns, len(self), typed=typed)
        return codes, values_together(columns, codes, number)

    def _filled(self, names: Iterable[str | Column | None]) -> list[Column]:
        columns = [self.column(name) if isinstance(name, str) else name for name in names]
        nothing = Column([ABSENT], np.zeros(len(self), np.int64))
        return [nothing if column is None else column for column in columns]

    def held_together(self, *names: str) -> list[tuple[Any, ...]]:
        """Return the values that records hold together under keys, in the order of first use.

        Values of different types are told apart; `ABSENT` stands where a record lacks a key.
        """
        return self.coded(names, typed=True)[1]

    @cached_property
    def _said(self) -> dict[str, Column]:
        """What is written of the condition keys that records hold."""
        held = {key: self.column(key) for key in _KEYS}
        return {key: _say_all(column) for key, column in held.items() if column is not None}

    @cached_property
    def varying(self) -> list[str]:
        """The condition keys of which the records hold more than one value."""
        said = self._said
        return [
            key
            for key in _KEYS
            if key != "init" and key in said and len(set(said[key].used()) - {ABSENT}) > 1
        ]

    @cached_property
    def placed(self) -> tuple[np.ndarray, list[Place]]:
        """The number of each record's conditions, and the conditions by number."""
        names = ["init", *self.varying]
        codes, found = self.coded([*SETTING, *map(self._said.get, names)])
        size = len(SETTING)
        return codes, [
            (
                values[:size],
                "" if values[size] is ABSENT else values[size],
                tuple(
                    (key, said)
                    for key, said in zip(self.varying, values[size + 1 :], strict=True)
                    if said is not ABSENT
                ),
            )
            for values in found
        ]

    @property
    def conditions(self) -> tuple[list[int], list[Place]]:
        """As `placed`, with plain numbers."""
        codes, places = self.placed
        return codes.tolist(), places

    @cached_property
    def models(self) -> tuple[np.ndarray, list[tuple[Any, ...]]]:
        """The number of the model that each record is of, and seed and initialisation by number."""
        return self.coded(("seed", "initialisation"))

    @cached_property
    def blocks(self) -> np.ndarray:
        """The number of what each trial shares chance with, in the order of `block_of`."""
        codes, found = self.models
        names = [f"{seed}/{initialisation}" for seed, initialisation in found]
        if self.distinct("client"):
            column = self.column("client")
            assert column is not None
            said = [None if v is ABSENT or v is None else f"/{v}" for v in column.values]
            codes, pairs = self.coded([Column(names, codes), Column(said, column.codes)])
            names = [model + (client or "") for model, client in pairs]
        rank = {name: number for number, name in enumerate(sorted(set(names)))}
        ranks = np.array([rank[name] for name in names], dtype=np.int64)
        return np.asarray(ranks[codes])

    @cached_property
    def answerers(self) -> tuple[np.ndarray, list[Attacker]]:
        """The number of who answered in each record, and who by number."""
        codes, found = self.coded(("threat_model", "attack", "adaptive"))
        return codes, [(THREAT_MODELS.index(held), *rest) for held, *rest in found]

    @property
    def attackers(self) -> list[Attacker]:
        """Who answered in each record; of equals, the first needs least."""
        codes, found = self.answerers
        return [found[code] for code in codes.tolist()]

    def numbers(self, name: str) -> np.ndarray:
        """Return a number of each record, its own or an extra one; NaN where there is none."""
        if name not in self._numbers:
            column = self.column(name)
            if column is None:
                self._numbers[name] = np.full(len(self), np.nan)
                return self._numbers[name]
            values = column.values
            if not set(map(type, values)) <= _NUMBERS:
                values = [v if isinstance(v, (int, float)) else None for v in values]
            found = np.array(values, dtype=np.float64)
            self._numbers[name] = found if column.codes is None else found[column.codes]
        return self._numbers[name]

    def values(self, name: str) -> list[Any]:
        """Return what each record holds under a key, its own or an extra one; None for nothing."""
        if name not in self._values:
            column = self.column(name)
            if column is None:
                self._values[name] = [None] * len(self)
            else:
                known = [None if value is ABSENT else value for value in column.values]
                self._values[name] = Column(known, column.codes).by_row()
        return self._values[name]

    def columns(self) -> dict[str, list[Any]]:
        """Return the values of every key that a record holds, those of the contract first."""
        own = OWN_KEYS if len(self) else ()
        return {name: self.values(name) for name in (*own, *self.held.extras())}

    def distinct(self, name: str) -> list[Any]:
        """Return the values that the records hold under a key, each once, in order of first use.

        Values of different types are told apart, as 1 and True are not written alike; those that
        cannot be hashed are all there.
        """
        if name not in self._distinct:
            column = self.column(name)
            used = [] if column is None else column.used()
            values = [value for value in used if value is not ABSENT and value is not None]
            try:
                if len(set(map(type, values))) < 2:
                    self._distinct[name] = list(dict.fromkeys(values))
                else:
                    once = dict.fromkeys(zip(map(type, values), values, strict=True))
                    self._distinct[name] = [value for _, value in once]
            except TypeError:  # a list or dict cannot be hashed
                self._distinct[name] = [v for v in self.values(name) if v is not None]
        return self._distinct[name]

    def count(self, *names: str) -> int:
        """Return how many combinations of values the records hold under keys of the contract."""
        return code_together(self._filled(names), len(self))[1]

    @cached_property
    def titles(self) -> dict[str, str]:
        """The titles of attacks that the records give, by name."""
        return name_titles(*map(self.values, TITLED))

    @cached_property
    def unsettled(self) -> list[bool]:
        """Whether what each record's figures rest on is not known to hold; empty if no one says."""
        keys = ("scale", "sign")
        if not any(map(self.distinct, keys)):
            return []
        codes, found = self.coded((*keys, "flags", "defense"))
        doubted = []
        for *states, flags, defense in found:
            said = {k: v for k, v in zip(keys, states, strict=True) if v is not ABSENT}
            doubted.append(not is_settled(said, flags, defense))
        return [doubted[code] for code in codes.tolist()]

    @cached_property
    def cells(self) -> dict[tuple[int, Attacker], np.ndarray]:
        """The records of each attacker under each condition, in an order that is always the same.

        The key is the number of the condition and the attacker; the value says which records.
        """
        (places, _), (whose, attackers) = self.placed, self.answerers
        order = np.lexsort(
            [self.numbers(name) for name in ("asr", "seed", "trial", "initialisation")]
        )
        cells = (places * len(attackers) + whose)[order]
        number = len(attackers) * (int(places.max()) + 1) if len(self) else 0
        members = np.split(order[np.argsort(cells, kind="stable")], np.cumsum(np.bincount(cells)))
        return {
            (cell // len(attackers), attackers[cell % len(attackers)]): members[cell]
            for cell in first_uses(cells, number)
        }


def _say_all(column: Column) -> Column:
    """Write the values of a condition."""
    said = [value if value is ABSENT else say(value) for value in column.values]
    return Column(said, column.codes)


def name_titles(
    attacks: Sequence[str], chosen: Sequence[Any], titles: Sequence[Any]
) -> dict[str, str]:
    """Return the titles that records give, by the attack that was chosen, or else that was run."""
    found: dict[str, str] = {}
    # The last record's word counts.
    for attack, one, title in dict.fromkeys(
        zip(*map(reversed, (attacks, chosen, titles)), strict=True)
    ):
        if isinstance(title, str):
            found.setdefault(attack if one is None else one, title)
    return found


def say(value: Any) -> str:
    """Write the value of a condition."""
    return value if isinstance(value, str) else str(value)


def block_of(row: Record) -> str:
    """Name what a trial shares chance with: its model, and its client where one is named."""
    client = row.extra.get("client")
    model = f"{row.seed}/{row.initialisation}"
    return model if client is None else f"{model}/{client}"


__all__ = [
    "TITLED",
    "Attacker",
    "Condition",
    "Place",
    "RecordFrame",
    "block_of",
    "name_titles",
    "say",
]
