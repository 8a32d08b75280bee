"""Draw success rates over batch sizes as inline SVG that follows the page's colours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from labelleak.records.cells import Cell
from labelleak.records.intervals import Interval
from labelleak.records.record import THREAT_MODELS
from labelleak.report import wording
from labelleak.report.redrawing import exchange
from labelleak.report.svg import INK, inline, plain, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

FREE_LABEL = "best guess without the update"
# Mid tones that keep a contrast of 3:1 on white and on near-black, told apart by the common
# kinds of colour blindness; the marker says the same a second time.
COLOURS = ("#d55e00", "#2b7bba", "#0c8f6b", "#b5679f", "#997700", "#7a73c4")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_WIDTH, _PLOT_HEIGHT, _LEGEND_ROW = 4.6, 2.5, 0.2
_LONGEST_NAME, _LONGEST_OF_TWO = 44, 29
_TICKS = (0, 0.25, 0.5, 0.75, 1)
_TICK_LABELS = ("0 %", "25 %", "50 %", "75 %", "100 %")
Series = tuple[str, str, bool]


@dataclass(frozen=True)
class Style:
    """How one series looks in every figure of a page."""

    colour: str
    marker: str
    line: str
    alpha: float


def assign_styles(cells: Sequence[Cell]) -> dict[Series, Style]:
    """Return each series one look, so that it is the same in all figures of a page.

    Attacks without the update share the page's ink; the measured ``free`` attack has no line,
    since its exact expectation is drawn as the baseline.
    """
    ordered = dict.fromkeys(cell.series for cell in sorted(cells, key=lambda c: c.sort_key[3]))
    styles: dict[Series, Style] = {}
    many = len(ordered) > len(COLOURS)
    for threat_model in THREAT_MODELS[1:]:
        own = [series for series in ordered if series[1] == threat_model]
        # Few lines share one figure and one run of colours; many get a figure each threat model.
        start = 0 if many else len(styles)
        for index, series in enumerate(own, start=start):
            colour = COLOURS[index % len(COLOURS)]
            styles[series] = Style(colour, _MARKERS[index % len(_MARKERS)], "-", 1.0)
    blind = [series for series in ordered if series[1] == "none" and series[0] != "free"]
    return {series: Style(INK, "", ":", 0.55) for series in blind} | styles


def draw_panel(
    cells: Sequence[Cell],
    *,
    prefix: str,
    styles: Mapping[Series, Style] | None = None,
) -> str:
    """Draw the cells of one scheme and stage: curves, or points where one batch size is there.

    Args:
        cells: cells that differ in attack and batch size only.
        prefix: start of every id in the SVG; give each figure of a page its own.
        styles: the page's looks; from these cells if None.

    Raises:
        ValueError: if there are no cells.
    """
    return Panels(assign_styles(cells) if styles is None else styles).draw(cells, prefix=prefix)


class Panels:
    """Draws the panels of a page; those that differ in values alone share one matplotlib figure.

    Making a figure takes as long as writing it. What it shows does not depend on what it was used
    for before: limits, ticks and legend are those of the layout, and every value is put anew. As a
    context it keeps the style of a page, which takes as long as a figure to put in place.

    Args:
        styles: the page's looks.
    """

    def __init__(self, styles: Mapping[Series, Style]) -> None:
        self._styles = styles
        self._curves: dict[Any, Curves] = {}
        self._kept: ExitStack | None = None
        self._dressed = False

    def __enter__(self) -> Self:
        self._kept = ExitStack()
        return self

    def __exit__(self, *why: object) -> None:
        if self._kept is not None:
            self._kept.close()
        self._kept, self._dressed = None, False

    def draw(self, cells: Sequence[Cell], *, prefix: str) -> str:
        """Draw one panel, as `draw_panel` does."""
        sizes = sorted({cell.batch_size for cell in cells})
        if not sizes:
            raise ValueError("a figure needs at least one cell")
        with ExitStack() as once:
            if not self._dressed:
                (self._kept or once).enter_context(_in_style())
                self._dressed = self._kept is not None
            raw = self._trace(cells) if sizes[1:] else write(_draw_points(cells, self._styles))
            return inline(raw, prefix=prefix, title=describe(cells))

    def _trace(self, cells: Sequence[Cell]) -> str:
        lines = list(_by_series(cells).items())
        layout = tuple(
            (_name(members[0]), self._styles[series], tuple(cell.batch_size for cell in members))
            for series, members in lines
        )
        sizes, free = zip(*_free(cells), strict=True)
        key = layout, sizes
        if key not in self._curves:
            self._curves[key] = Curves(*key)
        return self._curves[key].draw([[c.asr for c in members] for _, members in lines], free)


@contextmanager
def _in_style() -> Iterator[None]:
    """Put the style of a page in the place of the user's own."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        yield


RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "labelleak",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 1.7,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.0,
    "legend.borderpad": 0.1,
}


def describe(cells: Sequence[Cell]) -> str:
    """Return in words what a figure shows, with the numbers at its ends.

    Raises:
        ValueError: if there are no cells.
    """
    sizes = sorted({cell.batch_size for cell in cells})
    if not sizes:
        raise ValueError("a figure needs at least one cell")
    over = f"batch sizes {sizes[0]} to {sizes[-1]}" if sizes[1:] else f"batch size {sizes[0]}"
    parts = [f"Share of labels named, {over}.", f"{FREE_LABEL.capitalize()}: {_ends(_free(cells))}"]
    for members in _by_series(cells).values():
        rates = [(cell.batch_size, cell.asr.mean) for cell in members]
        parts.append(f"{wording.name_series(members[0])}: {_ends(rates)}")
    return " ".join(parts).replace("\xa0", " ")


def _name(cell: Cell) -> str:
    """Name a series, cut where a figure has no room for more."""
    name = wording.name_series(cell)
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _ends(points: Sequence[tuple[int, float]]) -> str:
    """Return the first and last value of a curve, as text."""
    said = [f"{wording.share(value)} at {size}" for size, value in (points[0], points[-1])]
    return ", ".join(dict.fromkeys(said)) + "."


def _by_series(cells: Sequence[Cell]) -> dict[Series, list[Cell]]:
    """Sort cells into lines, the measured free guess left out."""
    lines: dict[Series, list[Cell]] = {}
    for cell in sorted(cells, key=lambda c: c.sort_key):
        if cell.series[:2] != ("free", "none"):
            lines.setdefault(cell.series, []).append(cell)
    return lines


def _free(cells: Sequence[Cell]) -> list[tuple[int, float]]:
    """Return the exact expectation of the best free guess per batch size."""
    found: dict[int, list[float]] = {}
    for cell in sorted(cells, key=lambda c: c.sort_key):
        found.setdefault(cell.batch_size, []).append(cell.free)
    return [(size, sum(values) / len(values)) for size, values in sorted(found.items())]


def frame(plot_height: float, legend_rows: int, left: float = 0.115) -> tuple[Figure, Axes]:
    """Make a figure whose plot keeps its height whatever the legend needs below it."""
    from matplotlib.figure import Figure

    below = 0.55 + _LEGEND_ROW * legend_rows
    height = plot_height + below
    figure = Figure(figsize=(_WIDTH, height))
    figure.patch.set_alpha(0)
    axes = figure.add_axes((left, below / height, 0.965 - left, (plot_height - 0.12) / height))
    axes.patch.set_alpha(0)
    return figure, axes


class Curves:
    """A figure of success rates over batch sizes, made once for all values that it can show.

    Args:
        lines: name, look and batch sizes of each line.
        sizes: all batch sizes.
    """

    def __init__(
        self, lines: Sequence[tuple[str, Style, tuple[int, ...]]], sizes: Sequence[int]
    ) -> None:
        longest = max((len(name) for name, _, _ in lines), default=0)
        columns = 2 if longest <= _LONGEST_OF_TWO else 1
        self._figure, self._axes = frame(_PLOT_HEIGHT, -(-(len(lines) + 1) // columns))
        axes = self._axes
        self._lines = [_draw_line(axes, *line) for line in lines]
        self._looks = [look for _, look, _ in lines]
        nothing = [0.0] * len(sizes)
        (self._free,) = axes.plot(
            sizes, nothing, color=INK, alpha=0.75, lw=1.6, dashes=(4, 2), label=FREE_LABEL
        )
        self._bands: list[Any] = []
        axes.set_xscale("log", base=2)
        axes.set_xlim(sizes[0] / 1.25, sizes[-1] * 1.25)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("labels in a batch")
        axes.set_ylim(-0.03, 1.03)
        axes.set_yticks(_TICKS, _TICK_LABELS)
        axes.grid(axis="y", color=INK, alpha=0.14, lw=0.6)
        axes.tick_params(length=3, width=0.6)
        self._legend = self._figure.legend(
            loc="lower left", ncols=columns, bbox_to_anchor=(0.0, 0.0)
        )
        self._whole = self._alone = ""

    def draw(self, rates: Sequence[Sequence[Interval]], free: Sequence[float]) -> str:
        """Put values in place of those before, and return the figure as matplotlib writes it.

        Axes and legend say the same whatever the values are, so all but the first time the curves
        are drawn alone, and stand in the figure where those before did.

        Args:
            rates: by line and its batch sizes.
            free: the expectation of the best free guess, by batch size.
        """
        if self._whole and not self._alone:
            self._alone = self._draw_alone()
        self._fill(rates, free)
        alone = self._draw_alone() if self._whole else ""
        found = exchange(self._whole, self._alone, alone) if self._whole else None
        self._whole, self._alone = found or write(self._figure), alone
        return self._whole

    def _draw_alone(self) -> str:
        self._axes.set_axis_off()
        self._legend.set_visible(False)
        found = write(self._figure)
        self._axes.set_axis_on()
        self._legend.set_visible(True)
        return found

    def _fill(self, rates: Sequence[Sequence[Interval]], free: Sequence[float]) -> None:
        for band in self._bands:
            band.remove()
        self._bands = []
        for line, look, found in zip(self._lines, self._looks, rates, strict=True):
            line.set_ydata([one.mean for one in found])
            if look.marker:
                low, high = [one.low for one in found], [one.high for one in found]
                self._bands.append(
                    self._axes.fill_between(
                        line.get_xdata(), low, high, color=look.colour, alpha=0.2, lw=0
                    )
                )
        self._free.set_ydata(free)


def _draw_line(axes: Axes, name: str, style: Style, sizes: Sequence[int]) -> Line2D:
    (line,) = axes.plot(
        sizes,
        [0.0] * len(sizes),
        color=style.colour,
        alpha=style.alpha,
        ls=style.line,
        marker=style.marker,
        lw=1.6,
        ms=4.5,
        label=plain(name),
    )
    return line


def _draw_points(cells: Sequence[Cell], styles: Mapping[Series, Style]) -> Figure:
    lines = list(_by_series(cells).items())
    names = [plain(_name(cell)) for _, (cell, *_) in lines]
    left = min(0.5, 0.03 + 0.0155 * max(map(len, names), default=0))
    figure, axes = frame(0.5 + 0.3 * max(len(lines), 1), 1, left=left)
    for row, (series, (cell, *_)) in enumerate(lines):
        style, mean = styles[series], cell.asr.mean
        axes.plot([cell.asr.low, cell.asr.high], [row, row], color=style.colour, lw=2.4, alpha=0.6)
        axes.plot([mean], [row], color=style.colour, marker=style.marker or "|", ms=7, ls="")
    ((size, free),) = _free(cells)
    axes.axvline(free, color=INK, alpha=0.75, lw=1.6, dashes=(4, 2), label=FREE_LABEL)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_yticks(range(len(lines)), names, fontsize=9)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xticks(_TICKS[::2], _TICK_LABELS[::2])
    axes.grid(axis="x", color=INK, alpha=0.14, lw=0.6)
    axes.set_xlabel(f"labels named, batch size {size}")
    axes.tick_params(length=3, width=0.6)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="lower left", bbox_to_anchor=(0.0, 0.0))
    return figure
