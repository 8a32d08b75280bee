"""Two audits: the change with its interval, and what else differs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from labelleak.records.intervals import Interval, bootstrap_mean
from labelleak.records.record import append_records
from labelleak.report.about import About
from labelleak.report.comparison import apart, changes, compare, difference, read_side, say_change

from .samples import make_records


def side(folder: Path, name: str, **changes: object):
    path = folder / f"{name}.jsonl"
    append_records(
        path, make_records(stages=(0,), schemes=("iid",), batch_sizes=(8, 32), **changes)
    )
    return read_side(path)


def test_the_interval_of_a_difference_is_that_of_many_draws() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.6, 0.2, 400), rng.normal(0.4, 0.3, 400)
    one, two = (bootstrap_mean(x, np.arange(400)) for x in (a, b))
    found = difference(one, two)
    spread = 1.96 * np.hypot(a.std(), b.std()) / 20
    assert found.mean == np.mean(b) - np.mean(a)
    assert abs(found.high - found.mean - spread) < 0.15 * spread
    assert abs(found.mean - found.low - spread) < 0.15 * spread


def test_a_change_is_said_only_where_it_is_shown() -> None:
    assert "fell by 0.30 (95\xa0% interval 0.20 to 0.40)" in say_change(Interval(-0.3, -0.4, -0.2))
    assert "rose by 0.30 (95\xa0% interval 0.20 to 0.40)" in say_change(Interval(0.3, 0.2, 0.4))
    assert say_change(Interval(-0.1, -0.3, 0.1)).startswith("These records show no change")
    assert "cannot be compared" in say_change(None)


def test_cases_are_matched_and_what_differs_is_named(tmp_path: Path) -> None:
    before, after = side(tmp_path, "a"), side(tmp_path, "b", model="mlp", attacks=("llg", "free"))
    found = changes(before, after)
    assert {one.server for one in found} == {"update"}
    assert len(found) == 2
    differ = apart(before, after)
    assert "model: cnn before, mlp after" in differ
    assert any(line.startswith("attacks: ") for line in differ)
    page = compare(before, after, About(system="<b>"))
    assert "&lt;b&gt;" in page
    assert page.count("<h1") == 1
    assert page == compare(before, after, About(system="<b>"))
    same = compare(before, before)
    assert "These records show no change" in same
    assert "Neither data, model, defenses" in same
