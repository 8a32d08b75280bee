"""Records with what they share found once: their conditions, blocks of chance and numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import repeat
from operator import attrgetter
from typing import Any

import numpy as np

from labelleak.records.record import SETTING, THREAT_MODELS, Record

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
)
_KEYS = ("init", *_CONDITIONS)
_PICK = attrgetter(*SETTING)
_ABSENT = object()

Condition = tuple[tuple[str, str], ...]
# What all attacks on the same trials share: `SETTING`, initialisation and extra conditions.
Place = tuple[tuple[Any, ...], str, Condition]
# What the attacker holds, the attack's name, and whether it knows the defense.
Attacker = tuple[int, str, bool]


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
    def _signatures(self) -> tuple[list[int], list[tuple[Any, ...]]]:
        """Return the number of each record's values under the condition keys, and the values."""
        numbers: dict[Any, int] = {}
        codes = []
        for row in self.rows:
            values = tuple(map(row.extra.get, _KEYS, repeat(_ABSENT)))
            # Equal values of other types, as 1 and True, are not written alike.
            key = values, tuple(map(type, values))
            try:
                code = numbers.setdefault(key, len(numbers))
            except TypeError:  # a list or dict cannot be hashed
                said = tuple(v if v is _ABSENT else say(v) for v in values)
                code = numbers.setdefault((said, ()), len(numbers))
            codes.append(code)
        return codes, [values for values, _ in numbers]

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
        places = [
            numbers.setdefault((_PICK(row), said[code]), len(numbers))
            for row, code in zip(self.rows, codes, strict=True)
        ]
        return places, [(picked, init, extra) for picked, (init, extra) in numbers]

    @cached_property
    def blocks(self) -> np.ndarray:
        """The number of what each trial shares chance with, in the order of `block_of`."""
        names = [block_of(row) for row in self.rows]
        rank = {name: number for number, name in enumerate(sorted(set(names)))}
        return np.array([rank[name] for name in names], dtype=np.int64)

    @cached_property
    def attackers(self) -> list[Attacker]:
        """Who answered in each record; of equals, the first needs least."""
        rank = {name: number for number, name in enumerate(THREAT_MODELS)}
        return [(rank[row.threat_model], row.attack, row.adaptive) for row in self.rows]

    def numbers(self, name: str) -> np.ndarray:
        """Return a number of each record, its own or an extra one; NaN where there is none."""
        if name not in self._numbers:
            if name in Record.__dataclass_fields__:
                values = [getattr(row, name) for row in self.rows]
            else:
                values = [row.extra.get(name) for row in self.rows]
                values = [v if isinstance(v, int | float) else None for v in values]
            self._numbers[name] = np.array(values, dtype=np.float64)
        return self._numbers[name]

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


def say(value: Any) -> str:
    """Write the value of a condition."""
    return value if isinstance(value, str) else str(value)


def block_of(row: Record) -> str:
    """Name what a trial shares chance with: its model, and its client where one is named."""
    client = row.extra.get("client")
    model = f"{row.seed}/{row.initialisation}"
    return model if client is None else f"{model}/{client}"


__all__ = ["Attacker", "Condition", "Place", "RecordFrame", "block_of", "say"]
