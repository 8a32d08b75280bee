"""How networks of counts are trained: from a straight line on, in steps of few batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labelleak.attacks.shadow.slopes import Examples, Numbers, Slopes, ends_of
from labelleak.core.counts import Floats, Ints

if TYPE_CHECKING:
    from labelleak.attacks.shadow.net import CountNet

# Rows (classes of batches) in one step of training, within these numbers of batches.
_ROWS, _FEWEST, _MOST = 160, 4, 64
# Many small steps find more than few large ones that pass the same examples.
_LR, _DECAY, _STEEPEST, _RISE = 1.2e-2, 1e-4, 4.0, 0.2
# How much longer squares of slopes are remembered than slopes.
_SECOND = 0.999
# The ridge of the line, and how far the parts lie around it.
_RIDGE, _APART = 1e-2, 0.35
# Where a line misses the roots of counts by less, it tells most counts: half the passes do.
_CLOSE = 0.1


@dataclass(frozen=True, eq=False)
class Exercise:
    """What one network learns from.

    Attributes:
        features: ``S x K x F``, scaled.
        counts: ``S x K``.
        total: N.
        epochs: passes over the examples; half as many where a line nearly tells the counts.
        rng: source of their order.
    """

    features: Numbers
    counts: Ints
    total: int
    epochs: int
    rng: np.random.Generator


@np.errstate(over="ignore")  # the gate of what is far below 0 is 1 / inf
def train(nets: Sequence[CountNet], exercises: Sequence[Exercise]) -> None:
    """Maximise the likelihood of counts (AdamW, one cycle), of several networks in one.

    Each one is trained as it would be alone, to the last bit.

    Args:
        nets: of one shape.
        exercises: what each learns from, as many batches.
    """
    lines = [_line(net.spread, own) for net, own in zip(nets, exercises, strict=True)]
    passes = [
        (own.epochs + 1) // 2 if missed * net.spread < _CLOSE else own.epochs
        for net, own, (*_, missed) in zip(nets, exercises, lines, strict=True)
    ]
    # Those that learn longest come first, so that the last ones fall away.
    order = sorted(range(len(nets)), key=lambda place: -passes[place])
    slopes = Slopes.of([nets[place] for place in order])
    for place, one in enumerate(order):
        _begin(slopes, place, *lines[one])
    own, longest = [exercises[one] for one in order], [passes[one] for one in order]
    pages = _Pages.of(own)
    pace = _Pace.of(slopes, [number * pages.rounds for number in longest])
    for epoch in range(longest[0]):
        left = sum(number > epoch for number in longest)
        learning = slopes.first(left)
        pages.shuffle([one.rng for one in own[:left]])
        for step in range(pages.rounds):
            learning.measure(pages.at(step, left))
            pace.step(epoch * pages.rounds + step, left)
    for net in nets:  # where numbers lie decides last bits, so each lies as if read from a note
        for parameter in net.parameters():
            parameter.data = parameter.data.clone()


@dataclass(frozen=True, eq=False)
class _Pages:
    """Examples of M networks, in the order of an epoch's steps.

    Attributes:
        rows: their features one class after the other, ``S K x F`` each.
        flat: means over the classes ``S x F``, and ends ``2 x S x K``, of each.
        shuffled: an epoch's, steps behind the networks, but before all else of the ends.
    """

    rows: list[Numbers]
    flat: list[tuple[Numbers, Numbers]]
    shuffled: Examples

    @classmethod
    def of(cls, exercises: Sequence[Exercise]) -> _Pages:
        """Make room for steps."""
        number, classes, width = exercises[0].features.shape
        size = min(number, int(np.clip(_ROWS // classes, _FEWEST, _MOST)))
        kind, shape = exercises[0].features.dtype, (len(exercises), number // size)
        room = Examples(
            np.empty((*shape, classes, size, width), kind),
            np.empty((*shape, size, width), kind),
            np.empty((shape[1], 2, shape[0], classes, size), kind),
        )
        rows = [np.ascontiguousarray(one.features).reshape(-1, width) for one in exercises]
        flat = [
            (one.features.mean(axis=1), ends_of(one.counts, one.total).astype(kind))
            for one in exercises
        ]
        return cls(rows, flat, room)

    @property
    def rounds(self) -> int:
        """Steps of an epoch."""
        return int(self.shuffled.own.shape[1])

    def shuffle(self, sources: Sequence[np.random.Generator]) -> None:
        """Put the examples of the first networks in a new order."""
        _, rounds, classes, size, width = self.shuffled.own.shape
        for place, rng in enumerate(sources):
            rows, (means, ends) = self.rows[place], self.flat[place]
            picks = rng.permutation(len(means))[: rounds * size].reshape(rounds, 1, size)
            each = picks * classes + np.arange(classes)[:, None]
            room = self.shuffled.own[place].reshape(-1, width)
            np.take(rows, each.ravel(), axis=0, out=room, mode="clip")
            self.shuffled.means[place] = means[picks[:, 0]]
            self.shuffled.ends[:, :, place] = ends[:, picks[:, 0]].transpose(1, 0, 3, 2)

    def at(self, step: int, number: int) -> Examples:
        """Return what the first networks learn from in a step."""
        held = self.shuffled
        own, means = (part[:number, step] for part in (held.own, held.means))
        return Examples(own, means, held.ends[step, :, :number])


@dataclass(frozen=True, eq=False)
class _Pace:
    """Steps of AdamW (Loshchilov and Hutter 2019) along one cycle (Smith 2018), slopes clipped.

    Attributes:
        slopes: the networks'.
        mean: of slopes so far, each counting less than the next, ``M x P``.
        square: of their squares.
        spare: room to reckon in.
        rates: what `_rates` gives of every step, ``5 x M x steps``.
    """

    slopes: Slopes
    mean: Numbers
    square: Numbers
    spare: Numbers
    rates: Numbers

    @classmethod
    def of(cls, slopes: Slopes, steps: Sequence[int]) -> _Pace:
        """Stand at the beginning of so many steps of each network."""
        zeros = np.zeros_like(slopes.slope)
        rates = np.zeros((5, len(steps), max(steps, default=0)), dtype=zeros.dtype)
        for place, number in enumerate(steps):
            rates[:, place, :number] = _rates(number)
        return cls(slopes, zeros, zeros.copy(), zeros.copy(), rates)

    def step(self, place: int, number: int) -> None:
        """Take a step of the first networks."""
        values, slope = self.slopes.flat[:number], self.slopes.slope[:number]
        mean, square, spare = (one[:number] for one in (self.mean, self.square, self.spare))
        first, rest, least, size, kept = self.rates[:, :number, place, None]
        for own in slope:
            length = float(np.sqrt(own @ own)) + 1e-6
            if length > _STEEPEST:
                own *= _STEEPEST / length
        np.multiply(slope, rest, out=spare)
        mean *= first
        mean += spare
        np.square(slope, out=spare)
        spare *= 1 - _SECOND
        square *= _SECOND
        square += spare
        np.sqrt(square, out=spare)
        spare += least
        np.divide(mean, spare, out=spare)
        spare *= size
        values *= kept
        values -= spare


def _rates(steps: int) -> Floats:
    """Say how each step goes: ``5 x steps``.

    Returns:
        How much of the mean of slopes is kept and what is added of the new one; what is added to
        the root of the squares' mean; how far a step goes; and what is kept of the parameters.
    """
    found, shares = np.empty((5, steps)), np.zeros(2)
    for place in range(steps):
        rate = _cycle(place / steps, _LR / 25, _LR, _LR / 250_000)
        kept = np.array([_cycle(place / steps, 0.95, 0.85, 0.95), _SECOND])
        shares = kept * shares + (1 - kept)  # bias is divided out by how much of either was there
        spread = np.sqrt(shares[1])
        first, size = kept[0], rate * spread / shares[0]
        found[:, place] = first, 1 - first, 1e-8 * spread, size, 1 - rate * _DECAY
    return found


def _cycle(done: float, start: float, middle: float, end: float) -> float:
    """Go from start to middle for a fifth of the way, then on to the end, along cosines."""
    a, b, way = (
        (start, middle, done / _RISE)
        if done < _RISE
        else (middle, end, (done - _RISE) / (1 - _RISE))
    )
    return float(b + (a - b) * (1 + np.cos(np.pi * way)) / 2)


def _line(spread: float, own: Exercise) -> tuple[Floats, float, float]:
    """Find the best straight line through the roots of the counts, in units of the spread.

    Returns:
        Its slope, its height where features are 0, and by how much it misses them.
    """
    rows = own.features.reshape(-1, own.features.shape[2])
    roots = np.sqrt(own.counts.ravel()) / spread
    apart = (roots - roots.mean()).astype(rows.dtype)
    gram = (rows.T @ rows).astype(np.float64) + _RIDGE * len(rows) * np.eye(rows.shape[1])
    line = np.linalg.solve(gram, (rows.T @ apart).astype(np.float64))
    missed = (apart - rows @ line.astype(rows.dtype)).std(dtype=np.float64)
    return line, float(roots.mean()), float(missed)


def _begin(slopes: Slopes, place: int, line: Floats, height: float, missed: float) -> None:
    """Let a network's centres be a straight line."""
    bias = slopes.values["last.bias"][place]
    parts = len(bias) // 3
    slopes.values["direct.weight"][place] = line
    bias[:parts] = height + np.linspace(-_APART, _APART, parts)
    bias[parts : 2 * parts] = np.log(max(missed, 0.02))


__all__ = ["Exercise", "train"]
