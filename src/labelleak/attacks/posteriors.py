"""Labels from the batch's mean posterior, guessed on dummies: ZLG, and FedAvg's interpolation.

For softmax cross-entropy the counts are ``c = N (p - b)`` exactly, b the bias gradient and p
the batch's mean posterior. Only p is unknown, and a model that has learnt little gives
much the same p for anything that it is fed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelleak.attacks.bounds import round_bounded
from labelleak.attacks.head_path import HeadPath, slices
from labelleak.attacks.llg import Dummies
from labelleak.core.card import Card
from labelleak.core.counts import Floats
from labelleak.core.interfaces import Attack, Estimate, Prepared, samples
from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import Tensor
from labelleak.core.needs import READS_WEIGHT, Need
from labelleak.core.observation import Observation
from labelleak.core.white_box import HeadPass
from labelleak.errors import NotApplicable
from labelleak.records.assumptions import MEASURED, TRAJECTORY

FEATURES_CANCEL = "feature_sum_near_zero"

# A mean of feature sums within this many standard errors of 0 has no sign to rely on.
_ERRORS = 3.0


@dataclass(frozen=True)
class ZLG(Attack):
    """Take the batch's mean posterior from dummies: zero-shot label restoration.

    ``c = N (p - b)`` with p the dummies' mean posterior; without a bias ``c = N (p - g / H)``
    with g the row sums and H the dummies' mean sum of head inputs, which is the paper's form.
    The bias form is preferred where it can be had: it needs no H, so dummies need not excite the
    head as data do, and features may have any sign.

    Assumes a model that answers dummies much as data, hence an untrained one, and one step.

    Edge cases: where H cannot be told from 0, row sums say nothing and the answer is N p, with
    a note. K = 2 and N = 1 need no special rule. Cost: one pass over 256 dummies (2 for
    constant ones) once, ``K D`` a trial.

    Attributes:
        dummies: what is fed.
        use_bias: use the bias gradient where there is one; False is the paper's form throughout.
    """

    dummies: Dummies = Dummies.GAUSSIAN
    use_bias: bool = True

    name = "zlg"
    needs = frozenset({Need.NUM_SAMPLES, Need.MODEL})
    cite = "Geng et al., 2021 (arXiv 2110.09074)"
    card = Card(
        "ZLG",
        MEASURED,
        standard=True,
        plain="Solves for the labels with what the model predicts on made-up inputs.",
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Feed the dummies once and keep their mean posterior and sum of head inputs."""
        seen = _feed(self.dummies, known, rng)
        posterior = _double(seen.logits.double().softmax(dim=-1).mean(dim=0))
        feature_sum = _feature_sum(seen)

        def answer(observation: Observation) -> Estimate:
            return _restore(observation, posterior, feature_sum, self.use_bias)

        return answer


@dataclass(frozen=True)
class Interpolation(Attack):
    """ZLG for several local steps: average the dummies' posterior along the client's path.

    The path is the straight line from the head that was sent to the head that came back,
    ``W - lr w gradient``, w the sum of `step_weights`. Step t stood where momentum had carried
    it, and counts with its weight, so ``c = N (sum_t w_t p_t / sum_t w_t - b)``; without a bias
    H stands in as in `ZLG`. At one step it is ZLG.

    Dimitrov et al. interpolate the posteriors of both ends; here the head is moved and
    asked again at each point, which follows a softmax that bends. Below the head dummies pass the
    model that was sent.

    Assumes what ZLG assumes, and a path that is nearly straight. An Adam client is read
    as plain SGD, as the update was.

    Edge cases as ZLG's; more than 33 steps are sampled at 33 points. Cost: one pass over the
    dummies once; ``n K (D + points)`` a trial for n dummies, in slices of trials.

    Attributes:
        dummies: what is fed.
        use_bias: use the bias gradient where there is one.
    """

    dummies: Dummies = Dummies.GAUSSIAN
    use_bias: bool = True

    name = "interpolation"
    needs = READS_WEIGHT | {Need.MODEL, Need.TRAINING}
    cite = "Dimitrov et al., TMLR 2022"
    card = Card(
        "interpolation",
        TRAJECTORY,
        plain="As ZLG, following the model's predictions along the client's local steps.",
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Feed the dummies once and keep their head inputs and logits."""
        seen = _feed(self.dummies, known, rng)
        feature_sum = _feature_sum(seen)

        def answer(observation: Observation) -> Estimate:
            path = HeadPath.of(known, observation.local_steps)
            moves = (path.moves(part) for part in slices(observation, len(seen.inputs)))
            averages = [path.mean_posterior(seen, *move) for move in moves]
            posterior = np.concatenate(averages).reshape(*observation.trials, num_classes)
            return _restore(observation, posterior, feature_sum, self.use_bias)

        return answer


def _restore(
    observation: Observation, posterior: Floats, feature_sum: float, use_bias: bool
) -> Estimate:
    """Round N (p - b), or N (p - g / H) without a bias."""
    total, notes = samples(observation), tuple[str, ...]()
    if use_bias and observation.bias is not None:
        step = observation.bias_gradient
    elif observation.weight is None:
        raise NotApplicable(f"without the bias, this attack needs {Need.WEIGHT.value}")
    elif feature_sum == 0:
        step, notes = np.zeros(observation.row_sums.shape), (FEATURES_CANCEL,)
    else:
        step = observation.row_sums / feature_sum
    counts = total * (posterior - step)
    return Estimate(round_bounded(counts, observation), counts, notes)


def _feed(dummies: Dummies, known: Knowledge, rng: np.random.Generator) -> HeadPass:
    assert known.model is not None
    return known.model.run(dummies.make(known.dummy_shape, rng), seed=int(rng.integers(2**31)))


def _feature_sum(seen: HeadPass) -> float:
    """Return the mean sum of head inputs, 0 where it cannot be told from 0."""
    sums = _double(seen.inputs).sum(axis=1)
    rounding = 1e-6 * np.abs(_double(seen.inputs)).sum(axis=1).mean()
    spread = _ERRORS * sums.std() / np.sqrt(len(sums))
    mean = float(sums.mean())
    return mean if abs(mean) > max(spread, rounding) else 0.0


def _double(tensor: Tensor) -> Floats:
    return np.asarray(tensor.detach().cpu().double().numpy())


__all__ = ["ZLG", "Interpolation"]
