"""Attackers who know the defense: they pass updates of their own through it before they answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from labelleak.attacks.llg import Dummies
from labelleak.core.card import Card
from labelleak.core.counts import Floats, Ints
from labelleak.core.draws import draw_each
from labelleak.core.interfaces import Attack, Estimate, Prepared, samples
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.lazy import F, torch
from labelleak.core.local_steps import as_seen
from labelleak.core.needs import OWN_DATA, READS_WEIGHT, Need
from labelleak.core.observation import Observation
from labelleak.core.rounding import round_counts
from labelleak.core.update import Scope
from labelleak.records.assumptions import MEASURED

# Imitated batches: enough that the fit's own error is small beside what N labels leave open (for
# ten classes twice as many change no ASR by more than 0.003).
BATCHES = 300


@dataclass(frozen=True, eq=False)
class _Imitation:
    """Defended updates of the attacker's own making, with the counts behind them."""

    observation: Observation
    counts: Floats


def _imitate(
    known: Knowledge, data: LabelledData, size: int, classes: int, number: int, seed: int
) -> _Imitation:
    """Draw batches of all shapes, from one class to even, and share them as the client would."""
    assert known.model is not None
    assert known.defense is not None
    rng = np.random.default_rng([seed, size])
    pools = [np.flatnonzero(data.labels.numpy() == c) for c in range(classes)]
    held = np.array([c for c, pool in enumerate(pools) if len(pool)])
    concentration = 10.0 ** rng.uniform(-1.5, 0.5, size=number)
    batches, counts = [], np.zeros((number, classes))
    for row, alpha in enumerate(concentration):
        shares = rng.dirichlet(np.full(len(held), alpha))
        labels = rng.choice(held, size=size, p=shares)
        picks = torch.from_numpy(draw_each(pools, labels, rng))
        batches.append(LabelledData(data.inputs[picks], data.labels[picks]))
        counts[row] = np.bincount(labels, minlength=classes)
    defense = known.defense
    full = defense.scope is Scope.UPDATE
    update = defense.gradients(known.model, batches, rng, full=full)
    sent, _ = defense.apply(update, rng)
    return _Imitation(as_seen(sent, known.model, size, trials=number), counts)


def _calibrated(
    known: Knowledge, data: LabelledData, classes: int, number: int, seed: int
) -> Prepared:
    """Answer by ``(g - s) / m``, impact m and offsets s fitted to imitated row sums."""

    @cache
    def line(size: int) -> tuple[float, Floats]:
        found = _imitate(known, data, size, classes, number, seed)
        g, counts = found.observation.row_sums, found.counts
        moved, centred = g - g.mean(axis=0), counts - counts.mean(axis=0)
        impact = float((moved * centred).sum() / max(float(np.square(centred).sum()), 1e-12))
        return impact, np.asarray(g.mean(axis=0) - impact * counts.mean(axis=0))

    def answer(observation: Observation) -> Estimate:
        total = samples(observation)
        impact, offset = line(total)
        gap = offset - observation.row_sums
        if impact < 0:
            return Estimate(round_counts(gap / -impact, total), gap)
        even = np.full(gap.shape, total / classes)
        return Estimate(round_counts(even, total), gap, ("impact_not_negative",))

    return answer


@dataclass(frozen=True)
class AdaptiveLLGStar(Attack):
    """LLG* whose impact and offsets are measured through the defense, on dummy inputs.

    Dummies with random labels make imitated batches; the line ``g_i = m c_i + s_i`` is fitted to
    their defended row sums. Counts are ``(g - s) / m``, rounded: LLG's first stage, a label for
    each negative row, is left out, since noise makes rows negative by chance.

    Assumes that dummies excite the head as data do, and the client's first round: what error
    feedback holds back from earlier rounds is not imitated.

    Attributes:
        dummies: what is fed.
        batches: imitated batches; one pass each.
    """

    dummies: Dummies = Dummies.UNIFORM
    batches: int = BATCHES

    name = "llg_star_adaptive"
    needs = READS_WEIGHT | {Need.MODEL, Need.DEFENSE}
    cite = "labelleak, after Wainakh et al., PoPETs 2022"
    card = Card(
        "LLG*, adaptive",
        MEASURED,
        standard=True,
        plain="As LLG*, measured through the client's defense.",
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Make the dummies; imitate batches once for each batch size that is met."""
        inputs = self.dummies.make(known.dummy_shape, rng)
        inputs = inputs.repeat(-(-num_classes // len(inputs)), *[1] * (inputs.dim() - 1))
        data = LabelledData(inputs, torch.arange(len(inputs)) % num_classes)
        return _calibrated(known, data, num_classes, self.batches, int(rng.integers(2**31)))


@dataclass(frozen=True)
class AdaptiveLLGPlus(Attack):
    """LLG+ whose impact and offsets are measured through the defense, on auxiliary data.

    As `AdaptiveLLGStar`, with batches of auxiliary data.

    Attributes:
        batches: imitated batches; one pass each.
    """

    batches: int = BATCHES

    name = "llg_plus_adaptive"
    needs = AdaptiveLLGStar.needs | {Need.AUXILIARY}
    cite = "labelleak, after Wainakh et al., PoPETs 2022"
    card = AdaptiveLLGStar.card.renamed(
        "LLG+, adaptive", "As LLG+, measured through the client's defense."
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Imitate batches once for each batch size that is met."""
        assert known.auxiliary is not None
        seed = int(rng.integers(2**31))
        return _calibrated(known, known.auxiliary, num_classes, self.batches, seed)


@dataclass(frozen=True)
class AdaptiveRegression(Attack):
    """Regress counts on what the defended head gradient shows of every class.

    Features are the row sums, the bias gradient where it is shared, and the weight gradient's
    projections on the class means ``A_c = E[(p - e_c) h^T | y = c]``, the matched filter. On
    imitated batches that passed the defense the counts are regressed on them, linearly and with a
    small ridge. So pruned and noisy features weigh as little as they tell: the noise variance
    and what is masked enter by simulation.

    Assumes auxiliary data like the client's and the client's first round.

    Attributes:
        batches: imitated batches; one pass each.
        ridge: penalty on standardised features, as a share of the imitated batches.
    """

    batches: int = BATCHES
    ridge: float = 1e-3

    name = "gradient_regression_adaptive"
    needs = OWN_DATA | {Need.DEFENSE}
    cite = "labelleak, after Ramakrishna & Dán, AISec 2022"
    card = AdaptiveLLGStar.card.renamed(
        "gradient regression, adaptive",
        "As gradient regression, measured through the client's defense.",
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Measure the class means; imitate batches once for each batch size that is met."""
        assert known.model is not None
        assert known.auxiliary is not None
        data, seed = known.auxiliary, int(rng.integers(2**31))
        seen = known.model.run_all(data.inputs, seed=seed)
        one_hot = F.one_hot(data.labels, num_classes).to(seen.inputs)
        errors = seen.probabilities - one_hot
        own = one_hot / one_hot.sum(dim=0).clamp_min(1.0)
        means = torch.einsum("nc,nk,nd->ckd", own, errors, seen.inputs).double().flatten(1)

        @cache
        def fit(size: int) -> Callable[[Observation], Floats]:
            found = _imitate(known, data, size, num_classes, self.batches, seed)
            line = fit_counts(_features(found.observation, means), found.counts, self.ridge)
            return lambda seen: line(_features(seen, means))

        def answer(observation: Observation) -> Estimate:
            total = samples(observation)
            counts = fit(total)(observation)
            return Estimate(round_counts(counts, total), counts)

        return answer


def fit_counts(features: Floats, counts: Floats | Ints, ridge: float) -> Callable[[Floats], Floats]:
    """Regress counts on features, linearly, and return what the line says of others.

    Args:
        features: ``B x F``.
        counts: ``B x K``.
        ridge: penalty on standardised features, as a share of B.
    """
    centre, spread = features.mean(axis=0), features.std(axis=0)
    usable = spread > 1e-12 * max(float(spread.max()), 1e-300)
    scale = usable / np.where(usable, spread, 1.0)
    scaled, level = (features - centre) * scale, counts.mean(axis=0)
    gram = scaled.T @ scaled + ridge * len(scaled) * np.eye(scaled.shape[1])
    slopes = np.linalg.solve(gram, scaled.T @ (counts - level))
    return lambda seen: np.asarray(level + ((seen - centre) * scale) @ slopes)


def _features(observation: Observation, means: torch.Tensor) -> Floats:
    found = []
    if observation.weight is not None:
        flat = observation.weight.detach().cpu().double().flatten(-2)
        found += [observation.row_sums, (flat @ means.T).numpy()]
    if observation.bias is not None:
        found.append(observation.bias_gradient)
    return np.concatenate(found, axis=-1)


__all__ = ["AdaptiveLLGPlus", "AdaptiveLLGStar", "AdaptiveRegression", "fit_counts"]
