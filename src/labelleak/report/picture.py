"""The page's one picture: how many labels each server names, beside the guess without an update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labelleak.records.intervals import Interval
from labelleak.report import wording

if TYPE_CHECKING:
    from labelleak.report.verdict import Exposure

_LEFT, _WIDTH, _ROW, _BAR = 1.0, 358.0, 46.0, 14.0


@dataclass(frozen=True)
class Bar:
    """One row of the picture, placed in the units of its view box."""

    name: str
    value: str
    top: float
    width: float
    low: float
    high: float
    seen: bool


@dataclass(frozen=True)
class Picture:
    """Bars from no label to all of them, and the line of the guess without the update."""

    title: str
    bars: tuple[Bar, ...]
    free: float
    height: float
    width: float = _LEFT + _WIDTH + 1
    left: float = _LEFT
    track: float = _WIDTH
    bar: float = _BAR


def draw(exposures: Sequence[Exposure]) -> Picture | None:
    """Place the bars of all servers in one case; None where no server read an update."""
    if not exposures:
        return None
    first = exposures[0]
    free = Interval(first.free, first.free, first.free)
    rows = [("No update: the best guess", free, first, False)]
    rows += [(wording.SHORT_SERVERS[e.server], e.asr, e, True) for e in exposures]
    bars = tuple(
        Bar(
            name[:1].upper() + name[1:],
            exposure.named(rate.mean),
            place * _ROW,
            _WIDTH * rate.mean,
            _LEFT + _WIDTH * rate.low,
            _LEFT + _WIDTH * rate.high,
            seen,
        )
        for place, (name, rate, exposure, seen) in enumerate(rows)
    )
    said = "; ".join(f"{bar.name}: {bar.value}" for bar in bars).replace("\xa0", " ")
    title = f"Labels named by each server. {said}. The same numbers stand in the table below."
    return Picture(title, bars, _LEFT + _WIDTH * first.free, len(bars) * _ROW)


def lay_bars(title: str, rows: Sequence[tuple[str, str, Interval]]) -> Picture:
    """Place a bar for each name, value and interval, from 0 to 1; less than 0 is drawn as 0.

    >>> lay_bars("Advantage", [("all", "0.5", Interval(0.5, 0.4, 0.6))]).title
    'Advantage. all: 0.5. The same numbers stand in the table below.'
    """

    def along(value: float) -> float:
        return _WIDTH * min(max(value, 0.0), 1.0)

    bars = tuple(
        Bar(
            wording.capital(name),
            value,
            place * _ROW,
            along(rate.mean),
            _LEFT + along(rate.low),
            _LEFT + along(rate.high),
            seen=True,
        )
        for place, (name, value, rate) in enumerate(rows)
    )
    said = "; ".join(f"{name}: {value}" for name, value, _ in rows)
    said = f"{title}. {said}. The same numbers stand in the table below."
    return Picture(said, bars, _LEFT, len(bars) * _ROW)


__all__ = ["Bar", "Picture", "draw", "lay_bars"]
