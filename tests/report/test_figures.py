"""Figures: alt text with numbers, one look per series, points for a single batch size."""

from __future__ import annotations

import pytest

from labelleak.records.record import Record
from labelleak.report import draw_panel, tabulate
from labelleak.report.figures import FREE_LABEL, assign_styles, describe

from .samples import make_records


def panel(records: list[Record]) -> list:
    return [c for c in tabulate(records) if (c.scheme, c.training_steps) == ("iid", 0)]


def test_draws_baseline_and_lines(grid: list[Record]) -> None:
    svg = draw_panel(panel(grid), prefix="one")
    for label in (FREE_LABEL, "LLG (update only)", "LLG* (holds the model)", "labels in a batch"):
        assert f">{label}<" in svg
    assert 'id="one-' in svg
    assert svg.count("<svg") == svg.count("</svg>") == 1
    assert draw_panel(panel(grid), prefix="one") == svg


def test_describes_ends_of_curves(grid: list[Record]) -> None:
    cells = panel(grid)
    last = next(c for c in cells if (c.attack, c.batch_size) == ("llg", 32))
    assert f"{100 * last.asr.mean:.1f} % at 32." in describe(cells)


def test_single_batch_size_is_drawn_as_points() -> None:
    records = make_records(batch_sizes=(8,), stages=(0,), schemes=("iid",), trials=2)
    svg = draw_panel(tabulate(records), prefix="p")
    assert ">labels named, batch size 8<" in svg
    assert "batch size 8." in describe(tabulate(records))


def test_styles_differ_and_are_shared(grid: list[Record]) -> None:
    cells = tabulate(grid)
    informed = [s for key, s in assign_styles(cells).items() if key[1] != "none"]
    assert len({style.colour for style in informed}) == len(informed) == 3
    assert len({style.marker for style in informed}) == 3


def test_no_cells_are_refused() -> None:
    for act in (describe, lambda cells: draw_panel(cells, prefix="p")):
        with pytest.raises(ValueError, match="at least one cell"):
            act([])
