"""Labels from the head's bias gradient, which needs no features: EBI, LLBG, and LLG repaired."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelleak.attacks.class_sums import ones, sum_posteriors
from labelleak.core.card import Card
from labelleak.core.counts import Floats, Ints, extract_counts, smallest
from labelleak.core.interfaces import Attack, Estimate, Prepared, Rule, samples
from labelleak.core.knowledge import Knowledge
from labelleak.core.needs import OWN_DATA, READS_BIAS, READS_WEIGHT
from labelleak.core.observation import Observation
from labelleak.errors import BadInput
from labelleak.records.assumptions import MEASURED, ONE_GRADIENT, SIZES, Assumption

# A class of which a model is surer than this would take every label.
_MOST_CONFIDENT = 0.999


@dataclass(frozen=True)
class EBI(Rule):
    """LLG's rule on the bias gradient, with an impact read off its negative entries.

    A bias is a weight whose input is always 1, so ``b_i = (sum_k p_i - c_i) / N`` is LLG's row
    sum for any activation. The impact is ``m = (1 / N) sum of the negative b_i``.

    Assumes a nearly uniform prediction and a batch whose negative classes carry most of it; for
    balanced batches with N >> K the impact is too small, as LLG's, and labels pile up.

    Edge cases as LLG's: an all-zero update gives even counts. Cost: ``K log K`` a trial.
    """

    name = "ebi"
    needs = READS_BIAS
    cite = "Bock et al., 2025 (arXiv 2505.20924), after LLG"
    card = Card(
        "EBI",
        ONE_GRADIENT | {Assumption.BIAS, Assumption.FEW_SAMPLES},
        standard=True,
        plain="Counts labels by how far each class's bias gradient lies below zero.",
    )

    def answer(self, observation: Observation) -> Estimate:
        """Hand out N labels by the impact that the negative entries give."""
        b, total = observation.bias_gradient, samples(observation)
        impact = np.minimum(b, 0.0).sum(axis=-1, keepdims=True) / total
        return Estimate(extract_counts(b, impact, 0.0, total), -b)


@dataclass(frozen=True)
class LLBG(Rule):
    """LLG's rule on the bias gradient, with the impact that theory gives: ``m = -(1 - v) / N``.

    One more sample of class i lowers b_i by ``(1 - p_i) / N``; v is the model's average
    confidence in the right class. Negative entries are present (exactly so, whatever
    the activation), then each next label goes to the smallest b_i, which rises by -m.

    No offset is subtracted. With equal posteriors p_i = 1/K it would be the same
    for all classes, and a constant never changes which class is smallest; so at v = 0 the answer is
    N (1/K - b) rounded, apart from the one label owed to every negative entry.

    Assumes a nearly uniform prediction. On a trained model the answer drifts towards even counts,
    which flatters it on balanced batches. The scale of the gradient must be right.

    Edge cases: an all-zero update gives even counts; more negative entries than N, one each to
    the most negative N. Cost: ``K log K`` a trial.

    Attributes:
        confidence: v in [0, 1); 0 suits an untrained model, the paper tries 0.5 to 0.9 on trained.
    """

    confidence: float = 0.0

    name = "llbg"
    needs = READS_BIAS
    cite = "Gat & Sharif, AISec 2024"
    card = Card(
        "LLBG",
        ONE_GRADIENT | SIZES | {Assumption.BIAS},
        standard=True,
        plain="Counts labels from the bias gradient, as if the model were untrained.",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.confidence < 1:
            raise BadInput(f"the confidence must lie in [0, 1), not {self.confidence}")

    def answer(self, observation: Observation) -> Estimate:
        """Hand out N labels by the impact of the confidence."""
        b, total = observation.bias_gradient, samples(observation)
        impact = -(1 - self.confidence) / total
        return Estimate(extract_counts(b, impact, 0.0, total), -b)


@dataclass(frozen=True)
class LLBGMeasured(Attack):
    """LLBG with the confidence of each class measured on auxiliary data: ``m_c = -(1 - v_c) / N``.

    v_c is the mean posterior of class c over the attacker's own samples of it. As in `LLBG`,
    negative entries get one label each and rise by ``(1 - v_c) / N``; then each next label goes
    to the class with the smallest entry, which rises by its own impact. What samples of other
    classes add is not corrected for; `PPLR` does that too.

    Assumes auxiliary data like the client's, and one step or steps that barely move the model.

    Edge cases: a class without auxiliary data takes the mean confidence of the others. The
    confidence is held to 0.999 at most, since at 1 one class would take all labels. An
    all-zero update gives counts as ``1 / (1 - v_c)``. Cost: one pass over the auxiliary data once;
    N searches over K classes a trial, for all trials at once.
    """

    name = "llbg_measured"
    needs = READS_BIAS | OWN_DATA
    cite = "Gat & Sharif, AISec 2024 (confidences of auxiliary data)"
    card = Card(
        "LLBG, measured",
        MEASURED | {Assumption.BIAS},
        plain="As LLBG, with the model's certainty measured on the attacker's own data.",
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Pass the auxiliary data once and keep a confidence a class."""
        passes, labels = known.stream_own(int(rng.integers(2**31)))
        (sums,) = sum_posteriors(passes, labels.cpu().numpy(), ones, double=True)
        sizes = sums.sizes
        mean = sums.own / np.maximum(sizes, 1)
        anywhere = sums.own.sum() / sizes.sum()
        confidence = np.minimum(np.where(sizes > 0, mean, anywhere), _MOST_CONFIDENT)

        def answer(observation: Observation) -> Estimate:
            b, total = observation.bias_gradient, samples(observation)
            return Estimate(_hand_out(b, (1 - confidence) / total, total), -b)

        return answer


def _hand_out(values: Floats, steps: Floats, total: int) -> Ints:
    """Run LLG's two stages label by label, each class with a step of its own, ``K`` numbers."""
    present = values < 0
    counts = (present & smallest(np.where(present, values, np.inf), total)).astype(np.int64)
    left = total - counts.sum(axis=-1, keepdims=True)
    for number in range(int(left.max(initial=0))):
        lowest = (values + counts * steps).argmin(axis=-1)[..., None]
        more = np.take_along_axis(counts, lowest, axis=-1) + (number < left)
        np.put_along_axis(counts, lowest, more, axis=-1)
    return counts


@dataclass(frozen=True)
class LLGRepaired(Rule):
    """LLG with the impact that a shared bias gradient gives: ``m = -H / N``.

    Row sums and bias entries differ by the sum of the head inputs, ``g_i ~ H b_i``, so its mean
    has the size ``sum_i |g_i| / sum_i |b_i|`` and the sign of ``sum_i g_i b_i``. For a uniform
    prediction one more sample of class i lowers ``g_i sign(H)`` by ``|H| / N``; this is exact
    where LLG's own impact fades as a batch gets balanced, and where H < 0 turns LLG upside down.

    Assumes head inputs with much the same sum, well away from 0, and a nearly uniform prediction.

    Edge cases: an all-zero bias gradient leaves the impact 0, and labels go evenly to the
    classes tied at the smallest row sum. Cost: ``K D`` a trial.
    """

    name = "llg_repaired"
    needs = READS_WEIGHT | READS_BIAS
    cite = "labelleak, after Wainakh et al., PoPETs 2022"
    card = Card(
        "repaired LLG",
        ONE_GRADIENT | SIZES | {Assumption.BIAS, Assumption.NON_NEGATIVE_INPUTS},
        standard=True,
        plain="As LLG, with the pull of one label taken from the shared bias gradient.",
    )

    def answer(self, observation: Observation) -> Estimate:
        """Hand out N labels by the impact that the bias gradient gives."""
        g, b, total = observation.row_sums, observation.bias_gradient, samples(observation)
        g = np.where((g * b).sum(axis=-1, keepdims=True) < 0, -g, g)
        rows = np.abs(g).sum(axis=-1, keepdims=True)
        biases = np.abs(b).sum(axis=-1, keepdims=True)
        usable = biases > np.finfo(np.float64).tiny
        feature_sum = np.where(usable, rows / np.where(usable, biases, 1.0), 0.0)
        return Estimate(extract_counts(g, -feature_sum / total, 0.0, total), -g)


__all__ = ["EBI", "LLBG", "LLBGMeasured", "LLGRepaired"]
