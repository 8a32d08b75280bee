"""Figures: alt text with numbers, one look per series, points for a single batch size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from labelleak.records.record import Record
from labelleak.report import draw_panel, tabulate
from labelleak.report.figures import FREE_LABEL, Panels, assign_styles, describe

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


def test_panels_that_share_a_figure_are_as_if_drawn_alone(grid: list[Record]) -> None:
    cells = tabulate(grid)
    places = dict.fromkeys((cell.scheme, cell.training_steps) for cell in cells)
    groups = [[c for c in cells if (c.scheme, c.training_steps) == place] for place in places]
    groups += [[c for c in groups[0] if c.attack != "llg"], groups[1][::-1], groups[0]]
    groups.append([c for c in groups[0] if c.batch_size == 8])
    styles = assign_styles(cells)
    panels = Panels(styles)
    shared = [panels.draw(group, prefix="p") for group in groups]
    assert shared == [draw_panel(group, prefix="p", styles=styles) for group in groups]
    assert len(set(shared)) == len(places) + 2  # the last but one are the second and the first


_DRAW = """
import sys
from pathlib import Path
from labelleak.report.docless import import_docless
if {docless}:
    import_docless()
from matplotlib.lines import Line2D
from labelleak.report import draw_panel, tabulate
from labelleak.records.record import read_records
sys.stdout.write(draw_panel(tabulate(read_records(Path({records!r}))), prefix="p"))
sys.stderr.write(str(len(Line2D.set.__doc__ or "")))
class Later(Line2D):
    pass
assert len(Later.set.__doc__) > 1000  # the docstrings of whoever comes later are written
"""


def test_figures_are_the_same_without_the_docstrings_of_matplotlib() -> None:
    records = Path(__file__).parent / "sample.jsonl"
    with_docs, without = (
        subprocess.run(
            [sys.executable, "-c", _DRAW.format(docless=docless, records=str(records))],
            capture_output=True,
            check=True,
            text=True,
        )
        for docless in (False, True)
    )
    assert with_docs.stdout == without.stdout
    assert int(with_docs.stderr) > int(without.stderr)
