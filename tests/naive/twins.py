"""Slow, obvious versions of the clever routines."""

import numpy as np


def fill(values, step, total):
    """Hand out one label after the other."""
    height = np.asarray(values, dtype=np.float64) - np.min(values)
    counts = np.zeros(len(height), dtype=np.int64)
    for _ in range(total):
        if step > 0:
            counts[np.argmin(height + counts * step)] += 1
        else:
            tied = np.flatnonzero(height == 0)
            counts[tied[np.argmin(counts[tied])]] += 1
    return counts


def extract_counts(row_sums, impact, offset, total):
    """Run LLG's two stages label by label."""
    g = np.asarray(row_sums, dtype=np.float64)
    negative = sorted(np.flatnonzero(g < 0), key=lambda i: (g[i], i))[:total]
    counts = np.zeros(len(g), dtype=np.int64)
    counts[negative] = 1
    level = g - offset + counts * -impact
    return counts + fill(level, -impact, total - len(negative))


def best_counts(tails, total):
    """Take the likeliest next label again and again."""
    chances = np.minimum.accumulate(np.asarray(tails, dtype=np.float64), axis=-1)
    counts = np.zeros(len(chances), dtype=np.int64)
    for _ in range(total):
        options = [
            (-chances[i, counts[i]], counts[i], i)
            for i in range(len(chances))
            if counts[i] < chances.shape[1]
        ]
        counts[min(options)[2]] += 1
    return counts
