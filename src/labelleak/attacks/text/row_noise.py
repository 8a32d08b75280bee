"""What rows of the head's gradient hold beside labels: noise, and where it is round."""

from __future__ import annotations

import numpy as np

from labelleak.core.counts import Floats
from labelleak.core.lazy import Tensor, torch

# Rows that noise is measured on, at least.
FEWEST = 20


def squares(rows: Tensor) -> Floats:
    """Return the energy of each row."""
    return np.asarray(rows.double().square().sum(1).numpy())


def measure_noise(energy: Floats, posterior: Floats, rare: np.ndarray) -> tuple[float, float]:
    """Return by how much the posteriors' part is larger than thought, and what noise adds to it.

    Both are read off rows of tokens that are hardly in the batch: noise where posteriors are
    smallest, the factor (positions of one text are alike) where they are largest.
    """
    if rare.sum() < FEWEST:
        return 1.0, 0.0
    rest, part = energy[rare], posterior[rare]
    order = np.argsort(part, kind="stable")
    low, high = order[: max(1, len(order) // 4)], order[-max(1, len(order) // 4) :]
    noise = max(float(np.median(rest[low] - part[low])), 0.0)
    if noise <= 3 * float(np.median(part[low])):
        noise = 0.0
    ratio = (rest[high] - noise) / np.maximum(part[high], 1e-300)
    return float(np.clip(np.median(ratio), 1.0, 100.0)), noise


def whitening(metric: Tensor) -> tuple[Tensor, int]:
    """Return the turn to coordinates in which a covariance is round, and how many there are."""
    sizes, axes = torch.linalg.eigh(metric)
    sizes = sizes.clamp_min(0.05 * float(sizes.mean()))
    return axes / sizes.sqrt(), len(sizes)


__all__ = ["FEWEST", "measure_noise", "squares", "whitening"]
