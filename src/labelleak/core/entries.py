"""What the entries of a head gradient tell of noise, compression and rounding, trial by trial."""

from __future__ import annotations

import numpy as np

from labelleak.core.counts import Floats
from labelleak.core.lazy import Tensor, torch
from labelleak.core.observation import Observation
from labelleak.core.once import once

# A gradient with no entry above this is made of rounding (the model is certain).
FAINT = 1e-5
# Shares of distinct sizes below this, among at least so many entries, are quantised.
DISTINCT = 0.05
FEWEST = 8
# Entries looked at for distinct values.
LOOK = 2048


@once
def sum_rests(observation: Observation) -> tuple[Floats | None, Floats | None]:
    """Return what is left of the sums over classes, against the size of the weight and the bias.

    It is 0 for softmax cross-entropy and about 1 for pure noise; None for a part not shared.
    """
    of_weight = of_bias = None
    if observation.weight is not None:
        sums = observation.sums
        of_weight = ratio(_lengths(sums.columns), np.sqrt(sums.square))
    if observation.bias is not None:
        gradient = observation.bias_gradient
        of_bias = ratio(np.abs(gradient.sum(axis=-1)), _lengths(gradient))
    return of_weight, of_bias


@np.errstate(over="ignore")
def _lengths(rows: Floats) -> Floats:
    """Return the L2 norms along the last axis; infinite where squares do not fit."""
    return np.asarray(np.linalg.norm(rows, axis=-1))


@once
def noise_size(observation: Observation) -> Floats:
    """Estimate the standard deviation of noise on each entry from the sums over classes.

    Independent noise of variance v on K classes gives column sums of variance K v; a softmax
    gradient gives sums of 0. Columns that are empty tell nothing and are left out.
    """
    found = np.zeros(observation.trials)
    classes = observation.num_classes
    if observation.weight is not None:
        sums = observation.sums
        spread = np.square(sums.columns).sum(-1) / (classes * np.maximum(sums.live, 1))
        found = np.maximum(found, np.sqrt(spread))
    if observation.bias is not None:
        left = np.abs(observation.bias_gradient.sum(axis=-1))
        found = np.maximum(found, left / np.sqrt(classes))
    return np.asarray(found)


def zeroed_share(observation: Observation) -> Floats:
    """Return the share of entries that are zero in a column that is not empty.

    A head input that is never active empties a whole column; that is no pruning.
    """
    sums = observation.sums
    entries = sums.live * observation.num_classes
    return np.asarray(sums.zeroed / np.maximum(entries, 1))


def distinct_share(entries: Tensor) -> tuple[Floats, np.ndarray]:
    """Return the share of distinct sizes among entries, and whether it is that of few levels."""
    sizes = entries[..., :LOOK].detach().abs().cpu()
    flat = (sizes if sizes.dtype == torch.float64 else sizes.float()).numpy()
    ordered = np.sort(flat, axis=-1).astype(np.float64, copy=False)  # less is sorted sooner
    rises = np.diff(ordered, axis=-1) > 1e-6 * ordered[..., -1:]
    fresh = (rises & (ordered[..., 1:] > 0)).sum(axis=-1)
    held = (flat > 0).sum(axis=-1)
    distinct = np.minimum(fresh / np.maximum(held, 1), 1.0)
    return distinct, (distinct < DISTINCT) & (held >= FEWEST)


@once
def distinct_sizes(observation: Observation) -> tuple[Floats, np.ndarray]:
    """Return what `distinct_share` says of the weight's entries, or of the bias's without one."""
    weight, bias = observation.weight, observation.bias
    entries = bias if weight is None else weight.flatten(-2)
    assert entries is not None
    return distinct_share(entries)


@once
def stands_out(observation: Observation) -> np.ndarray:
    """Tell which trials' gradients stand out of rounding."""
    sizes = [] if observation.weight is None else [observation.sums.largest]
    if observation.bias is not None:
        sizes.append(np.abs(observation.bias_gradient).max(axis=-1))
    return np.asarray(np.max(sizes, axis=0) > FAINT)


def moves_alike(observation: Observation) -> np.ndarray:
    """Tell after Adam and the like which trials' rows moved alike, as no softmax's do.

    These take each entry about as far as any, so little but signs is left. A softmax's gradient
    sums to zero, so in each step one class at least goes against the others: the mean over K
    classes is at most 1 - 2 / K of the largest move, where sigmoids of rare classes all go one way.

    >>> alike, apart = torch.tensor([[1.0, 0.9, 1.0], [0.9, 1.0, -0.3]]).unbind()
    >>> bool(moves_alike(Observation.from_gradient(None, alike)))
    True
    >>> bool(moves_alike(Observation.from_gradient(None, apart)))
    False
    """
    classes, means = observation.num_classes, []
    if observation.weight is not None:
        sums = observation.sums
        largest = np.maximum(sums.largest, 1e-300)[..., None]
        means.append(np.abs(sums.columns) / largest)
    if observation.bias is not None:
        gradient = observation.bias_gradient
        largest = np.maximum(np.abs(gradient).max(axis=-1, keepdims=True), 1e-300)
        means.append(np.abs(gradient.sum(axis=-1, keepdims=True)) / largest)
    most = np.concatenate(means, axis=-1).max(axis=-1) / classes
    return np.asarray(stands_out(observation) & (most > 1 - 1 / classes))


def ratio(part: Floats, whole: Floats) -> Floats:
    """Divide, 0 where there is nothing to divide by.

    >>> ratio(np.array([1.0, 1.0]), np.array([2.0, 0.0])).tolist()
    [0.5, 0.0]
    """
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole) > 0)


__all__ = [
    "distinct_share",
    "distinct_sizes",
    "moves_alike",
    "noise_size",
    "ratio",
    "stands_out",
    "sum_rests",
    "zeroed_share",
]
