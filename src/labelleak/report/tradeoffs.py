"""Draw leakage against accuracy: every defense that was tried, and the best trade-offs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

from labelleak.report.svg import plain

_COLOURS = ("#d55e00", "#2b7bba", "#0c8f6b", "#b5679f", "#997700", "#7a73c4", "#444444", "#c23b6e")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
_BASELINE = "no defense"


@dataclass(frozen=True)
class Place:
    """One defense in the picture.

    Attributes:
        label: its text form.
        family: what it shares colour and mark with; empty for no defense.
        advantage: advantage of the strongest attacker, with the ends of its interval.
        accuracy: test accuracy after training with it.
        readable: whether the attackers had anything to read; drawn hollow if not.
    """

    label: str
    family: str
    advantage: tuple[float, float, float]
    accuracy: float
    readable: bool = True


def draw_tradeoffs(
    places: Sequence[Place],
    *,
    front: Sequence[str],
    chosen: Place | None = None,
    target: float | None = None,
    least_accuracy: float | None = None,
    title: str,
) -> str:
    """Draw places as a stand-alone SVG; the same places give the same bytes.

    Args:
        places: what was measured.
        front: labels of the best trade-offs, joined by a line.
        chosen: the recommended setting as measured on fresh seeds, circled.
        target: advantage that was asked for.
        least_accuracy: accuracy that the budget leaves.
        title: what the picture shows.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "labelleak", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(7.2, 5.2), layout="constrained")
        axes = figure.add_subplot()
        _draw_places(axes, places)
        on_front = sorted((p.accuracy, p.advantage[0]) for p in places if p.label in front)
        axes.plot(*zip(*on_front, strict=True), color="#888888", lw=1, zorder=0)
        if chosen is not None:
            axes.plot(
                chosen.accuracy,
                chosen.advantage[0],
                "o",
                ms=13,
                mfc="none",
                mec="#000000",
                label=plain(f"recommended (fresh seeds): {chosen.label}"),
            )
        if target is not None:
            axes.axhline(target, color="#888888", ls="--", lw=1, label="target")
        if least_accuracy is not None:
            axes.axvline(least_accuracy, color="#888888", ls="--", lw=1, label="budget")
        axes.set_xlabel("test accuracy after training with the defense")
        axes.set_ylabel("advantage of the strongest attacker")
        axes.set_title(title, fontsize=9)
        axes.grid(alpha=0.25)
        figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _draw_places(axes: Axes, places: Sequence[Place]) -> None:
    """Draw each place with its interval, one colour and mark a family."""
    families = list(dict.fromkeys(p.family for p in places if p.family))
    for place in places:
        index = families.index(place.family) if place.family else None
        colour = "#000000" if index is None else _COLOURS[index % len(_COLOURS)]
        mean, low, high = place.advantage
        first = place is next(p for p in places if p.family == place.family)
        axes.errorbar(
            place.accuracy,
            mean,
            yerr=[[max(0.0, mean - low)], [max(0.0, high - mean)]],
            fmt="*" if index is None else _MARKERS[index % len(_MARKERS)],
            color=colour,
            mfc=colour if place.readable else "white",
            capsize=2,
            lw=1,
            label=(place.family or _BASELINE) if first else None,
        )


__all__ = ["Place", "draw_tradeoffs"]
