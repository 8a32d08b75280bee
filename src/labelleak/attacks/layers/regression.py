"""Counts by least squares of the gradient of all layers on class means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from labelleak.attacks.layers.class_means import ClassMeans
from labelleak.attacks.layers.reading import LayerReader, joined, refuse_nothing
from labelleak.core.card import MANY_CLASSES, Card
from labelleak.core.counts import Floats, round_counts
from labelleak.core.interfaces import Estimate, Knowledge, Need, Prepared, samples
from labelleak.core.mixtures import mixture_shares
from labelleak.core.observation import Observation
from labelleak.records.assumptions import MEASURED

Measure = Callable[[LayerReader, Sequence[str]], ClassMeans]
# Variance of a class's share before the update is seen, times K; as of the shadow attack's batches.
_SPREAD = 0.2


@dataclass(frozen=True)
class LayerRegression:
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

    name: ClassVar[str] = "layer_regression"
    needs: ClassVar[frozenset[Need]] = frozenset(
        {Need.NUM_SAMPLES, Need.MODEL, Need.AUXILIARY, Need.FULL_GRADIENT}
    )
    cite: ClassVar[str] = "labelleak (least squares on class means of every layer)"
    card: ClassVar[Card] = Card(
        "regression on all layers",
        MEASURED,
        standard=True,
        quick_up_to=MANY_CLASSES,
        plain="As gradient regression, on the gradient of every layer and not of the last alone.",
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Pass the auxiliary data once; the systems wait for the first update of each kind."""
        return self._prepare(known, num_classes, rng, _measure, 1.0)

    def _prepare(
        self,
        known: Knowledge,
        num_classes: int,
        rng: np.random.Generator,
        measure: Measure,
        prior: float,
    ) -> Prepared:
        reader = LayerReader.of(known, num_classes, rng)
        systems: dict[tuple[str, ...], ClassMeans] = {}

        def answer(observation: Observation) -> Estimate:
            total, shown = samples(observation), reader.shown(observation)
            names = tuple(shown)
            refuse_nothing(names, self.name)
            if names not in systems:
                systems[names] = measure(reader, names)
            seen = joined(reader.sketch(shown), names)
            shares = _shares(systems[names], systems[names].onto(seen), prior / total)
            counts = total * shares
            counts = counts.reshape(*observation.trials, num_classes)
            return Estimate(round_counts(counts, total), counts)

        return answer


@dataclass(frozen=True)
class PlainLayerRegression(LayerRegression):
    """Explain the gradient of all layers as the nearest mixture of class means, plainly.

    Least squares with every entry alike and no prior: what `LayerRegression` is measured against,
    and how much a textbook method reads below the head.

    Assumes what `LayerRegression` does. Edge cases and cost are its too.
    """

    name: ClassVar[str] = "layer_least_squares"
    cite: ClassVar[str] = "labelleak (plain least squares on class means of every layer)"
    card: ClassVar[Card] = Card(
        "least squares on all layers",
        MEASURED,
        plain="As regression on all layers, without weighing how samples of a class differ.",
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """As `LayerRegression`."""
        return self._prepare(known, num_classes, rng, _measure_plainly, 0.0)


def _measure_plainly(reader: LayerReader, names: Sequence[str]) -> ClassMeans:
    rows = joined(reader.table.rows, names)
    return ClassMeans.plain(rows, reader.data.labels, reader.num_classes)


def _measure(reader: LayerReader, names: Sequence[str]) -> ClassMeans:
    rows = joined(reader.table.rows, names)
    return ClassMeans.measure(rows, reader.data.labels, reader.num_classes)


def _shares(system: ClassMeans, onto: Floats, weight: float) -> Floats:
    """Return the shares of the least misfit with its prior of some weight, ``T x K``."""
    gram = system.gram.numpy()
    classes = len(gram)
    prior = weight * classes / _SPREAD
    gram = (gram + gram.T) / 2 + prior * np.eye(classes)
    onto = onto + prior / classes
    # A constant of the misfit that makes it a squared length: no shares have a negative one.
    size = np.einsum("tk,tk->t", onto, np.linalg.lstsq(gram, onto.T)[0].T)
    return mixture_shares(gram, onto, size)


__all__ = ["LayerRegression", "PlainLayerRegression"]
