"""What rows of the head's gradient hold beside labels: noise, where it is round, and drift."""

from __future__ import annotations

import numpy as np

from labelleak.attacks.text.own_sums import OwnSums
from labelleak.core.counts import Floats
from labelleak.core.lazy import Tensor, torch

# Rows that noise is measured on, at least.
FEWEST = 20
# Turns in which a drift and the counts beside it are found.
_TURNS = 5


def squares(rows: Tensor) -> Floats:
    """Return the energy of each row."""
    return np.asarray(rows.double().square().sum(1).numpy())


def measure_noise(
    energy: Floats, posterior: Floats, rare: np.ndarray, beside: float
) -> tuple[float, float]:
    """Return by how much the posteriors' part is larger than thought, and what noise adds to it.

    Both are read off rows of tokens that are hardly in the batch: noise where posteriors are
    smallest, the factor (positions of one text are alike) where they are largest. Where these are
    few the noise is that of `beside`.
    """
    if rare.sum() < FEWEST:
        return 1.0, beside
    rest, part = energy[rare], posterior[rare]
    order = np.argsort(part, kind="stable")
    low, high = order[: max(1, len(order) // 4)], order[-max(1, len(order) // 4) :]
    noise = max(float(np.median(rest[low] - part[low])), 0.0)
    if noise <= 3 * float(np.median(part[low])):
        noise = 0.0
    ratio = (rest[high] - noise) / np.maximum(part[high], 1e-300)
    return float(np.clip(np.median(ratio), 1.0, 100.0)), noise


def noise_of_columns(gradient: Tensor, own: OwnSums, total: int) -> float:
    """Return what noise adds to each entry of N times the gradient, by what its columns sum to.

    Without noise a softmax head's sum to nought whatever the labels, and those of one that is tied
    to the input embedding vary by what its inputs add. Of D sums the mean of what the variance may
    be is taken, since few make it too small as often as too large.

    Args:
        gradient: of the head, ``K x D``.
        own: what own text leaves.
        total: N.
    """
    sums = own.weighted.sum(0).double() - own.middle - gradient.sum(0).double()
    usual = total * own.beyond
    more = total**2 * float(sums.square().sum()) / max(len(sums) - 2, 1) - usual
    return more / len(gradient) if more > 3 * usual else 0.0


def find_drift(left: Tensor, means: Tensor, label: float, noise: Floats, prior: Floats) -> Tensor:
    """Return how far all head inputs moved alike, on average over local steps.

    Rows hold ``c_v (m_v + d)``. This is the d of least squares beside counts that are drawn to the
    prior, found in turns; 0 where it is no longer than noise makes it.

    Args:
        left: R, ``K x D``.
        means: m, ``K x D``.
        label: variance that one label adds.
        noise: t_v, K numbers.
        prior: N f_v, K numbers.
    """
    expected = torch.from_numpy(np.maximum(prior, 1e-12))
    spread, counts = torch.from_numpy(noise), expected
    drift = torch.zeros_like(means[0])
    for _ in range(_TURNS):
        weight = counts / (label * counts + spread)
        known = float(weight @ counts)
        drift = weight @ (left - counts[:, None] * means) / known
        if float(drift.square().sum()) * known < 2 * len(drift):
            return torch.zeros_like(drift)
        moved = means + drift
        sharp = 1 / (label * counts + spread)
        along, size = (left * moved).sum(1), moved.square().sum(1)
        counts = ((along * sharp + 1) / (size * sharp + 1 / expected)).clamp_min(0.0)
    return drift


def whitening(metric: Tensor) -> tuple[Tensor, int]:
    """Return the turn to coordinates in which a covariance is round, and how many there are."""
    sizes, axes = torch.linalg.eigh(metric)
    sizes = sizes.clamp_min(0.05 * float(sizes.mean()))
    return axes / sizes.sqrt(), len(sizes)


__all__ = ["FEWEST", "find_drift", "measure_noise", "noise_of_columns", "squares", "whitening"]
