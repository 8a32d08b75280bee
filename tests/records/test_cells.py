"""Cells against a naive twin: every group by hand, every interval by `bootstrap_mean`."""

from __future__ import annotations

import random
import time
from dataclasses import fields, replace

import pytest

from labelleak.records.intervals import bootstrap_mean
from labelleak.records.record import Record
from labelleak.report import Cell, headline_cells, tabulate, verdict_cells, worst_cases
from labelleak.report.headlines import headline, nearest_batch_size
from report.samples import make_record, make_records

KEYS = ("scheme", "training_steps", "batch_size", "attack", "threat_model")


def same(record: Record, cell: Cell) -> bool:
    return all(getattr(record, key) == getattr(cell, key) for key in KEYS)


def test_matches_naive_twin(grid: list[Record]) -> None:
    cells = tabulate(grid)
    assert len(cells) == len({tuple(getattr(r, key) for key in KEYS) for r in grid})
    for cell in cells[::7]:
        rows = sorted((r for r in grid if same(r, cell)), key=lambda r: (r.initialisation, r.trial))
        groups = [r.initialisation for r in rows]
        asr = bootstrap_mean([r.asr for r in rows], groups)
        advantage = bootstrap_mean([r.advantage or 0.0 for r in rows], groups)
        assert cell.advantage is not None
        for got, wanted in ((cell.asr, asr), (cell.advantage, advantage)):
            assert (got.mean, got.low, got.high) == pytest.approx(
                (wanted.mean, wanted.low, wanted.high), abs=1e-9
            )
        assert cell.trials == len(rows)
        assert cell.initialisations == len(set(groups))
        assert cell.free == pytest.approx(sum(r.asr_free for r in rows) / len(rows))


def test_order_of_records_does_not_matter(grid: list[Record]) -> None:
    shuffled = list(grid)
    random.Random(1).shuffle(shuffled)
    assert tabulate(shuffled) == tabulate(grid)


def test_threat_models_are_never_averaged() -> None:
    rows = [
        make_record(trial=trial, attack="same", threat_model=threat_model, asr=asr)
        for trial in range(3)
        for threat_model, asr in (("update", 0.2), ("model", 0.9))
    ]
    cells = tabulate(rows)
    assert [(c.threat_model, c.asr.mean) for c in cells] == [
        ("update", pytest.approx(0.2)),
        ("model", pytest.approx(0.9)),
    ]


def test_no_other_condition_is_averaged() -> None:
    base = make_record()
    changes = {
        "data": "other",
        "model": "mlp",
        "training_steps": 9,
        "scheme": "unbalanced",
        "num_classes": 3,
        "batch_size": 8,
        "local_steps": 2,
        "num_samples": 64,
        "defense": "noise",
        "attack": "ebi",
        "threat_model": "model",
        "adaptive": True,
        "extra": {"init": "default"},
    }
    rows = [base, *(replace(base, **{key: value}) for key, value in changes.items())]
    assert len(tabulate(rows)) == len(rows)


def test_extra_conditions_are_kept_apart() -> None:
    rows = [make_record(asr=a, extra={"mode": m}) for a, m in ((0.1, "train"), (0.9, "eval"))]
    cells = tabulate(rows)
    assert [cell.condition for cell in cells] == [(("mode", "eval"),), (("mode", "train"),)]


def test_advantage_is_none_where_nothing_can_be_gained() -> None:
    (cell,) = tabulate([make_record(asr=1.0, asr_free=1.0, advantage=None)])
    assert cell.advantage is None


def test_flags_are_counted() -> None:
    rows = [make_record(trial=t, flags=("odd",) if t else ("odd", "worse")) for t in range(3)]
    assert tabulate(rows)[0].flags == (("odd", 3), ("worse", 1))


def test_every_field_of_a_cell_is_set(grid: list[Record]) -> None:
    cell = tabulate(grid)[0]
    optional = {"presence_accuracy", "count_accuracy", "expected_asr", "concerned_by"}
    optional |= {"asr_image", "asr_image_free"}
    unset = {f.name for f in fields(cell) if getattr(cell, f.name) is None}
    assert unset == optional


@pytest.mark.parametrize(("sizes", "nearest"), [((1, 8), 8), ((16, 64), 16), ((24, 128), 24)])
def test_nearest_batch_size(sizes: tuple[int, ...], nearest: int) -> None:
    cells = tabulate([make_record(batch_size=size) for size in sizes])
    assert nearest_batch_size(cells) == nearest


def test_headline_is_the_worst_of_the_verdict(grid: list[Record]) -> None:
    cells = worst_cases(grid)
    verdicts = verdict_cells(cells)
    chosen = headline_cells(cells)
    assert [cell.threat_model for cell in chosen] == ["update", "model", "auxiliary"]
    assert len(verdicts) == 3 * 2 * 2
    for cell in chosen:
        rivals = [v.advantage.high for v in verdicts if v.threat_model == cell.threat_model]
        assert cell.batch_size == 32
        assert cell in verdicts
        assert cell.advantage.high == max(rivals)


def test_is_quick() -> None:
    sizes = (1, 2, 4, 8, 16, 32, 64, 128)
    rows = make_records(batch_sizes=sizes, initialisations=10, trials=20)
    start = time.perf_counter()
    tabulate(rows)
    assert len(rows) == 32_000
    assert time.perf_counter() - start < 3


def test_a_headline_says_of_how_many_cells_it_is_the_worst() -> None:
    def said(*changes: dict[str, object]) -> str:
        rows = [
            make_record(trial=trial, initialisation=trial % 3, **change)
            for change in changes
            for trial in range(6)
        ]
        return " ".join(headline(worst_cases(rows)))

    assert "the worst" not in said({})
    assert "of 2 cases (no defense and 1 defense)" in said({}, {"defense": "clip:1"})
    assert "of 2 defenses tested" in said({"defense": "clip:2"}, {"defense": "clip:1"})
    assert "of 2 stages of training tested" in said({}, {"training_steps": 9})
    assert "of 2 numbers of labels tested" in said({}, {"num_samples": 31})
    both = said({}, {"training_steps": 9}, {"num_samples": 31})
    assert "of 3 combinations of training and labels tested" in both


def test_without_intervals_a_cell_says_all_else(grid):
    known, quick = tabulate(grid), tabulate(grid, spans=False)
    for cell, other in zip(known, quick, strict=True):
        assert (other.asr.mean, other.asr.low) == pytest.approx((cell.asr.mean, cell.asr.mean))
        assert (other.advantage is None) == (cell.advantage is None)
        assert replace(other, asr=cell.asr, advantage=cell.advantage) == cell
