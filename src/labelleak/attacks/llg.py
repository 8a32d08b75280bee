"""Label Leakage from Gradients (Wainakh et al., PoPETs 2022) under its three threat models."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from labelleak.attacks.class_sums import input_sums, sum_posteriors
from labelleak.core.card import Card
from labelleak.core.counts import Floats, Ints, extract_by_own_impact, extract_counts
from labelleak.core.interfaces import Attack, Estimate, Prepared, Rule, samples
from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import Tensor, torch
from labelleak.core.needs import OWN_DATA, READS_WEIGHT, Need
from labelleak.core.observation import Observation
from labelleak.core.white_box import HeadPass, WhiteBox
from labelleak.errors import NotApplicable
from labelleak.records.assumptions import MEASURED, ONE_GRADIENT, Assumption

NO_IMPACT = "impact_not_negative"


@dataclass(frozen=True)
class LLG(Rule):
    """Read labels off the row sums of the head's weight gradient; nothing else is needed.

    For softmax cross-entropy and head inputs h >= 0, a row sum ``g_i = sum_j dW_ij`` is
    negative only if class i is in the batch (P1), and falls by about the same impact m with
    each sample of the class (P2), ``g_i ~ c_i m``. The impact is estimated
    from the update: ``m = (1 + 1/K) / N * sum of the negative g_i``; offsets are taken as 0.

    Assumes head inputs that are not negative, a nearly uniform prediction (early training), and
    a batch whose negative classes carry most of it: for balanced batches with N >> K the
    impact comes out too small and the last labels pile up on one class.

    Edge cases: with more negative classes than N, the most negative N are named once each. With
    none negative (an all-zero update, say) the impact is 0 and labels go evenly to the classes
    tied at the smallest row sum. K = 2 and N = 1 need no special rule. N must be known.
    """

    name = "llg"
    needs = READS_WEIGHT
    cite = "Wainakh et al., PoPETs 2022"
    card = Card(
        "LLG",
        ONE_GRADIENT | {Assumption.NON_NEGATIVE_INPUTS, Assumption.FEW_SAMPLES},
        standard=True,
        plain="Sums the last layer's gradient a class: a label in the batch pulls its sum down.",
    )

    def answer(self, observation: Observation) -> Estimate:
        """Hand out N labels by the impact that the negative row sums give."""
        g, total = observation.row_sums, samples(observation)
        counts, falls = extract_by_own_impact(g, (1 + 1 / g.shape[-1]) / total, total)
        return Estimate(counts, -g, () if falls else (NO_IMPACT,))


class Dummies(Enum):
    """What the attacker feeds the model in place of data."""

    ZEROS = "zeros"
    ONES = "ones"
    UNIFORM = "uniform"
    GAUSSIAN = "gaussian"

    def __repr__(self) -> str:
        return f"Dummies.{self.name}"

    def make(self, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
        """Make dummy inputs ``n x *shape``; the random ones are drawn from the generator.

        Constant dummies come twice (one would do, but for batch norm); random ones 256 times.
        """
        if self in (Dummies.ZEROS, Dummies.ONES):
            return torch.full((2, *shape), float(self is Dummies.ONES))
        draw: Callable[..., Floats] = rng.random if self is Dummies.UNIFORM else rng.standard_normal
        return torch.from_numpy(draw(size=(256, *shape)).astype(np.float32))


def dummies_for(data: str) -> Dummies:
    """Choose dummies as the paper's experiments do: by data set, zeros where it says nothing.

    MNIST and CelebA zeros, CIFAR-100 ones, SVHN uniform noise.

    >>> dummies_for("svhn"), dummies_for("digits")
    (Dummies.UNIFORM, Dummies.ZEROS)
    """
    chosen = {"cifar100": Dummies.ONES, "svhn": Dummies.UNIFORM}
    return next((kind for name, kind in chosen.items() if name in data.lower()), Dummies.ZEROS)


@dataclass(frozen=True)
class LLGStar(Attack):
    """LLG with impact and offsets measured on the model, fed dummy inputs (LLG*).

    For every class c a batch of dummies is labelled c throughout. With the head's own
    closed form this needs one forward pass: row sum j is ``E[(p_j - 1{j=c}) H]``, H the sum
    of the head inputs. Impact ``m = (1 + 1/K) / N * mean_c E[(p_c - 1) H]``,
    offset ``s_j = mean over c != j of E[p_j H]``.

    Assumes what LLG assumes, and that dummies excite the head as data do.

    Attributes:
        dummies: what is fed; see `dummies_for` for the paper's choice.
    """

    dummies: Dummies = Dummies.ZEROS

    name = "llg_star"
    needs = READS_WEIGHT | {Need.MODEL}
    cite = "Wainakh et al., PoPETs 2022"
    card = Card(
        "LLG*",
        MEASURED | {Assumption.NON_NEGATIVE_INPUTS},
        standard=True,
        plain="As LLG, with the pull of a label measured by feeding the model made-up inputs.",
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Feed the dummies once and keep impact and offsets."""
        model = _model(known)
        seen = model.run(self.dummies.make(known.dummy_shape, rng), seed=int(rng.integers(2**31)))
        signal = _signal(seen).mean(axis=0)
        total = float(input_sums(seen).mean())
        return calibrated(Calibration(float((signal - total).mean()), signal))


@dataclass(frozen=True)
class LLGPlus(Attack):
    """LLG with impact and offsets measured on the model, fed auxiliary data (LLG+).

    As `LLGStar`, with real inputs of each class: ``m = (1 + 1/K) / N * mean_c
    E[(p_c - 1) H | y = c]`` and ``s_j = mean over c != j of E[p_j H | y = c]``. All auxiliary data
    are used, where the paper draws ten batches per class: the same estimate with less noise.
    Classes without auxiliary data are left out of both means. Samples are added up part by part.

    Assumes what LLG assumes, and auxiliary data like the client's.
    """

    name = "llg_plus"
    needs = READS_WEIGHT | OWN_DATA
    cite = "Wainakh et al., PoPETs 2022"
    card = LLGStar.card.renamed(
        "LLG+", "As LLG, with the pull of a label measured on labelled data of the attacker's own."
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Pass the auxiliary data once, in random order, and keep impact and offsets."""
        data = known.auxiliary
        assert data is not None
        order = torch.from_numpy(rng.permutation(len(data)))
        passes, labels = known.stream_own(int(rng.integers(2**31)), order=order)
        return calibrated(calibrate(passes, labels.numpy(), num_classes))


@dataclass(frozen=True, eq=False)
class Calibration:
    """What one label adds to row sums, for a batch of one.

    Attributes:
        own: mean row sum of a class in batches of that class alone, before the factor 1 + 1/K.
        offset: s, mean row sum of each class in batches of another class, K numbers.
    """

    own: float
    offset: Floats


def calibrate(passes: Iterable[HeadPass], labels: Ints, num_classes: int) -> Calibration:
    """Estimate impact and offsets from labelled head passes (LLG+).

    Args:
        passes: samples at the head, in parts.
        labels: the classes of all of them.
        num_classes: K.

    Raises:
        NotApplicable: if fewer than two classes have data, since offsets need another class.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise NotApplicable("auxiliary data must hold at least 2 classes")
    # Each sample counts as its share of its class, so that sums over samples are sums of means.
    (sums,) = sum_posteriors(passes, labels, input_sums, shares=True)
    others = np.full(num_classes, len(present))
    others[present] -= 1
    own = float((sums.own - sums.weights)[present].mean())
    return Calibration(own, (sums.whole - sums.own) / others)


def calibrated(calibration: Calibration) -> Prepared:
    """Answer by LLG's extraction with a given impact and offset."""

    def answer(observation: Observation) -> Estimate:
        factor = (1 + 1 / observation.num_classes) / samples(observation)
        impact = np.full((*observation.trials, 1), factor * calibration.own)
        return _extract(observation, impact, calibration.offset)

    return answer


def _extract(observation: Observation, impact: Floats, offset: Floats | float) -> Estimate:
    """Extract counts; an impact that is not negative explains nothing and counts as 0."""
    g = observation.row_sums
    notes = () if np.count_nonzero(impact < 0) == impact.size else (NO_IMPACT,)
    usable = np.minimum(impact, 0.0)
    counts = extract_counts(g, usable, offset, samples(observation))
    return Estimate(counts, offset - g, notes)


def _model(known: Knowledge) -> WhiteBox:
    assert known.model is not None
    return known.model


def _signal(seen: HeadPass) -> Floats:
    """p_j H for each sample and class: the row sums that a sample of another class leaves."""
    return np.asarray(seen.probabilities.double().numpy() * input_sums(seen)[:, None])
