"""Which labels are there, from the row space of the head's weight gradient (RLG)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelleak.core.card import Card
from labelleak.core.counts import Floats, Ints, fill, smallest
from labelleak.core.interfaces import Estimate, Rule, samples
from labelleak.core.lazy import optimize, torch
from labelleak.core.needs import READS_WEIGHT
from labelleak.core.observation import Observation
from labelleak.records.assumptions import Assumption

RANK_EXCEEDED = "rank_exceeded"
CUT_SHORT = "linear_programs_cut_short"

# Inner products of rows that are held at once.
_ENTRIES = 2**22

Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
# Singular values below this many rounding errors of the gradient's own precision are noise.
_ROUNDING = 4.0
# A class counts as separable if its column, of length 1, gets this far beyond the hyperplane.
_MARGIN = 1e-3
# Certificates must hold by more than float64's own rounding.
_EXACT = 1e-10


@dataclass(frozen=True)
class RLG(Rule):
    """Name the classes whose rows a hyperplane cuts off from all others (RLG).

    The weight gradient is ``dW = E^T H / N``, row k of E being ``p_k - e_{y_k}``, which has one
    negative entry, at the label. If the N head inputs are linearly independent, the column space of
    dW is the span of E's rows, so for every label i there is a combination of its columns that
    is negative at i and at no other place. With C the first k left singular vectors, ``K x k``,
    i is taken as present iff some r has ``c_i r < 0`` and ``c_j r >= 0`` for all j != i: a linear
    program per class (Dang et al., NeurIPS 2021). Any activation will do, in any training state.

    For exact gradients with ``N < min(D, K)`` no present class is missed. The converse is weaker:
    absent classes are ruled out for sure if no label comes twice and two classes are absent (each
    label's value is then an average of the absent ones'); repeated labels make combinations
    that can single out an absent class, and do so more the nearer N is to K. D counts the head
    inputs that some sample excites: in an untrained ReLU network half may be dead, and then
    present classes are missed. At ``N >= min(D, K)`` a note says that the assumption is violated;
    once the rank is K - 1 every class is separable.
    Noise fills the rank up and destroys the attack; in single precision, rounding hides labels
    that a trained model is sure of.

    RLG names a set, and counts are made of it so: every class present gets one label, and the
    rest goes to them in proportion to the lengths of their rows of dW, rounded. If more classes are
    present than N, the N with the longest columns in C are kept. If none is (an all-zero
    update), labels are spread over all classes by row length, so evenly.

    Cost: one singular value decomposition a trial and K^2 k products, which settle nearly all
    classes of an untrained model by certificates: ``r = -c_i`` may do, or a dual vector show that
    nothing does. Classes left open get a linear program each (8 ms at K = 100 and k = 64, 1 s at
    K = 1000 and k = 256), those with the longest columns first, until `effort` is spent. Then the
    next longest are taken as present until there are k, and a note says so.

    Attributes:
        effort: entries of linear programs a trial, K k each; the default takes some 20 s at most.
    """

    effort: int = 5_000_000

    name = "rlg"
    needs = READS_WEIGHT
    cite = "Dang et al., NeurIPS 2021"
    card = Card(
        "RLG",
        frozenset(
            {
                Assumption.HARD_LABELS,
                Assumption.FEW_SAMPLES,
                Assumption.FEW_CLASSES,
                Assumption.LOW_RANK,
            }
        ),
        plain="Looks for a plane that separates a class's gradient row from all other rows.",
    )

    def answer(self, observation: Observation) -> Estimate:
        """Look for separable rows, trial by trial."""
        assert observation.weight is not None
        total = samples(observation)
        gradient = observation.weight.detach().cpu().double().numpy()
        left, powers, _ = np.linalg.svd(gradient, full_matrices=False)
        precision = torch.finfo(observation.weight.dtype).eps
        least = _ROUNDING * precision * np.sqrt(max(gradient.shape[-2:])) * powers[..., :1]
        ranks = np.minimum((powers > least).sum(axis=-1), total)
        present = np.zeros((*observation.trials, observation.num_classes), dtype=bool)
        reach = np.zeros(present.shape)
        # A head input that no sample excites (a dead ReLU) leaves a column of zeros.
        alive = (gradient != 0).any(axis=-2).sum(axis=-1).min()
        notes = {RANK_EXCEEDED} if total >= min(observation.num_classes, alive) else set()
        for trial in np.ndindex(observation.trials):
            rows = left[trial][:, : ranks[trial]]
            reach[trial] = np.square(rows).sum(axis=1)
            present[trial], cut = separable_rows(rows, self.effort)
            notes |= {CUT_SHORT} if cut else set()
        counts = _spread(present, reach, np.linalg.norm(gradient, axis=-1), total)
        return Estimate(counts, present + reach, tuple(sorted(notes)))


def separable_rows(rows: Floats, effort: int) -> tuple[Mask, bool]:
    """Mark the rows that a hyperplane through 0 strictly separates from all others.

    Row i is settled without a linear program if ``r = -c_i`` separates it already, or if the
    orthogonal complement of the columns holds a u with ``u_i > 0`` and ``u_j <= 0`` elsewhere:
    then ``u_i (c_i r) = -sum_{j != i} u_j (c_j r) >= 0`` whenever all other ``c_j r >= 0``.
    Tried is ``u = e_i - b q``, both projected on the complement, with q that of all ones and
    the smallest b that will do.

    Args:
        rows: c, ``K x k`` with orthonormal columns.
        effort: entries, K k each, of the linear programs that rows left open may get, the longest
            rows first; then the longest are marked unseen until k are.

    Returns:
        The mark of each row, and whether effort ran out.

    >>> rows, _ = np.linalg.qr(np.array([[-0.7], [0.3], [0.4]]))
    >>> separable_rows(np.abs(rows) * [[-1], [1], [1]], 0)[0].tolist()
    [True, False, False]
    """
    own = np.empty(len(rows))
    separable, open_ = np.zeros((2, len(rows)), dtype=bool)
    ones = 1 - rows @ rows.sum(axis=0)
    step = max(1, _ENTRIES // len(rows))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        own[part], separable[part], open_[part] = _certify(rows, part, ones)
    waiting = np.flatnonzero(open_)
    waiting = waiting[np.argsort(-own[waiting], kind="stable")]
    affordable = effort // max(rows.size, 1)
    for row in waiting[:affordable]:
        separable[row] = _is_separable(rows, int(row))
    missing = max(rows.shape[1] - int(separable.sum()), 0)
    separable[waiting[affordable:][:missing]] = True
    return separable, len(waiting) > affordable


def _certify(rows: Floats, part: slice, ones: Floats) -> tuple[Floats, Mask, Mask]:
    """Return squared lengths of a part's rows, which are separable, and which stay unsettled."""
    inner = rows[part] @ rows.T
    place = np.arange(len(inner)), np.arange(len(rows))[part]
    own = inner[place].copy()
    inner[place] = -np.inf
    separable = (own > _EXACT) & (inner.max(axis=1) <= _EXACT * own)
    open_ = ~separable & (own > _EXACT)
    if (ones > 0).all():
        inner[place] = np.inf
        least = (-inner / ones).max(axis=1)
        open_ &= 1 - own - least * ones[part] <= _EXACT
    return own, separable, open_


def _is_separable(rows: Floats, row: int) -> bool:
    """Solve the linear program of one row: how far can it get while all others stay behind?"""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > _EXACT)
    others = np.delete(unit, row, axis=0)
    found = optimize.linprog(unit[row], A_ub=-others, b_ub=np.zeros(len(others)), bounds=(-1, 1))
    return found.fun is not None and found.fun < -_MARGIN


def _spread(present: Mask, reach: Floats, norms: Floats, total: int) -> Ints:
    """Return each class present one label, and the rest in proportion to row lengths."""
    chosen = present & smallest(np.where(present, -reach, np.inf), total)
    one = chosen.astype(np.int64)
    among = chosen | ~chosen.any(axis=-1, keepdims=True)
    lengths = np.where(among, norms, 0.0)
    whole = lengths.sum(axis=-1, keepdims=True)
    wanted = total * np.divide(lengths, whole, out=np.zeros_like(lengths), where=whole > 0)
    owed = np.where(among, wanted - one, -2.0 * total - 2.0)
    return one + fill(-owed, 1.0, total - one.sum(axis=-1, keepdims=True))


__all__ = ["RLG", "separable_rows"]
