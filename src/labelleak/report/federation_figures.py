"""Draw leakage over rounds and over clients as inline SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from labelleak.records.rounds import Course
from labelleak.report import wording
from labelleak.report.figures import COLOURS, RC, frame
from labelleak.report.svg import INK, embed, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SERVERS = ("update", "model", "auxiliary")


def draw_rounds(courses: Sequence[Course], *, prefix: str) -> str:
    """Draw the advantage per round, one line per server, dashed where the defense is on."""
    with _drawing(len(courses)) as (figure, axes):
        for course in courses:
            numbers = [r.number for r in course.rounds]
            style = _style(course, courses)
            axes.plot(numbers, [r.advantage.mean for r in course.rounds], ms=4, lw=1.6, **style)
            low = [r.advantage.low for r in course.rounds]
            high = [r.advantage.high for r in course.rounds]
            axes.fill_between(numbers, low, high, color=style["color"], alpha=0.2, lw=0)
        axes.set_xlabel("round")
        _finish(figure, axes, [r.advantage.low for c in courses for r in c.rounds])
        said = [
            f"{name_course(c, courses)}: {wording.number(c.rounds[0].advantage.mean)} in round "
            f"{c.rounds[0].number}, {wording.number(c.rounds[-1].advantage.mean)} in round "
            f"{c.rounds[-1].number}."
            for c in courses
        ]
        return embed(figure, prefix=prefix, title=" ".join(["Advantage over rounds.", *said]))


def draw_clients(courses: Sequence[Course], *, prefix: str) -> str:
    """Draw each client's mean advantage, worst first, one line per server."""
    with _drawing(len(courses)) as (figure, axes):
        for course in courses:
            means = [c.advantage.mean for c in course.clients]
            size = 4 if len(means) <= 60 else 0
            axes.plot(range(1, len(means) + 1), means, ms=size, lw=1.2, **_style(course, courses))
        axes.set_xlabel("clients, each line from its worst to its best")
        _finish(figure, axes, [c.advantage.mean for o in courses for c in o.clients])
        said = [
            f"{name_course(c, courses)}: {wording.number(c.clients[0].advantage.mean)} for the "
            f"worst client, {wording.number(c.clients[-1].advantage.mean)} for the best."
            for c in courses
        ]
        return embed(figure, prefix=prefix, title=" ".join(["Advantage per client.", *said]))


@contextmanager
def _drawing(lines: int) -> Iterator[tuple[Figure, Axes]]:
    """Set up a figure with whole numbers below it and room for a legend of some lines."""
    import matplotlib as mpl
    from matplotlib.ticker import MaxNLocator

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        figure, axes = frame(2.5, lines + 1)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        yield figure, axes


def _style(course: Course, courses: Sequence[Course]) -> dict[str, Any]:
    """Return how a line is drawn: colour and mark of its server, dashed with the defense on."""
    place = _SERVERS.index(course.threat_model)
    return {
        "color": COLOURS[place],
        "ls": "--" if course.defended else "-",
        "marker": "os^"[place],
        "label": plain(name_course(course, courses)),
    }


def name_course(course: Course, courses: Sequence[Course]) -> str:
    """Name a line: what the server holds, and the defense where there are both states or one."""
    name = wording.SHORT_SERVERS[course.threat_model]
    if not any(other.defended for other in courses):
        return name
    return f"{name}, defense {'on' if course.defended else 'off'}"


def _finish(figure: Figure, axes: Axes, lows: Sequence[float]) -> None:
    axes.axhline(0, color=INK, alpha=0.75, lw=1.6, dashes=(4, 2), label="nothing beyond the guess")
    axes.set_ylim(min(-0.05, max(min(lows), -1) - 0.05), 1.05)
    axes.set_yticks((0, 0.25, 0.5, 0.75, 1), ("0", "0.25", "0.50", "0.75", "1"))
    axes.grid(axis="y", color=INK, alpha=0.14, lw=0.6)
    axes.tick_params(length=3, width=0.6)
    figure.legend(loc="lower left", ncols=1, bbox_to_anchor=(0.0, 0.0))
