"""Shares of classes from confusions that are inverted, or solved where nothing is faint."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelleak.core.counts import Floats
from labelleak.core.many_mixtures import TOGETHER, many_mixtures
from labelleak.core.mixtures import shortest_mixture

# Directions in which classes are confused less than this (relatively) are noise, not signal.
_RANK = 1e-7
# How far from that an inverse must stay to be taken without a look at the singular values.
_CLEAR = 0.1
# Centred posteriors smaller than this leave all singular values of the system above a tenth.
_CONTRACTS = 0.9
# Row sums beyond it, relatively, are no rounding of 0.
_LEAST_SUM = 1e-9
# Entries below it would overflow once inverted.
_NOTHING = 1e-100


@dataclass(frozen=True, eq=False)
class Confusions:
    """What one sample of class c leaves in the signal, row c; and its pseudo-inverse.

    Shares x sum to 1, so they are 1/K plus a vector that sums to 0: the rows are centred over
    classes, and what they do not span stays at 1/K.
    """

    rows: Floats
    inverse: Floats

    @classmethod
    def of(cls, rows: Floats) -> Confusions:
        """Centre rows over classes and invert them, ``*R x K x K``."""
        return cls(rows, pseudo_inverse(rows - rows.mean(axis=-2, keepdims=True)))

    def plain_shares(self, signal: Floats) -> Floats:
        """Return the least-squares shares that sum to 1, negative ones among them."""
        rest = signal - self.rows.mean(axis=-2)
        shares = np.einsum("...j,...jc->...c", rest, self.inverse)
        return np.asarray(shares - shares.mean(axis=-1, keepdims=True) + 1 / shares.shape[-1])

    def shares(self, signal: Floats) -> Floats:
        """Return the least-squares shares that sum to 1 and are not negative."""
        plain = self.plain_shares(signal)
        shares = plain.reshape(-1, plain.shape[-1])
        signals = signal.reshape(shares.shape)
        below = np.flatnonzero(shares.min(axis=-1) < -_RANK)
        if below.size >= TOGETHER:
            gram, onto = self.rows @ self.rows.T, signals[below] @ self.rows.T
            shares[below], certain = many_mixtures(gram, onto)
            below = below[~certain]
        for trial in below:
            shares[trial] = shortest_mixture((self.rows - signals[trial]).T)
        return np.maximum(shares, 0.0).reshape(plain.shape)


def plain_shares(posteriors: Floats, signal: Floats) -> Floats:
    """Return `Confusions.plain_shares` of each trial's own posteriors, ``T x K x K``.

    Of posteriors that differ little between classes the system is near -1, and no direction faint:
    it is solved, which takes a third of an inverse's time.
    """
    classes = posteriors.shape[-1]
    means = posteriors.mean(axis=-2)
    centred = posteriors - means[:, None]
    near = np.sqrt(np.einsum("tij,tij->t", centred, centred)) < _CONTRACTS
    shares = np.empty(signal.shape)
    # The direction of equal shares, which centred rows leave at 0, is put at -1 as well.
    system = centred if near.all() else centred[near]
    np.einsum("tii->ti", system)[...] -= 1
    rest = signal[near] + 1 / classes - means[near]
    solved = np.linalg.solve(np.swapaxes(system, -1, -2), rest[..., None])[..., 0]
    shares[near] = solved - solved.mean(axis=-1, keepdims=True) + 1 / classes
    if not near.all():
        rows = posteriors[~near] - np.eye(classes)
        shares[~near] = Confusions.of(rows).plain_shares(signal[~near])
    return shares


def pseudo_inverse(centred: Floats) -> Floats:
    """Return the pseudo-inverse of matrices whose rows and columns all sum to 0, ``*R x K x K``.

    With u the unit vector of equal entries, ``A u = 0`` and ``u A = 0``, so where nothing else is
    lost ``pinv(A) = inv(A + s u u^T) - u u^T / s`` for any s other than 0: an inverse, which takes
    a tenth of the singular values' time. Where the inverse shows a direction that is faint, the
    singular values are taken and such directions left out.
    """
    classes = centred.shape[-1]
    scale = np.abs(centred).max(axis=(-2, -1), keepdims=True)
    usable = (scale > _NOTHING) & np.isfinite(scale)
    unit = np.where(usable, centred / np.where(usable, scale, 1.0), np.eye(classes))
    size = np.linalg.norm(unit, axis=(-2, -1), keepdims=True)
    lift = size / np.sqrt(classes)
    try:
        found = np.linalg.inv(unit + lift / classes)
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.pinv(centred, rcond=_RANK))
    # Norms over all entries bound the ratio of the singular values from above.
    clear = size * np.linalg.norm(found, axis=(-2, -1), keepdims=True) < _CLEAR / _RANK
    clear &= np.abs(unit.sum(axis=-1)).max(axis=-1)[..., None, None] < _LEAST_SUM
    found = (found - 1 / (lift * classes)) / np.where(usable, scale, 1.0)
    for place in map(tuple, np.argwhere(~(clear & usable)[..., 0, 0])):
        found[place] = np.linalg.pinv(centred[place], rcond=_RANK)
    return np.asarray(found)


__all__ = ["Confusions", "plain_shares", "pseudo_inverse"]
