"""Curves of a grid: ASR along any key of its records, beside the best guess without the update."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from labelleak.records.intervals import Interval, bootstrap_means
from labelleak.records.options import Options
from labelleak.records.record import Record
from labelleak.report import wording
from labelleak.report.markdown import span, table

Value: TypeAlias = str | float
MEASURES = {
    "asr": "share of labels named",
    "asr_client": "each client's labels",
    "exact": "share of batches without an error",
    "hellinger": "Hellinger distance",
}
_NAMES = {
    "batch_size": "labels in a batch",
    "training_steps": "training steps",
    "local_steps": "local steps",
    "lr": "learning rate of the local steps",
    "clients": "clients averaged into one update",
    "model_accuracy": "accuracy of the model",
    "rounds": "rounds pooled",
    "rounds_trained": "rounds of training",
    "lr_h2": "lr·(‖h‖²+1)",
}


@dataclass(frozen=True, kw_only=True)
class CurveOptions(Options):
    """What a grid's figure shows.

    Attributes:
        x: the record key along the horizontal axis.
        lines: record keys whose values make separate lines.
        panels: record keys whose values make separate panels.
        log: whether the horizontal axis is logarithmic.
        accuracy: draw the model's accuracy too.
        attacks: which attacks are drawn; all of the records' if empty.
        beside: a numeric record key whose mean stands beside each place on the axis.
        measures: what is averaged, each in panels of its own: ``asr``; ``asr_client``, the
            same against the single clients of an average; ``exact``, the share of batches
            without an error; ``hellinger``, the distance of label shares. Only the first two have a
            free guess.
    """

    x: str = "batch_size"
    lines: tuple[str, ...] = ("attack",)
    panels: tuple[str, ...] = ("scheme",)
    log: bool = False
    accuracy: bool = False
    attacks: tuple[str, ...] = ()
    beside: str = ""
    measures: tuple[Literal["asr", "asr_client", "exact", "hellinger"], ...] = ("asr",)


@dataclass(frozen=True)
class Point:
    """One point of a curve.

    Attributes:
        panel: values of the panels' keys, and what is measured.
        line: values of the lines' keys.
        x: value along the axis.
        asr: mean of what is measured, with its interval over initialisations and trials.
        free: expected ASR of the best guess without the update; NaN where it has none.
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
    """Return a record's value under a key, its own or an extra one; None if it has none."""
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


def tabulate_curves(points: Sequence[Point], figure: CurveOptions) -> str:
    """Write points as Markdown, one table a panel, the free guess in the second column."""
    parts = []
    for panel in dict.fromkeys(point.panel for point in points):
        own = [point for point in points if point.panel == panel]
        lines = list(dict.fromkeys(point.line for point in own))
        heads = [say_key(figure.x), "free guess", *(say_line(line, figure) for line in lines)]
        accuracies = figure.accuracy and any(point.accuracy is not None for point in own)
        heads = ["accuracy", *heads] if accuracies else heads
        heads = [say_key(figure.beside), *heads] if figure.beside else heads
        rows = []
        for x in order(point.x for point in own):
            here = {point.line: point for point in own if point.x == x}
            first = next(iter(here.values()))
            entries = [span(here[line].asr, 3) if line in here else "-" for line in lines]
            row = [say(x), "-" if math.isnan(first.free) else f"{first.free:.3f}", *entries]
            known = "-" if first.accuracy is None else f"{first.accuracy:.2f}"
            row = [known, *row] if accuracies else row
            rows.append([say_beside(first), *row] if figure.beside else row)
        parts.append(table(heads, rows, title=say_panel(panel, figure)))
    return "\n\n".join(parts)


def describe_ends(points: Sequence[Point], figure: CurveOptions) -> list[str]:
    """Say of each panel which lines end above the free guess, at it, or below it.

    A line is above or below where its whole interval is.

    >>> describe_ends([], CurveOptions())
    []
    """
    said = []
    for panel in dict.fromkeys(point.panel for point in points):
        own = [point for point in points if point.panel == panel]
        last = order(point.x for point in own)[-1]
        ends = [point for point in own if point.x == last and point.line[:1] != ("random",)]
        if not ends or math.isnan(ends[0].free):
            continue
        groups: dict[str, list[str]] = {"above it": [], "at it": [], "below it": []}
        for point in ends:
            above, below = point.asr.low > point.free, point.asr.high < point.free
            place = "above it" if above else "below it" if below else "at it"
            groups[place].append(f"{say_line(point.line, figure)} ({point.asr.mean:.2f})")
        known = ends[0].accuracy
        where = f"{say_key(figure.x)} {say(last)}"
        where += f", accuracy {known:.2f}" if figure.accuracy and known is not None else ""
        parts = [f"{place}: {', '.join(names)}" for place, names in groups.items() if names]
        said.append(
            f"{say_panel(panel, figure)}, at {where}, against the best guess without the update "
            f"({ends[0].free:.2f}): {'; '.join(parts)}."
        )
    return said


def order(values: Iterable[Value]) -> list[Value]:
    """Put numbers in rising order, and words behind them in the order in which they come."""
    once = list(dict.fromkeys(values))
    numbers = sorted(v for v in once if not isinstance(v, str))
    return [*numbers, *(v for v in once if isinstance(v, str))]


def say_beside(point: Point) -> str:
    """Write the number that stands beside a place."""
    return "-" if point.beside is None else f"{point.beside:.2g}"


def say(value: Value) -> str:
    """Write a value."""
    return value if isinstance(value, str) else f"{value:g}"


def say_key(key: str) -> str:
    """Name a record key in words."""
    return _NAMES.get(key, key.replace("_", " "))


def say_line(line: tuple[Value, ...], figure: CurveOptions) -> str:
    """Name a line."""
    words = []
    for key, value in zip(figure.lines, line, strict=True):
        if key == "attack":
            words.append(wording.name_attack(str(value)))
        else:
            words.append(say(value) if isinstance(value, str) else f"{say_key(key)} {say(value)}")
    return ", ".join(words)


def say_panel(panel: tuple[Any, ...], figure: CurveOptions) -> str:
    """Name a panel."""
    pairs = zip(figure.panels, panel[:-1], strict=True)
    said = [say(v) if isinstance(v, str) else f"{say_key(k)} {say(v)}" for k, v in pairs]
    if len(figure.measures) > 1:
        averaged = "asr_client" in figure.measures and panel[-1] == "asr"
        said.append("all clients' labels" if averaged else MEASURES[panel[-1]])
    return ", ".join(said) or "all"


__all__ = [
    "MEASURES",
    "CurveOptions",
    "Point",
    "describe_ends",
    "order",
    "say",
    "say_beside",
    "say_key",
    "say_line",
    "say_panel",
    "tabulate_curves",
    "trace",
]
