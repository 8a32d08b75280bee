"""Each trial counts once: repeats are dropped, contradictions refused, rounds told apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labelleak.errors import BadInput
from labelleak.records.record import Record
from labelleak.records.repeats import count_once
from labelleak.report import render
from report.federated import federated_records
from report.samples import make_record


def naive(records: list[Record]) -> list[Record]:
    """Compare every record with every earlier one."""
    kept: list[Record] = []
    for row in records:
        if not any(replace(row, seconds=0.0) == replace(other, seconds=0.0) for other in kept):
            kept.append(row)
    return kept


def test_matches_the_naive_twin(grid: list[Record]) -> None:
    rows = grid[:150]
    again = rows + [replace(row, seconds=9.0) for row in rows[::2]]
    assert {id(r) for r in count_once(again)} == {id(r) for r in naive(again)}


def test_a_file_appended_to_itself_gives_the_same_page(grid: list[Record]) -> None:
    rows = grid[:400]
    assert render(rows + rows, source="x") == render(rows, source="x")


def test_trials_that_disagree_are_refused() -> None:
    rows = [make_record(asr=0.5), make_record(asr=0.6)]
    with pytest.raises(BadInput, match=r"trial 0 by llg .* disagree: ASR 0.5 and 0.6"):
        count_once(rows)


def test_rounds_clients_and_unknown_keys_are_told_apart() -> None:
    rows = federated_records(rounds=2, clients=2)
    assert len(count_once(rows)) == len(rows)
    mine = [make_record(asr=0.1 * n, extra={"repeat": n}) for n in range(4)]
    assert len(count_once(mine + mine)) == 4
