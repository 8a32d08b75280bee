"""Counts by least squares of the gradient of all layers on class means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np

from labelleak.attacks.layers.class_means import STEADY, ClassMeans
from labelleak.attacks.layers.reading import LayerReader, joined, refuse_nothing
from labelleak.attacks.layers.simulated import Half, Measure, halve, simulate
from labelleak.attacks.regression import GradientRegression
from labelleak.core.card import Card
from labelleak.core.counts import Floats
from labelleak.core.interfaces import Attack, Estimate, Prepared, samples
from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import Tensor, torch
from labelleak.core.mixtures import mixture_shares
from labelleak.core.needs import OWN_DATA, Need
from labelleak.core.observation import Observation
from labelleak.core.rounding import round_counts
from labelleak.records.assumptions import MEASURED

# Variance of a class's share before the update is seen, times K; as of the shadow attack's batches.
_SPREAD = 0.2
# Ridges of the covariance with weights of the prior, which larger ridges need less of; and the
# batches by which one is chosen: so many rows of counts, within these numbers of batches.
_WEIGHTINGS = ((STEADY, 1.0), (STEADY, 0.1), (4e-3, 0.3), (1.0, 3e-4))
_ROWS, _FEWEST, _MOST = 480, 8, 48


@dataclass(frozen=True)
class LayerRegression(Attack):
    """Explain the gradient of all layers as the likeliest mixture of class means.

    A sample of class c adds on average ``M_c`` to the gradient of all layers, and varies around it
    with covariance S within its class. So a batch's mean g varies with ``S / N`` around
    ``sum_c x_c M_c``, and the shares x >= 0, sum x = 1, are those of the least::

        N (g - x M) S^-1 (g - x M)^T + w K / 0.2 |x - 1/K|^2

    the second term a prior that the shares are even. What a trained model answers wrongly makes S
    and M the work of few samples, so how much of S is trusted, from the covariance within classes
    to all entries alike, and how strong the prior w is, are chosen by what names most labels of
    batches that the attacker makes of one half of its samples and reads by the other. Gradients
    are compared in sketches (`labelleak.core.sketches`). The head is read where it was shared and
    sums to zero over classes; without it, the layers below say nearly as much.

    Assumes auxiliary data like the client's, one step (or steps that barely move the model) and
    gradients that no noise was added to: what S calls quiet, it trusts.

    Edge cases: a class without auxiliary data is modelled by all of them. Layers that did not move
    in any trial are not read. In train mode batch normalisation makes the means those of mixed
    batches.

    Cost: one forward and backward pass over n auxiliary samples, n R numbers of memory for R
    sketched ones, and for each N and set of layers that is met seven systems of at most 1,000
    samples and at most 200 non-negative least squares; ``K R`` and one of those a trial.
    """

    name = "layer_regression"
    needs = OWN_DATA | {Need.FULL_GRADIENT}
    cite = "labelleak (least squares on class means of every layer)"
    card = GradientRegression.card.renamed(
        "regression on all layers",
        "As gradient regression, on the gradient of every layer and not of the last alone.",
    )
    _plain: ClassVar[bool] = False

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Pass the auxiliary data once; the systems wait for the first update of each kind."""
        reader = LayerReader.of(known, num_classes, rng)
        seed = int(rng.integers(2**31))
        everything = Measure(reader, torch.arange(len(reader.data.labels)))
        divided = halve(reader, np.random.default_rng(seed))

        @cache
        def weigh(total: int, names: tuple[str, ...]) -> tuple[ClassMeans, float]:
            if self._plain:
                rows, labels = joined(reader.table.rows, names), reader.data.labels
                return ClassMeans.plain(rows, labels, num_classes), 0.0
            number = max(_FEWEST, min(_ROWS // num_classes, _MOST))
            own = np.random.default_rng([seed, total])
            halves = simulate(reader, total, number, divided, own)
            steady, prior = choose_weighting(halves, names)
            return everything.of(names, [steady])[0], prior / total

        def answer(observation: Observation) -> Estimate:
            total, shown = samples(observation), reader.shown(observation)
            names = tuple(shown)
            refuse_nothing(names, self.name)
            system, prior = weigh(total, names)
            onto = system.onto(joined(reader.sketch(shown), names))
            shares = shares_of(system.gram, onto, prior)
            counts = (total * shares).reshape(*observation.trials, num_classes)
            return Estimate(round_counts(counts, total), counts)

        return answer


@dataclass(frozen=True)
class PlainLayerRegression(LayerRegression):
    """Explain the gradient of all layers as the nearest mixture of class means, plainly.

    Least squares with every entry alike and no prior: what `LayerRegression` is measured against,
    and how much a textbook method reads below the head.

    Assumes what `LayerRegression` does. Edge cases and cost are its too.
    """

    name = "layer_least_squares"
    cite = "labelleak (plain least squares on class means of every layer)"
    card = Card(
        "least squares on all layers",
        MEASURED,
        plain="As regression on all layers, without weighing how samples of a class differ.",
    )
    _plain = True


def choose_weighting(halves: Sequence[Half], names: Sequence[str]) -> tuple[float, float]:
    """Return the ridge and the prior's weight by which most labels of own batches are named."""
    total = int(halves[0].counts[0].sum())
    asr = dict.fromkeys(_WEIGHTINGS, 0.0)
    ridges = list(dict.fromkeys(steady for steady, _ in _WEIGHTINGS))
    for half in halves:
        scored = dict(zip(ridges, half.onto(names, ridges), strict=True))
        for steady, prior in _WEIGHTINGS:
            counts = total * shares_of(*scored[steady], prior / total)
            asr[steady, prior] += half.named(counts)
    return max(asr, key=lambda weighting: asr[weighting])


def shares_of(inner: Tensor, onto: Floats, weight: float) -> Floats:
    """Return the shares of the least misfit with its prior of some weight, ``T x K``.

    Args:
        inner: inner products of the class means, ``K x K``.
        onto: those of the gradients with them, ``T x K``.
        weight: of the prior.
    """
    gram = inner.numpy()
    classes = len(gram)
    prior = weight * classes / _SPREAD
    gram = (gram + gram.T) / 2 + prior * np.eye(classes)
    onto = onto + prior / classes

    def size() -> Floats:
        # A constant of the misfit that makes it a squared length: no shares have a negative one.
        return np.asarray(np.einsum("tk,tk->t", onto, np.linalg.lstsq(gram, onto.T)[0].T))

    return mixture_shares(gram, onto, size)


__all__ = ["LayerRegression", "PlainLayerRegression", "choose_weighting", "shares_of"]
