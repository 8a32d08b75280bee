"""Regression on all layers by who knows the defense: its own batches pass through it first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np

from labelleak.attacks.adaptive import AdaptiveLLGStar, AdaptiveRegression, fit_counts
from labelleak.attacks.layers.class_means import STEADIES, ClassMeans
from labelleak.attacks.layers.reading import LayerReader, joined, refuse_nothing
from labelleak.attacks.layers.regression import LayerRegression
from labelleak.attacks.layers.simulated import Half, halve, simulate
from labelleak.attacks.shadow.bridges import groups_of
from labelleak.attacks.shadow.layer_clients import LayerClient
from labelleak.core.counts import Floats
from labelleak.core.interfaces import Estimate, Prepared, samples
from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import Tensor
from labelleak.core.needs import Need
from labelleak.core.observation import Observation
from labelleak.core.rounding import round_counts
from labelleak.core.training import FullTraining


class AdaptiveLayerRegression(AdaptiveRegression):
    """Regress counts on what the defended gradient of every layer shows of every class.

    As `AdaptiveRegression`, with the scores ``M S^-1 g`` of `LayerRegression` as features, those of
    the head and of up to three groups of layers apart: batches of the attacker's own pass through
    the defense on all layers, and the counts are regressed on their scores, linearly. How much of
    the covariance S is trusted is chosen by how well the line of one half of the batches reads the
    other. So where a defense adds noise alike to all entries, the scores become those of the
    matched filter, and a layer that it changed more weighs less.

    Assumes auxiliary data like the client's, one step and the client's first round.

    Edge cases: a class without auxiliary data is modelled by all of them. The head is read as it
    was shared, whatever the defense did to it.

    Cost: a backward pass over the auxiliary data, ``batches`` defended updates of the whole model
    for each N, and a system of at most 1,000 samples for each set of layers that is met.
    """

    name = "layer_regression_adaptive"
    needs = LayerRegression.needs | {Need.DEFENSE}
    cite = "labelleak (least squares on defended gradients of every layer)"
    card = AdaptiveLLGStar.card.renamed(
        "regression on all layers, adaptive",
        "As regression on all layers, measured through the client's defense.",
        quick_up_to=LayerRegression.card.quick_up_to,
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Pass the auxiliary data once; imitate batches for each N that is met."""
        assert known.model is not None
        assert known.auxiliary is not None
        assert known.defense is not None
        reader = LayerReader.of(known, num_classes, rng)
        client = LayerClient(known.model, known.auxiliary, FullTraining(), known.defense)
        seed = int(rng.integers(2**31))
        divided = halve(reader, np.random.default_rng(seed))

        @cache
        def halves(total: int) -> list[Half]:
            own = np.random.default_rng([seed, total])
            return simulate(reader, total, self.batches, divided, own, client)

        @cache
        def fit(total: int, names: tuple[str, ...]) -> Callable[[Mapping[str, Tensor]], Floats]:
            return _fit(reader, halves(total), names, self.ridge)

        def answer(observation: Observation) -> Estimate:
            total, shown = samples(observation), reader.shown(observation, changed=True)
            names = tuple(shown)
            refuse_nothing(names, self.name)
            counts = fit(total, names)(reader.sketch(shown))
            counts = counts.reshape(*observation.trials, num_classes)
            return Estimate(round_counts(counts, total), counts)

        return answer


def _fit(
    reader: LayerReader, halves: list[Half], names: tuple[str, ...], ridge: float
) -> Callable[[Mapping[str, Tensor]], Floats]:
    """Return the line from gradients to counts, by the weighting that reads other batches best."""
    first, second = (half.counts for half in halves)
    groups = _groups(reader, names)
    each = [_scores(half, groups) for half in halves]
    tried = []
    for steady, one, other in zip(STEADIES, *each, strict=True):
        asr = halves[0].named(fit_counts(other, second, ridge)(one))
        asr += halves[1].named(fit_counts(one, first, ridge)(other))
        tried.append((asr, steady, np.concatenate([one, other])))
    _, steady, scores = max(tried, key=lambda found: found[0])
    line = fit_counts(scores, np.concatenate([first, second]), ridge)
    labels, classes = reader.data.labels, reader.num_classes
    systems = [
        (group, ClassMeans.measure(joined(reader.table.rows, group), labels, classes, steady))
        for group in groups
    ]
    return lambda seen: line(
        np.concatenate([system.onto(joined(seen, group)) for group, system in systems], axis=1)
    )


def _scores(half: Half, groups: Sequence[tuple[str, ...]]) -> list[Floats]:
    """Return the scores of a half's batches in all groups, for each of the ridges."""
    each = [[own for _, own in half.onto(group, STEADIES)] for group in groups]
    return [np.concatenate(parts, axis=1) for parts in zip(*each, strict=True)]


def _groups(reader: LayerReader, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return what is scored apart, since a defense may change some layers more than others."""
    head = tuple(name for name in names if name in reader.head)
    below = groups_of([name for name in names if name not in reader.head])
    return [*below, *([head] if head else [])]


__all__ = ["AdaptiveLayerRegression"]
