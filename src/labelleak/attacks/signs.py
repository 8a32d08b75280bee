"""Labels from the signs of single entries of the head's gradient: iDLG and the row minimum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelleak.core.card import Card
from labelleak.core.counts import Floats, Ints, extract_counts
from labelleak.core.head_sums import by_rows
from labelleak.core.interfaces import Estimate, Rule, samples
from labelleak.core.lazy import torch
from labelleak.core.needs import READS_WEIGHT
from labelleak.core.observation import Observation
from labelleak.records.assumptions import ONE_GRADIENT, Assumption

# Two coefficients closer than this cannot tell which of two opposite rows is the label's.
_TIE = 1e-5


@dataclass(frozen=True)
class IDLG(Rule):
    """Name the class whose gradient points against all others'; exact for one sample.

    For one sample of class y the bias gradient is ``p - e_y``, negative at y alone. Without a
    bias the rows ``(p_i - e_yi) h`` are multiples of one vector, y's against all others'; as
    they sum to zero, y's is also the longest. Neither needs h to have a sign.

    For N > 1 this is what others call extended iDLG: the classes with a negative bias entry (or,
    without a bias, row sum, which needs h >= 0) are present, LLG's first property. iDLG
    says nothing of how often, so labels go to them in turns, the most negative first.

    Assumes softmax cross-entropy and, for exactness, N = 1 and no noise.

    Edge cases: two rows that cancel (K = 2, or a model sure of one wrong class) tell the two
    classes apart only by the sign of h, which without a bias is taken as positive. With more
    negative classes than N the most negative N get one each; with none, labels go in turns to
    the classes tied at the minimum. Cost: ``K D`` a trial.
    """

    name = "idlg"
    needs = READS_WEIGHT
    cite = "Zhao et al., 2020 (arXiv 2001.02610)"
    card = Card(
        "iDLG",
        ONE_GRADIENT
        | {Assumption.NON_NEGATIVE_INPUTS, Assumption.FEW_SAMPLES, Assumption.FEW_CLASSES},
        standard=True,
        plain="Names the one class whose gradient row points against all others.",
    )

    def answer(self, observation: Observation) -> Estimate:
        """Name the classes with negative entries, the most negative first."""
        total = samples(observation)
        if observation.bias is not None:
            signs = observation.bias_gradient
        elif total == 1:
            signs = _along_feature(observation)
        else:
            signs = observation.row_sums
        lowest = signs.min(axis=-1, keepdims=True)
        # One sample is one class, whatever else rounding left below zero.
        present = signs <= lowest
        return Estimate(_in_turns(present | ((signs < 0) & (total > 1)), signs, total), -signs)


@dataclass(frozen=True)
class RowMinimum(Rule):
    """Take a class as present if any entry of its row is negative: ``s_i = min_j dW_ij < 0``.

    With head inputs h >= 0 an absent class's row ``sum_k p_i h_k / N`` has no negative entry,
    whatever the model has learnt, and a present one's nearly always has, since some feature
    is active in samples of its class alone. That makes it the most robust test of presence
    on trained ReLU models, and the label restoration of GradInversion.

    The paper assumes that no label repeats and names the N smallest s_i. Here classes with
    s_i < 0 get one label each, the N smallest if there are more; what is left is
    shared out so that counts come nearest to shares of -s_i, a heuristic: s_i tells presence.

    Assumes h >= 0 and no dense noise; otherwise (tanh, leaky ReLU, SiLU, noise) every class looks
    present and the answer is about even.

    Edge cases: with no negative entry (an all-zero update) labels go evenly to the classes tied at
    the smallest s_i. Cost: ``K D`` comparisons a trial.
    """

    name = "row_min"
    needs = READS_WEIGHT
    cite = "Yin et al., CVPR 2021 (GradInversion)"
    card = IDLG.card.renamed(
        "row minimum", "Takes a class as present if any entry of its gradient row is negative."
    )

    def answer(self, observation: Observation) -> Estimate:
        """Name the classes whose rows have a negative entry, and share out the rest."""
        lowest = observation.sums.lowest
        total = samples(observation)
        # One label is worth as much as N of them make up in all: shares of -s_i.
        step = np.minimum(lowest, 0.0).sum(axis=-1, keepdims=True) / total
        return Estimate(extract_counts(lowest, step, 0.0, total), -lowest)


def _along_feature(observation: Observation) -> Floats:
    """Return each row's coefficient along the one feature of a single sample, the label's < 0."""
    assert observation.weight is not None
    weight = observation.weight.detach()
    longest = by_rows(weight, lambda rows: rows.square().sum(-1)).argmax(axis=-1)[..., None]
    own = torch.from_numpy(longest)[..., None].to(weight.device)
    direction = torch.take_along_dim(weight, own, dim=-2).cpu().double()
    against = -by_rows(weight, lambda rows: (rows * direction).sum(-1))
    cancels = against.max(axis=-1, keepdims=True) >= -(1 - _TIE) * against.min(-1, keepdims=True)
    if observation.num_classes == 2:
        cancels = np.ones_like(cancels)
    upward = np.take_along_axis(observation.row_sums, longest, axis=-1) > 0
    return np.asarray(np.where(cancels & upward, -against, against))


def _in_turns(present: np.ndarray, signs: Floats, total: int) -> Ints:
    """Share N labels evenly among present classes, the remainder to the most negative."""
    ranks = np.where(present, signs, np.inf).argsort(axis=-1, kind="stable").argsort(axis=-1)
    each, left = np.divmod(total, present.sum(axis=-1, keepdims=True))
    return np.asarray(present * (each + (ranks < left)), dtype=np.int64)


__all__ = ["IDLG", "RowMinimum"]
