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


def class_means(posteriors, labels, weights, classes):
    """Return the mean weighted posterior of each class that has samples, a row each."""
    return {
        c: (posteriors * weights[:, None])[labels == c].mean(axis=0)
        for c in range(classes)
        if (labels == c).any()
    }


def llg_plus(posteriors, labels, sums):
    """Return LLG+'s impact and offsets from a table of all classes by all classes."""
    classes = posteriors.shape[1]
    means = class_means(posteriors, labels, sums, classes)
    own = [means[c][c] - sums[labels == c].mean() for c in means]
    offset = [np.mean([means[c][j] for c in means if c != j]) for j in range(classes)]
    return np.mean(own), np.array(offset)


def own_and_others(posteriors, labels, weights):
    """Return PPLR's two numbers of each class, one after the other."""
    signal, own, others = posteriors * weights[:, None], [], []
    for c in range(posteriors.shape[1]):
        mine = labels == c if (labels == c).any() else np.ones(len(labels), dtype=bool)
        own.append(signal[mine, c].mean() - weights[mine].mean())
        rest = signal[labels != c, c]
        others.append(rest.sum() / max(len(rest), 1))
    return np.array(own), np.array(others)


def draw_each(pools, labels, rng):
    """Choose one sample after the other."""
    chosen = [rng.choice(pools[label]) for label in np.ravel(labels)]
    return np.reshape(chosen, np.shape(labels))
