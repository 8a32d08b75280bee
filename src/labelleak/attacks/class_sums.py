"""Sum what labelled samples show at the head, part by part: no n x K matrix is ever held."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from labelleak.core.counts import Floats, Ints
from labelleak.core.lazy import torch
from labelleak.core.white_box import HeadPass

# Entries of posteriors that are held at once.
_ENTRIES = 2**22


@dataclass(frozen=True, eq=False)
class ClassSums:
    """Sums over labelled samples, p being posteriors and w weights; K numbers each.

    Attributes:
        sizes: how many samples each class has.
        own: ``sum_{n: y_n = c} w_n p_nc``.
        whole: ``sum_n w_n p_nc``.
        weights: ``sum_{n: y_n = c} w_n``.
    """

    sizes: Ints
    own: Floats
    whole: Floats
    weights: Floats


def sum_posteriors(
    passes: Iterable[HeadPass],
    labels: Ints,
    *weigh: Callable[[HeadPass], Floats],
    double: bool = False,
    shares: bool = False,
) -> list[ClassSums]:
    """Add up the posteriors of samples for several ways to weigh them, in one go.

    Args:
        passes: samples at the head, in parts; every part has a sample.
        labels: the classes of all of them.
        weigh: each returns the weights of a part's samples.
        double: take the softmax in double precision.
        shares: divide weights by the size of the sample's class, so that sums are of class means.
    """
    found: list[ClassSums] = []
    at = 0
    for seen in passes:
        mine = labels[at : at + len(seen.inputs)]
        at += len(mine)
        if not found:
            classes = seen.logits.shape[-1]
            sizes = np.bincount(labels, minlength=classes)
            found = [ClassSums(sizes, *np.zeros((3, classes))) for _ in weigh]
        weights = np.stack([of(seen) for of in weigh])
        weights = weights / sizes[mine] if shares else weights
        for one, heavy in zip(found, weights, strict=True):
            one.weights[:] += np.bincount(mine, heavy, minlength=classes)
        for rows, posteriors in _posteriors(seen, double):
            own = posteriors[np.arange(len(posteriors)), mine[rows]]
            for one, heavy in zip(found, weights[:, rows], strict=True):
                one.whole[:] += heavy @ posteriors
                one.own[:] += np.bincount(mine[rows], heavy * own, minlength=classes)
    return found


def ones(seen: HeadPass) -> Floats:
    """Weigh all samples alike, as the bias gradient does."""
    return np.ones(len(seen.inputs))


def input_sums(seen: HeadPass) -> Floats:
    """Weigh a sample with H, the sum of its head inputs, as row sums do."""
    return np.asarray(seen.inputs.double().sum(dim=1).cpu().numpy())


def _posteriors(seen: HeadPass, double: bool) -> Iterable[tuple[slice, Floats]]:
    """Yield posteriors in blocks of rows, with their place."""
    step = max(1, _ENTRIES // seen.logits.shape[-1])
    for start in range(0, len(seen.logits), step):
        rows = slice(start, start + step)
        logits = seen.logits[rows].double() if double else seen.logits[rows]
        block = HeadPass(seen.inputs[rows], logits, logits, seen.problems).probabilities
        yield rows, block.detach().to("cpu", torch.float64).numpy()


__all__ = ["ClassSums", "input_sums", "ones", "sum_posteriors"]
