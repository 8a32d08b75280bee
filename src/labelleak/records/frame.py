"""Records with what they share found once: their conditions, blocks of chance and numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np

from labelleak.records.record import SETTING, THREAT_MODELS, Record
from labelleak.records.states import is_settled

# Extra keys that change what is measured: where a file holds several values of one, records
# of different values must not be averaged.
_CONDITIONS = (
    "activation",
    "mode",
    "victims",
    "gradient",
    "normalisation",
    "optimizer",
    "clients",
    "train_size",
    "auxiliary_size",
    "victim_size",
    "data_fingerprint",
    "train_lr",
    "train_batch_size",
    "users",
    "partition",
    "per_round",
    "round_steps",
    "dummies",
    "shadow_batches",
    "weights",
    "head",
    "defended",
    "batch_size_source",
    "federation",
    "against",
    "rounds",
    "phase",
    "tokens",
    "sequence_length",
    "own_text",
    "lora",
)
_KEYS = ("init", *_CONDITIONS)
_ABSENT = object()
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
        records: the records.
        varying: the condition keys that tell records apart, if not those that vary here.

    >>> len(RecordFrame([]))
    0
    """

    def __init__(self, records: Iterable[Record], *, varying: Sequence[str] | None = None) -> None:
        self.rows = list(records)
        if varying is not None:
            self.varying = list(varying)
        self._numbers: dict[str, np.ndarray] = {}
        self._values: dict[str, list[Any]] = {}
        self._distinct: dict[str, list[Any]] = {}

    @classmethod
    def of(cls, records: Iterable[Record]) -> RecordFrame:
        """Return records as a frame, the same one if they are."""
        return records if isinstance(records, cls) else cls(records)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return self.rows[place]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.rows)

    @cached_property
    def _extra(self) -> dict[str, list[Any]]:
        return _by_key([row.extra for row in self.rows])

    @cached_property
    def _signatures(self) -> tuple[list[int], list[tuple[Any, ...]]]:
        """Return the number of each record's values under the condition keys, and the values."""
        held = {place: self._extra[key] for place, key in enumerate(_KEYS) if key in self._extra}
        varied = [place for place, column in held.items() if not _is_one(column)]
        common = [held[place][0] if place in held else _ABSENT for place in range(len(_KEYS))]
        if not varied:
            return [0] * len(self.rows), [tuple(common)] if self.rows else []
        numbers: dict[Any, int] = {}
        codes = []
        for values in zip(*(held[place] for place in varied), strict=True):
            # Equal values of other types, as 1 and True, are not written alike.
            key = values, tuple(map(type, values))
            try:
                code = numbers.setdefault(key, len(numbers))
            except TypeError:  # a list or dict cannot be hashed
                said = tuple(v if v is _ABSENT else say(v) for v in values)
                code = numbers.setdefault((said, ()), len(numbers))
            codes.append(code)
        found = []
        for values, _ in numbers:
            own = dict(zip(varied, values, strict=True))
            found.append(tuple(own.get(place, one) for place, one in enumerate(common)))
        return codes, found

    @cached_property
    def varying(self) -> list[str]:
        """The condition keys of which the records hold more than one value."""
        distinct = self._signatures[1]
        return [
            key
            for place, key in enumerate(_KEYS)
            if key != "init"
            and len({say(found[place]) for found in distinct if found[place] is not _ABSENT}) > 1
        ]

    @cached_property
    def conditions(self) -> tuple[list[int], list[Place]]:
        """The number of each record's conditions, and the conditions by number."""
        codes, distinct = self._signatures
        shown = [_KEYS.index(key) for key in self.varying]
        said = [
            (
                "" if found[0] is _ABSENT else say(found[0]),
                tuple((_KEYS[i], say(found[i])) for i in shown if found[i] is not _ABSENT),
            )
            for found in distinct
        ]
        numbers: dict[Any, int] = {}
        picked = zip(*map(self.values, SETTING), strict=True)
        places = [
            numbers.setdefault((values, said[code]), len(numbers))
            for values, code in zip(picked, codes, strict=True)
        ]
        return places, [(values, init, extra) for values, (init, extra) in numbers]

    @cached_property
    def blocks(self) -> np.ndarray:
        """The number of what each trial shares chance with, in the order of `block_of`."""
        if self.distinct("client"):
            names = [block_of(row) for row in self.rows]
        else:
            models = zip(self.values("seed"), self.values("initialisation"), strict=True)
            names = [f"{seed}/{initialisation}" for seed, initialisation in models]
        rank = {name: number for number, name in enumerate(sorted(set(names)))}
        return np.array([rank[name] for name in names], dtype=np.int64)

    @cached_property
    def attackers(self) -> list[Attacker]:
        """Who answered in each record; of equals, the first needs least."""
        rank = {name: number for number, name in enumerate(THREAT_MODELS)}
        held = [rank[name] for name in self.values("threat_model")]
        return list(zip(held, self.values("attack"), self.values("adaptive"), strict=True))

    def numbers(self, name: str) -> np.ndarray:
        """Return a number of each record, its own or an extra one; NaN where there is none."""
        if name not in self._numbers:
            values = self.values(name)
            if not set(map(type, values)) <= _NUMBERS:
                values = [v if isinstance(v, (int, float)) else None for v in values]
            self._numbers[name] = np.array(values, dtype=np.float64)
        return self._numbers[name]

    def values(self, name: str) -> list[Any]:
        """Return what each record holds under a key, its own or an extra one; None for nothing."""
        if name not in self._values and name in Record.__dataclass_fields__:
            self._values[name] = list(map(attrgetter(name), self.rows))
        if name not in self._values:
            held = self._extra.get(name, [None] * len(self.rows))
            self._values[name] = [None if value is _ABSENT else value for value in held]
        return self._values[name]

    def columns(self) -> dict[str, list[Any]]:
        """Return the values of every key that a record holds, those of the contract first."""
        own = [name for name in Record.__dataclass_fields__ if self.rows and name != "extra"]
        return {name: self.values(name) for name in (*own, *self._extra)}

    def distinct(self, name: str) -> list[Any]:
        """Return the values that the records hold under a key, each once, in order of first use.

        Values of different types are told apart, as 1 and True are not written alike; those that
        cannot be hashed are all there.
        """
        if name not in Record.__dataclass_fields__ and name not in self._extra:
            return []
        if name not in self._distinct:
            values = [value for value in self.values(name) if value is not None]
            try:
                if len(set(map(type, values))) < 2:
                    self._distinct[name] = list(dict.fromkeys(values))
                else:
                    once = dict.fromkeys(zip(map(type, values), values, strict=True))
                    self._distinct[name] = [value for _, value in once]
            except TypeError:  # a list or dict cannot be hashed
                self._distinct[name] = values
        return self._distinct[name]

    def count(self, *names: str) -> int:
        """Return how many combinations of values the records hold under keys of the contract."""
        return len(set(zip(*map(self.values, names), strict=True)))

    @cached_property
    def titles(self) -> dict[str, str]:
        """The titles of attacks that the records give, by name."""
        return name_titles(*map(self.values, TITLED))

    @cached_property
    def unsettled(self) -> list[bool]:
        """Whether what each record's figures rest on is not known to hold; empty if no one says."""
        if not self.distinct("scale") and not self.distinct("sign"):
            return []
        return [not is_settled(row.extra, row.flags, row.defense) for row in self.rows]

    @cached_property
    def cells(self) -> dict[tuple[int, Attacker], np.ndarray]:
        """The records of each attacker under each condition, in an order that is always the same.

        The key is the number of the condition and the attacker; the value says which records.
        """
        places = self.conditions[0]
        by = [self.numbers(name) for name in ("asr", "seed", "trial", "initialisation")]
        found: dict[tuple[int, Attacker], list[int]] = defaultdict(list)
        for index in np.lexsort(by).tolist():
            found[places[index], self.attackers[index]].append(index)
        return {key: np.array(indices) for key, indices in found.items()}


def _is_one(values: Sequence[Any]) -> bool:
    """Return whether all values are one, of one type."""
    return values.count(values[0]) == len(values) and len(set(map(type, values))) == 1


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
            whole = found.setdefault(name, [_ABSENT] * len(rows))
            for index, value in zip(members, column, strict=True):
                whole[index] = value
    return found


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
