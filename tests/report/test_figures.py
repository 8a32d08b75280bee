"""Figures: alt text with numbers, one look per series, points for a single batch size."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest

from labelleak.records.intervals import Interval
from labelleak.records.record import Record
from labelleak.report import draw_panel, tabulate
from labelleak.report.figures import FREE_LABEL, Panels, assign_styles, describe
from labelleak.report.redrawing import exchange

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


def drawn_at_random(cells: list, rng: random.Random) -> list:
    """Return cells with other rates, some of them equal, at the edge or without a width."""
    few = [0.0, 0.25, 0.5, 1.0, rng.random(), rng.random()]
    found = []
    for cell in cells:
        low, mean, high = sorted(rng.choice(few) for _ in range(3))
        found.append(replace(cell, asr=Interval(mean, low, high), free=rng.choice(few)))
    return found


def test_curves_that_are_drawn_alone_stand_in_their_figure_as_if_drawn_in_it(
    grid: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, told = random.Random(0), []

    def watched(*texts: str) -> str | None:
        told.append(exchange(*texts))
        return told[-1]

    monkeypatch.setattr("labelleak.report.figures.exchange", watched)
    cells = panel(grid)
    groups = [drawn_at_random(cells, rng) for _ in range(25)]
    before = matplotlib.rcParams["text.color"], matplotlib.rcParams["font.size"]
    with Panels(assign_styles(cells)) as panels:
        shared = [panels.draw(group, prefix="p") for group in groups]
    assert (matplotlib.rcParams["text.color"], matplotlib.rcParams["font.size"]) == before
    assert shared == [draw_panel(group, prefix="p") for group in groups]
    assert len(told) == 24
    assert sum(text is not None for text in told) > 15


def curve(*bodies: str, beside: str = "") -> str:
    groups = (f'<g id="line2d_{n}">\n{body}\n</g>\n' for n, body in enumerate(bodies))
    return f"<svg>\n{beside}{''.join(groups)}</svg>"


@pytest.mark.parametrize(
    ("whole", "old", "new"),
    [
        (curve("1", "1", "2"), curve("1", "2"), curve("3", "4")),  # which one it is is not sure
        (curve("1", "2"), curve("1", "2"), curve("3")),
        (curve("1", "2"), curve("1", "2"), curve("3", "4", beside="more\n")),
        (curve("1"), curve("2"), curve("3")),
        (curve("2", "1"), curve("1", "2"), curve("3", "4")),
        (curve("1"), curve(), curve()),
    ],
)
def test_curves_are_not_exchanged_where_their_place_is_not_sure(
    whole: str, old: str, new: str
) -> None:
    assert exchange(whole, old, new) is None
    assert exchange(curve("0", "1", "2"), curve("1", "2"), curve("3", "4")) == curve("0", "3", "4")


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
