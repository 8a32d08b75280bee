"""Count each trial once, whatever files were put together, and refuse trials that disagree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any

from labelleak.errors import BadInput
from labelleak.records.frame import RecordFrame
from labelleak.records.record import SETTING, Record

_WHERE = (
    "trial",
    "seed",
    "attack",
    "threat_model",
    "adaptive",
    "initialisation",
    *SETTING,
)
_ANSWER = ("asr", "asr_free", "advantage", "presence_precision", "presence_recall")
# Extra keys that say how an attack did or which libraries ran, and not what was attacked.
_FOUND = {
    "presence_accuracy",
    "count_accuracy",
    "exact",
    "jensen_shannon",
    "hellinger",
    "flag_figures",
    "expected_asr",
    "asr_image",
    "presence_chances",
    "not_applicable",
    "action",
    "numpy",
    "scipy",
}
_place = attrgetter(*_WHERE)
_answer = attrgetter(*_ANSWER)


def count_once(records: Iterable[Record]) -> Sequence[Record]:
    """Drop records that repeat an earlier one: same trial, attack and conditions, same answer.

    A file that was appended to itself would else make intervals too narrow. Times, commands and
    releases may differ between a record and its repeat.

    Raises:
        BadInput: if two records of the same trial, attack and conditions give different answers.

    >>> count_once([])
    []
    """
    if isinstance(records, RecordFrame) and records.count(*_WHERE) == len(records):
        return records
    rows = list(records)
    places = list(map(_place, rows))
    if len(set(places)) == len(rows):
        return rows
    seen: dict[tuple[Any, ...], list[Record]] = {}
    for place, row in zip(places, rows, strict=True):
        seen.setdefault((*place, *_said(row)), []).append(row)
    if len(seen) == len(rows):
        return rows
    return [row for same in seen.values() for row in _distinct(same)]


def _said(row: Record) -> Iterator[str | None]:
    """Return the keys of a federation, which tell most records of one file apart."""
    found = map(row.extra.get, ("round", "client", "defended"))
    return (value if value is None else str(value) for value in found)


def _distinct(rows: list[Record]) -> Iterable[Record]:
    """Tell apart records that agree in the contract's keys by all their extra keys."""
    if len(rows) == 1:
        return rows
    kept: dict[str, Record] = {}
    for row in rows:
        extra = {key: value for key, value in row.extra.items() if key not in _FOUND}
        first = kept.setdefault(repr(sorted(extra.items())), row)
        if _answer(first) != _answer(row):
            raise BadInput(
                f"two records of trial {row.trial} by {row.attack} (seed {row.seed}, "
                f"initialisation {row.initialisation}, batch size {row.batch_size}) disagree: ASR "
                f"{first.asr:g} and {row.asr:g}; keep the records of one run, each trial once"
            )
    return kept.values()
