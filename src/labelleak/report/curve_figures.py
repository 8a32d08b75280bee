"""Draw the curves of a grid, and write them with their table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labelleak.records.record import Record
from labelleak.report.curves import (
    MEASURES,
    CurveOptions,
    Point,
    Value,
    describe_ends,
    order,
    say,
    say_beside,
    say_key,
    say_line,
    say_panel,
    tabulate_curves,
    trace,
)
from labelleak.report.svg import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FREE = "best guess without the update"
_COLOURS = ("#d55e00", "#2b7bba", "#0c8f6b", "#b5679f", "#997700", "#7a73c4", "#444444", "#c23b6e")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_COLUMNS, _PANEL = 2, (5.4, 3.4)


def curve_files(records: Iterable[Record], *, title: str, figure: CurveOptions) -> dict[str, str]:
    """Return ``curves.svg`` and ``curves.md``, or nothing where records lack the figure's keys."""
    points = trace(records, figure)
    if not points:
        return {}
    ends = "\n".join(f"- {said}" for said in describe_ends(points, figure))
    return {
        "curves.svg": draw_curves(points, title=title, figure=figure),
        "curves.md": f"# {title}\n\n{tabulate_curves(points, figure)}\n\n{ends}\n",
    }


def draw_curves(points: Sequence[Point], *, title: str, figure: CurveOptions) -> str:
    """Draw points as an SVG, one panel beside the other."""
    import io

    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys(point.panel for point in points))
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    lines = list(dict.fromkeys(point.line for point in points))
    legend_rows = -(-(len(lines) + 1 + figure.accuracy) // 4)
    height = _PANEL[1] * rows + 0.5 + 0.25 * legend_rows
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({"svg.hashsalt": "labelleak", "font.size": 10, "svg.fonttype": "none"})
        sheet = Figure(figsize=(_PANEL[0] * columns, height), layout="constrained")
        sheet.suptitle(title)
        for place, panel in enumerate(panels):
            axes = sheet.add_subplot(rows, columns, place + 1)
            own = [point for point in points if point.panel == panel]
            _draw_panel(axes, own, lines, figure)
            axes.set_title(plain(say_panel(panel, figure)), fontsize=10)
        _add_legend(sheet)
        text = io.StringIO()
        sheet.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _draw_panel(
    axes: Axes, own: Sequence[Point], lines: Sequence[tuple[Value, ...]], figure: CurveOptions
) -> None:
    places = order(point.x for point in own)
    numeric = all(not isinstance(x, str) for x in places)
    at: dict[Value, float] = {
        x: float(x) if numeric else float(index) for index, x in enumerate(places)
    }
    for line in dict.fromkeys(point.line for point in own):
        number = lines.index(line)
        members = sorted((p for p in own if p.line == line), key=lambda p: at[p.x])
        where = [at[p.x] for p in members]
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(
            where,
            [p.asr.mean for p in members],
            color=colour,
            marker=_MARKERS[number % len(_MARKERS)],
            lw=1.6,
            ms=4.5,
            label=plain(say_line(line, figure)),
        )
        low, high = [p.asr.low for p in members], [p.asr.high for p in members]
        axes.fill_between(where, low, high, color=colour, alpha=0.18, lw=0)
    if not any(np.isnan(p.free) for p in own):
        _draw_free(axes, {at[x]: float(np.mean([p.free for p in own if p.x == x])) for x in places})
    if figure.accuracy:
        known = [(at[p.x], p.accuracy) for p in own if p.accuracy is not None]
        mean = {x: float(np.mean([a for y, a in known if y == x])) for x, _ in sorted(known)}
        axes.plot(list(mean), list(mean.values()), color="grey", lw=1.2, ls=":", label="accuracy")
    said = {p.x: say(p.x) + (f"\n({say_beside(p)})" if figure.beside else "") for p in own}
    _scale(axes, at, said, numeric=numeric, log=figure.log)
    below = f"{say_key(figure.x)} ({say_key(figure.beside)})" if figure.beside else ""
    measured = str(own[0].panel[-1])
    named = MEASURES["asr" if measured == "asr_client" else measured]
    axes.set(xlabel=plain(below or say_key(figure.x)), ylabel=named, ylim=(-0.03, 1.03))
    axes.grid(axis="y", alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_free(axes: Axes, free: dict[float, float]) -> None:
    """Draw the free guess as the edge of a band: below it nothing was leaked."""
    axes.fill_between(list(free), -0.03, list(free.values()), color="black", alpha=0.06, lw=0)
    axes.plot(list(free), list(free.values()), color="black", lw=1.6, dashes=(4, 2), label=FREE)


def _scale(
    axes: Axes, at: dict[Value, float], said: dict[Value, str], *, numeric: bool, log: bool
) -> None:
    if numeric and log:
        least = min((x for x in at.values() if x > 0), default=1.0)
        # A logarithmic axis has no 0; the part below the least value is drawn straight.
        axes.set_xscale("symlog", linthresh=least, base=2 if least >= 1 else 10)
    if log or not numeric or len(at) <= 8:
        words = [said[x] for x in at]
        axes.set_xticks(list(at.values()), words, fontsize=8, rotation=0 if numeric else 20)
        axes.set_xticks([], minor=True)


def _add_legend(sheet: Figure) -> None:
    found: dict[str, Any] = {}
    for axes in sheet.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    sheet.legend(
        found.values(), found.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=9
    )


__all__ = ["curve_files", "draw_curves"]
