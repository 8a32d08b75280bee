"""How a network of counts is trained: from a straight line on, in steps of few batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelleak.attacks.shadow.slopes import Examples, Numbers, Slopes
from labelleak.core.counts import Ints

# Rows (classes of batches) in one step of training, within these numbers of batches.
_ROWS, _FEWEST, _MOST = 160, 4, 64
# Many small steps find more than few large ones that pass the same examples.
_LR, _DECAY, _STEEPEST, _RISE = 1.2e-2, 1e-4, 4.0, 0.2
# The ridge of the line, and how far the parts lie around it.
_RIDGE, _APART = 1e-2, 0.35
# Where a line misses the roots of counts by less, it tells most counts: half the passes do.
_CLOSE = 0.1


@np.errstate(over="ignore")  # the gate of what is far below 0 is 1 / inf
def train(
    slopes: Slopes,
    features: Numbers,
    counts: Ints,
    total: int,
    epochs: int,
    rng: np.random.Generator,
) -> None:
    """Maximise the likelihood of counts (AdamW, one cycle).

    Args:
        slopes: of the network that learns.
        features: ``S x K x F``, scaled.
        counts: ``S x K``.
        total: N.
        epochs: passes over the examples; half as many where a line nearly tells the counts.
        rng: source of their order.
    """
    if _begin(slopes, features, counts) < _CLOSE:
        epochs = (epochs + 1) // 2
    examples, pace = Examples.of(features, counts, total), _Pace.of(slopes)
    size = min(len(examples), int(np.clip(_ROWS // counts.shape[1], _FEWEST, _MOST)))
    rounds = len(examples) // size
    for epoch in range(epochs):
        shuffled = examples[rng.permutation(len(examples))[: rounds * size]]
        for step in range(rounds):
            slopes.measure(shuffled[step * size : (step + 1) * size])
            pace.step((epoch * rounds + step) / (epochs * rounds))


@dataclass(frozen=True, eq=False)
class _Pace:
    """Steps of AdamW (Loshchilov and Hutter 2019) along one cycle (Smith 2018), slopes clipped.

    Attributes:
        values: the parameters.
        slope: of the loss by them.
        mean: of slopes so far, each counting less than the next.
        square: of their squares.
        shares: how much of either was there: bias is divided out by them.
        spare: room to reckon in.
    """

    values: Numbers
    slope: Numbers
    mean: Numbers
    square: Numbers
    shares: Numbers
    spare: Numbers

    @classmethod
    def of(cls, slopes: Slopes) -> _Pace:
        """Stand at the beginning."""
        zeros = np.zeros_like(slopes.slope)
        return cls(slopes.flat, slopes.slope, zeros, zeros.copy(), np.zeros(2), zeros.copy())

    def step(self, done: float) -> None:
        """Take a step of what share of training was done."""
        rate = _cycle(done, _LR / 25, _LR, _LR / 250_000)
        first, second = _cycle(done, 0.95, 0.85, 0.95), 0.999
        length = float(np.sqrt(self.slope @ self.slope)) + 1e-6
        if length > _STEEPEST:
            self.slope[:] *= _STEEPEST / length
        kept = np.array([first, second])
        self.shares[:] = kept * self.shares + (1 - kept)
        seen, spread = float(self.shares[0]), float(np.sqrt(self.shares[1]))
        np.multiply(self.slope, 1 - first, out=self.spare)
        self.mean[:] *= first
        self.mean[:] += self.spare
        np.square(self.slope, out=self.spare)
        self.spare[:] *= 1 - second
        self.square[:] *= second
        self.square[:] += self.spare
        np.sqrt(self.square, out=self.spare)
        self.spare[:] += 1e-8 * spread
        np.divide(self.mean, self.spare, out=self.spare)
        self.spare[:] *= rate * spread / seen
        self.values[:] *= 1 - rate * _DECAY
        self.values[:] -= self.spare


def _cycle(done: float, start: float, middle: float, end: float) -> float:
    """Go from start to middle for a fifth of the way, then on to the end, along cosines."""
    a, b, way = (
        (start, middle, done / _RISE)
        if done < _RISE
        else (middle, end, (done - _RISE) / (1 - _RISE))
    )
    return float(b + (a - b) * (1 + np.cos(np.pi * way)) / 2)


def _begin(slopes: Slopes, features: Numbers, counts: Ints) -> float:
    """Let the network's centres be the best straight line through the roots of the counts.

    Returns:
        By how much the line misses them.
    """
    rows = features.reshape(-1, features.shape[2]).astype(np.float64)
    roots = np.sqrt(counts.ravel()) / slopes.net.spread
    gram = rows.T @ rows + _RIDGE * len(rows) * np.eye(rows.shape[1])
    line = np.linalg.solve(gram, rows.T @ (roots - roots.mean()))
    missed = (roots - roots.mean() - rows @ line).std()
    parts = len(slopes.values["last.bias"]) // 3
    bias = slopes.values["last.bias"]
    slopes.values["direct.weight"][:] = line
    bias[:parts] = roots.mean() + np.linspace(-_APART, _APART, parts)
    bias[parts : 2 * parts] = np.log(max(missed, 0.02))
    return float(missed * slopes.net.spread)


__all__ = ["train"]
