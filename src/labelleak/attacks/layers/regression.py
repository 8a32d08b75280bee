"""Counts by least squares of the gradient of all layers on class means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from labelleak.attacks.layers.class_means import ClassMeans
from labelleak.attacks.layers.reading import LayerReader, joined, refuse_nothing
from labelleak.attacks.regression import GradientRegression
from labelleak.core.card import Card
from labelleak.core.counts import Floats, round_counts
from labelleak.core.interfaces import Attack, Estimate, Prepared, samples
from labelleak.core.knowledge import Knowledge
from labelleak.core.mixtures import mixture_shares
from labelleak.core.needs import OWN_DATA, Need
from labelleak.core.observation import Observation
from labelleak.records.assumptions import MEASURED

# Variance of a class's share before the update is seen, times K; as of the shadow attack's batches.
_SPREAD = 0.2


@dataclass(frozen=True)
class LayerRegression(Attack):
    """Explain the gradient of all layers as the likeliest mixture of class means.

    A sample of class c adds on average ``M_c`` to the gradient of all layers, and varies around it
    with covariance S within its class. So a batch's mean g varies with ``S / N`` around
    ``sum_c x_c M_c``, and the shares x >= 0, sum x = 1, are those of the least::

        N (g - x M) S^-1 (g - x M)^T + K / 0.2 |x - 1/K|^2

    the second term a weak prior that the shares are even. Gradients are compared in sketches
    (`labelleak.core.sketches`). The head is read where it was shared and sums to zero over classes;
    without it, the layers below say nearly as much.

    Assumes auxiliary data like the client's, one step (or steps that barely move the model) and
    gradients that no noise was added to: what S calls quiet, it trusts.

    Edge cases: a class without auxiliary data is modelled by all of them. Layers that did not move
    in any trial are not read. In train mode batch normalisation makes the means those of mixed
    batches.

    Cost: one forward and backward pass over n auxiliary samples, n R numbers of memory for R
    sketched ones, and a system of at most 1,000 samples for each set of layers that is met;
    ``K R`` and a K x K non-negative least squares a trial.
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
        measure = ClassMeans.plain if self._plain else ClassMeans.measure
        systems: dict[tuple[str, ...], ClassMeans] = {}

        def answer(observation: Observation) -> Estimate:
            total, shown = samples(observation), reader.shown(observation)
            names = tuple(shown)
            refuse_nothing(names, self.name)
            if names not in systems:
                rows = joined(reader.table.rows, names)
                systems[names] = measure(rows, reader.data.labels, num_classes)
            seen = joined(reader.sketch(shown), names)
            prior = 0.0 if self._plain else 1 / total
            shares = shares_of(systems[names], systems[names].onto(seen), prior)
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


def shares_of(system: ClassMeans, onto: Floats, weight: float) -> Floats:
    """Return the shares of the least misfit with its prior of some weight, ``T x K``."""
    gram = system.gram.numpy()
    classes = len(gram)
    prior = weight * classes / _SPREAD
    gram = (gram + gram.T) / 2 + prior * np.eye(classes)
    onto = onto + prior / classes
    # A constant of the misfit that makes it a squared length: no shares have a negative one.
    size = np.einsum("tk,tk->t", onto, np.linalg.lstsq(gram, onto.T)[0].T)
    return mixture_shares(gram, onto, size)


__all__ = ["LayerRegression", "PlainLayerRegression", "shares_of"]
