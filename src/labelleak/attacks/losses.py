"""Label counts in closed form from the bias gradient and the posteriors, loss by loss.

Every loss whose gradient with respect to the logits is ``p - target``, up to known factors, ties
the head's bias gradient b to the label counts c by one line; for mean cross-entropy it is
``N b = sum_k p_k - c``. The functions here solve that line for c. They are exact when the
posteriors are the client's own, and as good as the posteriors otherwise. Answers are real numbers:
hand them to `rounding.round_counts` where whole ones are wanted, and leave them be for mixed
labels.

All take leading trial dimensions ``*R`` and compute in float64. None needs the head's activation
to have a sign, and none holds once noise, clipping or compression has touched the gradient.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from labelleak.core.counts import Floats
from labelleak.errors import BadInput


def recover_from_mean(bias_gradient: ArrayLike, posterior: ArrayLike, total: int) -> Floats:
    """Solve ``N b = N p - c``: cross-entropy averaged over the batch.

    With label smoothing, mixup or any soft target the same line gives the label mass
    ``sum_k y_k``, real numbers that are not to be rounded.

    Args:
        bias_gradient: b, ``*R x K``.
        posterior: p, the batch mean of softmax(logits), ``*R x K``.
        total: N.

    >>> recover_from_mean([0.25, -0.25], [0.5, 0.5], 4).tolist()
    [1.0, 3.0]
    """
    return total * (_floats(posterior) - _floats(bias_gradient))


def recover_from_sum(bias_gradient: ArrayLike, posterior: ArrayLike, total: int) -> Floats:
    """Solve ``b = N p - c``: cross-entropy summed over the batch.

    >>> recover_from_sum([1.0, -1.0], [0.5, 0.5], 4).tolist()
    [1.0, 3.0]
    """
    return total * _floats(posterior) - _floats(bias_gradient)


def recover_with_temperature(
    bias_gradient: ArrayLike, posterior: ArrayLike, total: int, *, temperature: float
) -> Floats:
    """Solve ``N t b = N p - c``: mean cross-entropy of logits divided by a temperature t.

    Args:
        bias_gradient: b, ``*R x K``.
        posterior: p, the batch mean of softmax(logits / t), ``*R x K``.
        total: N.
        temperature: t, above 0.

    >>> recover_with_temperature([0.125, -0.125], [0.5, 0.5], 4, temperature=2.0).tolist()
    [1.0, 3.0]
    """
    if not temperature > 0:
        raise BadInput(f"the temperature must be above 0, not {temperature}")
    return recover_from_mean(temperature * _floats(bias_gradient), posterior, total)


def recover_with_smoothing(
    bias_gradient: ArrayLike, posterior: ArrayLike, total: int, *, smoothing: float
) -> Floats:
    """Solve ``N b = N p - (1 - s) c - N s / K``: mean cross-entropy with label smoothing s.

    Args:
        bias_gradient: b, ``*R x K``.
        posterior: p, the batch mean of softmax(logits), ``*R x K``.
        total: N.
        smoothing: s in [0, 1); torch's ``label_smoothing``.

    >>> recover_with_smoothing([0.2, -0.2], [0.5, 0.5], 4, smoothing=0.2).round(9).tolist()
    [1.0, 3.0]
    """
    if not 0 <= smoothing < 1:
        raise BadInput(f"label smoothing must lie in [0, 1), not {smoothing}")
    mass = recover_from_mean(bias_gradient, posterior, total)
    return np.asarray((mass - total * smoothing / mass.shape[-1]) / (1 - smoothing))


def recover_with_class_weights(
    bias_gradient: ArrayLike, posteriors: ArrayLike, total: int, *, weights: ArrayLike
) -> Floats:
    """Solve for counts under class-weighted cross-entropy, mean reduction as torch has it.

    There ``Z b = sum_c c_c w_c (P_c - e_c)`` with ``Z = sum_c c_c w_c`` unknown. In the weighted
    counts u = w c this is linear and homogeneous, ``(P^T - I - b 1^T) u = 0``; the
    total, ``sum_c u_c / w_c = N``, fixes the scale. Solved together by least squares.

    Args:
        bias_gradient: b, ``*R x K``.
        posteriors: P, row c the mean of softmax(logits) over the samples of class c, ``K x K``;
            or ``K`` numbers when all classes are taken to have the same.
        total: N.
        weights: w, ``K`` numbers above 0.

    >>> counts = recover_with_class_weights([0.3, -0.3], [0.5, 0.5], 4, weights=[3.0, 4.0])
    >>> counts.round(9).tolist()
    [1.0, 3.0]
    """
    share = _floats(weights)
    if not (share > 0).all():
        raise BadInput("class weights must all be above 0")
    b = _floats(bias_gradient)
    classes = b.shape[-1]
    rows = np.broadcast_to(_floats(posteriors), (classes, classes))
    homogeneous = rows.T - np.eye(classes) - b[..., :, None]
    return _solve_with_total(homogeneous, np.zeros_like(b), 1 / share, total) / share


def focal_factors(own: ArrayLike, *, gamma: float) -> Floats:
    """Return the factor F by which focal loss multiplies the logit gradient ``p - e_y``.

    ``F = (1 - p_y)^g - g p_y (1 - p_y)^(g - 1) ln p_y``; it is 1 for g = 0.

    Args:
        own: p_y, each sample's posterior of its own class, in (0, 1]; any shape.
        gamma: g, 0 or at least 1, so that F is finite at p_y = 1.

    >>> focal_factors([0.2, 0.9], gamma=0.0).tolist()
    [1.0, 1.0]
    """
    if gamma != 0 and not gamma >= 1:
        raise BadInput(f"gamma must be 0 or at least 1, not {gamma}")
    p = _floats(own)
    if gamma == 0:
        return np.ones_like(p)
    return np.asarray((1 - p) ** gamma - gamma * p * (1 - p) ** (gamma - 1) * np.log(p))


def recover_with_focal(
    bias_gradient: ArrayLike, weighted_posteriors: ArrayLike, factors: ArrayLike, total: int
) -> Floats:
    """Solve ``N b = sum_c c_c (E[F p | c] - E[F | c] e_c)``: focal loss averaged over the batch.

    The system's columns each sum to 0, so the total ``sum_c c_c = N`` is appended.

    Args:
        bias_gradient: b, ``*R x K``.
        weighted_posteriors: row c the mean of F p over the samples of class c, ``K x K``.
        factors: mean of F over the samples of class c, ``K`` numbers; see `focal_factors`.
        total: N.

    >>> recover_with_focal([0.25, -0.25], [[0.5, 0.5]] * 2, [1.0, 1.0], 4).round(9).tolist()
    [1.0, 3.0]
    """
    b = _floats(bias_gradient)
    system = _floats(weighted_posteriors).T - np.diag(_floats(factors))
    return _solve_with_total(system, total * b, np.ones(b.shape[-1]), total)


def recover_multi_label(bias_gradient: ArrayLike, posterior: ArrayLike, total: int) -> Floats:
    """Solve ``N b_i = N q_i - c_i``, class by class: binary cross-entropy per label.

    The loss is summed over labels and averaged over the batch; torch's plain mean divides by K
    more, so multiply its gradient by K first. Counts need not sum to N here.

    Args:
        bias_gradient: b, ``*R x K``.
        posterior: q, the batch mean of sigmoid(logits), ``*R x K``.
        total: N.

    >>> recover_multi_label([0.25, -0.5], [0.5, 0.5], 4).tolist()
    [1.0, 4.0]
    """
    return recover_from_mean(bias_gradient, posterior, total)


def recover_binary(bias_gradient: ArrayLike, posterior: ArrayLike, total: int) -> Floats:
    """Return negatives and positives behind a head with one logit under mean cross-entropy.

    ``positives = N q - N b``, with q the batch mean of sigmoid(logit); negatives are the rest.

    Args:
        bias_gradient: b, ``*R`` numbers.
        posterior: q, ``*R`` numbers.
        total: N.

    >>> recover_binary(-0.25, 0.5, 4).tolist()
    [1.0, 3.0]
    """
    positives = recover_from_mean(bias_gradient, posterior, total)
    return np.stack([total - positives, positives], axis=-1)


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _solve_with_total(system: Floats, right: Floats, row: Floats, total: int) -> Floats:
    """Solve ``system x = right`` with ``row x = total`` appended, by least squares over *R."""
    shape = (*right.shape[:-1], *system.shape[-2:])
    square = np.broadcast_to(system, shape)
    last = np.broadcast_to(row, right.shape)[..., None, :]
    ends = np.full((*right.shape[:-1], 1), float(total))
    full = np.concatenate([square, last], axis=-2)
    return np.asarray(
        np.einsum("...ij,...j->...i", np.linalg.pinv(full), np.concatenate([right, ends], axis=-1))
    )
