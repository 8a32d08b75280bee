"""How far a guessed label distribution is from the true one: a user's, over rounds."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from labelleak.core.counts import Floats, Ints
from labelleak.core.distances import jensen_shannon
from labelleak.errors import BadInput

# What the guess is mixed with before KL, so that a class guessed absent costs a finite sum.
KL_FLOOR = 0.01
TOP = 3


@dataclass(frozen=True)
class DistributionScore:
    """Distances of a guessed label distribution q from the true one p.

    Attributes:
        l1: ``sum_i |q_i - p_i|``, from 0 to 2; twice the total variation distance.
        l_infinity: ``max_i |q_i - p_i|``.
        kl: ``sum_i p_i ln(p_i / q_i)``, with q mixed with 1 % of the even distribution.
        jensen_shannon: Jensen-Shannon distance, base 2.
        hellinger: ``sqrt(1 - sum_i sqrt(p_i q_i))``.
        cosine: cosine of the angle between p and q.
        majority: whether the class with the largest share is named; ties count as named.
        top3: share of the three largest classes (of those present, if fewer) that are among
            the three largest of the guess.
        absent_found: share of the absent classes that the guess has below half a sample; None if
            every class is present.
        absent_wrong: share of the present classes that the guess takes for absent.
    """

    l1: float
    l_infinity: float
    kl: float
    jensen_shannon: float
    hellinger: float
    cosine: float
    majority: bool
    top3: float
    absent_found: float | None
    absent_wrong: float

    def keys(self) -> dict[str, float | bool | None]:
        """Return the distances by name, as records hold them."""
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(self).items()}


def compare_distributions(guess: ArrayLike, counts: ArrayLike) -> DistributionScore:
    """Compare a guessed label distribution with the labels that a user holds.

    Args:
        guess: K shares, none negative, that sum to 1.
        counts: K label counts of the user.

    Raises:
        BadInput: for shapes that differ, a user without labels, or shares that are none.

    >>> found = compare_distributions([0.5, 0.5, 0.0], [3, 1, 0])
    >>> found.l1, found.majority, found.absent_found
    (0.5, True, 1.0)
    """
    q, held = np.asarray(guess, dtype=np.float64), np.asarray(counts, dtype=np.int64)
    _check(q, held)
    samples = int(held.sum())
    p, there = held / samples, held > 0
    named_absent = q * samples < 0.5
    mixed = (1 - KL_FLOOR) * q + KL_FLOOR / len(q)
    off = np.abs(q - p)
    most = min(TOP, int(there.sum()))
    largest = set(np.argsort(-p, kind="stable")[:most].tolist())
    guessed = set(np.argsort(-q, kind="stable")[:TOP].tolist())
    return DistributionScore(
        l1=float(off.sum()),
        l_infinity=float(off.max()),
        kl=float((p[there] * np.log(p[there] / mixed[there])).sum()),
        jensen_shannon=float(jensen_shannon(q, p)),
        hellinger=float(np.sqrt(max(0.0, 1 - np.sqrt(p * q).sum()))),
        cosine=float(p @ q / (np.linalg.norm(p) * np.linalg.norm(q))),
        majority=bool(p[int(q.argmax())] == p.max()),
        top3=len(largest & guessed) / most,
        absent_found=None if there.all() else float(named_absent[~there].mean()),
        absent_wrong=float(named_absent[there].mean()),
    )


def _check(shares: Floats, counts: Ints) -> None:
    if shares.ndim != 1 or shares.shape != counts.shape or len(shares) < 2:
        raise BadInput(f"shares of shape {shares.shape} came with counts of {counts.shape}")
    if counts.min() < 0 or counts.sum() < 1:
        raise BadInput("a user holds at least one label, and of no class fewer than none")
    if not (np.isfinite(shares).all() and shares.min() >= 0 and abs(shares.sum() - 1) < 1e-6):
        raise BadInput("shares must not be negative and must sum to 1")


__all__ = ["DistributionScore", "compare_distributions"]
