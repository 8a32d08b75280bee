"""Curves of a grid: ASR along any key of its records, drawn and tabulated beside the free guess."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as checked

from labelleak.intervals import Interval, bootstrap_means
from labelleak.record import Record
from labelleak.report import wording
from labelleak.whole_files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Value: TypeAlias = str | float
FREE = "best guess without the update"
_COLOURS = ("#d55e00", "#2b7bba", "#0c8f6b", "#b5679f", "#997700", "#7a73c4", "#444444", "#c23b6e")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_COLUMNS, _PANEL = 2, (5.4, 3.4)
_NAMES = {
    "batch_size": "labels in a batch",
    "training_steps": "training steps",
    "local_steps": "local steps",
    "lr": "learning rate of the local steps",
    "clients": "clients averaged into one update",
    "model_accuracy": "accuracy of the model",
    "rounds": "rounds pooled",
    "lr_h2": "lr·(|h|²+1)",
}


@checked(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class CurveOptions:
    """What a grid's figure shows.

    Attributes:
        x: the record key along the horizontal axis.
        lines: record keys whose values make separate lines.
        panels: record keys whose values make separate panels.
        log: whether the horizontal axis is logarithmic.
        accuracy: draw the model's accuracy too.
        attacks: which attacks are drawn; all of the records' if empty.
        beside: a numeric record key whose mean stands beside each place on the axis.
        measures: what is averaged, each in panels of its own: ``asr``, or ``asr_client``, the
            same against the single clients of an average.
    """

    x: str = "batch_size"
    lines: tuple[str, ...] = ("attack",)
    panels: tuple[str, ...] = ("scheme",)
    log: bool = False
    accuracy: bool = False
    attacks: tuple[str, ...] = ()
    beside: str = ""
    measures: tuple[Literal["asr", "asr_client"], ...] = ("asr",)


@dataclass(frozen=True)
class Point:
    """One point of a curve.

    Attributes:
        panel: values of the panels' keys, and what is measured.
        line: values of the lines' keys.
        x: value along the axis.
        asr: mean of what is measured, with its interval over initialisations and trials.
        free: expected ASR of the best guess without the update.
        advantage: mean advantage, or None where nothing is left to learn.
        accuracy: mean accuracy of the models.
        trials: updates behind it.
        beside: mean of the key that stands beside it.
    """

    panel: tuple[Value, ...]
    line: tuple[Value, ...]
    x: Value
    asr: Interval
    free: float
    advantage: float | None
    accuracy: float | None
    trials: int
    beside: float | None = None


def trace(records: Iterable[Record], figure: CurveOptions) -> list[Point]:
    """Average records that share panel, line and place on the axis.

    Args:
        records: rows of a grid.
        figure: what to show; records that lack one of its keys are left out.

    >>> trace([], CurveOptions())
    []
    """
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        if record.attack == "free" or (figure.attacks and record.attack not in figure.attacks):
            continue
        x = value_of(record, figure.x)
        panel = tuple(value_of(record, key) for key in figure.panels)
        line = tuple(value_of(record, key) for key in figure.lines)
        for measure in figure.measures:
            if None not in (x, *panel, *line, value_of(record, measure)):
                groups[(*panel, measure), line, x].append(record)
    columns = [
        (
            np.array([value_of(row, panel[-1]) for row in rows], dtype=np.float64),
            np.array([f"{row.seed}/{row.initialisation}" for row in rows]),
        )
        for (panel, _, _), rows in groups.items()
    ]
    intervals = bootstrap_means(columns) if columns else []
    return [
        _point(place, interval, rows, figure.beside)
        for (place, rows), interval in zip(groups.items(), intervals, strict=True)
    ]


def value_of(record: Record, key: str) -> Value | None:
    """Give a record's value under a key, its own or an extra one; None if it has none."""
    found = getattr(record, key, None) if key != "extra" else None
    if found is None:
        found = record.extra.get(key)
    return found if found is None or isinstance(found, str | float | int) else str(found)


def _point(
    place: tuple[Any, ...],
    asr: Interval,
    rows: Sequence[Record],
    beside: str,
) -> Point:
    panel, line, x = place
    free = np.array([value_of(row, f"{panel[-1]}_free") for row in rows], dtype=np.float64)
    gains = [row.advantage for row in rows if row.advantage is not None]
    accuracies = [row.model_accuracy for row in rows if row.model_accuracy is not None]
    numbers = [row.extra[beside] for row in rows if beside in row.extra]
    return Point(
        panel,
        line,
        x,
        asr,
        float(free.mean()),
        float(np.mean(gains)) if gains else None,
        float(np.mean(accuracies)) if accuracies else None,
        len(rows),
        float(np.mean(numbers)) if numbers else None,
    )


def write_curves(
    records: Iterable[Record], folder: Path, *, title: str, figure: CurveOptions
) -> list[Path]:
    """Write ``curves.svg`` and ``curves.md`` into a folder.

    Raises:
        BadInput: if the folder cannot be written.
    """
    points = trace(records, figure)
    if not points:
        return []
    paths = [folder / "curves.svg", folder / "curves.md"]
    write_whole(paths[0], draw_curves(points, title=title, figure=figure))
    write_whole(paths[1], f"# {title}\n\n{tabulate_curves(points, figure)}\n")
    return paths


def tabulate_curves(points: Sequence[Point], figure: CurveOptions) -> str:
    """Write points as Markdown, one table a panel, the free guess in the second column."""
    parts = []
    for panel in dict.fromkeys(point.panel for point in points):
        own = [point for point in points if point.panel == panel]
        lines = list(dict.fromkeys(point.line for point in own))
        named = [_say_line(line, figure) for line in lines]
        rows = [
            f"| {_say_key(figure.x)} | free guess | {' | '.join(named)} |",
            "|" + "---|" * (len(lines) + 2),
        ]
        accuracies = figure.accuracy and any(point.accuracy is not None for point in own)
        if accuracies:
            rows = [f"| accuracy {rows[0]}", f"|---{rows[1]}"]
        if figure.beside:
            rows = [f"| {_say_key(figure.beside)} {rows[0]}", f"|---{rows[1]}"]
        for x in _order(point.x for point in own):
            here = {point.line: point for point in own if point.x == x}
            first = next(iter(here.values()))
            entries = [_entry(here.get(line)) for line in lines]
            place = _say(x).replace("|", "\\|")  # a chain of defenses
            row = f"| {place} | {first.free:.3f} | {' | '.join(entries)} |"
            known = "-" if first.accuracy is None else f"{first.accuracy:.2f}"
            row = f"| {known} {row}" if accuracies else row
            rows.append(f"| {_say_beside(first)} {row}" if figure.beside else row)
        parts.append("\n".join([f"**{_say_panel(panel, figure)}**", "", *rows]))
    return "\n\n".join(parts)


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
            axes.set_title(_say_panel(panel, figure), fontsize=10)
        _add_legend(sheet)
        text = io.StringIO()
        sheet.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _draw_panel(
    axes: Axes, own: Sequence[Point], lines: Sequence[tuple[Value, ...]], figure: CurveOptions
) -> None:
    places = _order(point.x for point in own)
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
            label=_say_line(line, figure),
        )
        low, high = [p.asr.low for p in members], [p.asr.high for p in members]
        axes.fill_between(where, low, high, color=colour, alpha=0.18, lw=0)
    axes.plot(
        [at[x] for x in places],
        [float(np.mean([p.free for p in own if p.x == x])) for x in places],
        color="black",
        lw=1.6,
        dashes=(4, 2),
        label=FREE,
    )
    if figure.accuracy:
        known = [(at[p.x], p.accuracy) for p in own if p.accuracy is not None]
        mean = {x: float(np.mean([a for y, a in known if y == x])) for x, _ in sorted(known)}
        axes.plot(list(mean), list(mean.values()), color="grey", lw=1.2, ls=":", label="accuracy")
    said = {p.x: _say(p.x) + (f"\n({_say_beside(p)})" if figure.beside else "") for p in own}
    _scale(axes, at, said, numeric=numeric, log=figure.log)
    below = f"{_say_key(figure.x)} ({_say_key(figure.beside)})" if figure.beside else ""
    axes.set(xlabel=below or _say_key(figure.x), ylabel="share of labels named", ylim=(-0.03, 1.03))
    axes.grid(axis="y", alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)


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


def _order(values: Iterable[Value]) -> list[Value]:
    """Put numbers in rising order, and words behind them in the order in which they come."""
    once = list(dict.fromkeys(values))
    numbers = sorted(v for v in once if not isinstance(v, str))
    return [*numbers, *(v for v in once if isinstance(v, str))]


def _entry(point: Point | None) -> str:
    if point is None:
        return "-"
    return f"{point.asr.mean:.3f} ({point.asr.low:.3f} to {point.asr.high:.3f})"


def _say_beside(point: Point) -> str:
    return "-" if point.beside is None else f"{point.beside:.2g}"


def _say(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _say_key(key: str) -> str:
    return _NAMES.get(key, key.replace("_", " "))


def _say_line(line: tuple[Value, ...], figure: CurveOptions) -> str:
    words = []
    for key, value in zip(figure.lines, line, strict=True):
        if key == "attack":
            words.append(wording.name_attack(str(value)))
        else:
            words.append(
                _say(value) if isinstance(value, str) else f"{_say_key(key)} {_say(value)}"
            )
    return ", ".join(words)


def _say_panel(panel: tuple[Any, ...], figure: CurveOptions) -> str:
    pairs = zip(figure.panels, panel[:-1], strict=True)
    said = [_say(v) if isinstance(v, str) else f"{_say_key(k)} {_say(v)}" for k, v in pairs]
    if len(figure.measures) > 1:
        said.append({"asr": "all clients' labels", "asr_client": "each client's labels"}[panel[-1]])
    return ", ".join(said) or "all"


__all__ = ["CurveOptions", "Point", "draw_curves", "tabulate_curves", "trace", "write_curves"]
