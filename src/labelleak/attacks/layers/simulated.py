"""Batches of the attacker's own samples, to be measured by what its other samples show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from labelleak.attacks.by_class import by_appearance
from labelleak.attacks.layers.class_means import ClassMeans, weigh_each
from labelleak.attacks.layers.reading import LayerReader, joined
from labelleak.attacks.shadow.batches import draw_counts
from labelleak.attacks.shadow.bridges import folds_of
from labelleak.attacks.shadow.layer_clients import LayerClient, pick_samples
from labelleak.core.counts import Floats, Ints
from labelleak.core.lazy import Tensor, torch
from labelleak.core.rounding import round_counts


@dataclass(frozen=True, eq=False)
class Measure:
    """What some samples show of class means, kept for batches of every N.

    Attributes:
        reader: the samples at every layer.
        rows: places of those that are measured.
        known: what was measured so far, by parameters and ridges.
    """

    reader: LayerReader
    rows: Tensor
    known: dict[tuple[tuple[str, ...], tuple[float, ...]], list[ClassMeans]] = field(
        default_factory=dict
    )

    def of(self, names: Sequence[str], steadies: Sequence[float]) -> list[ClassMeans]:
        """Measure some parameters with each of some ridges, once."""
        key = tuple(names), tuple(steadies)
        if key not in self.known:
            self.known[key] = self._measure(names, steadies)
        return self.known[key]

    def _measure(self, names: Sequence[str], steadies: Sequence[float]) -> list[ClassMeans]:
        reader, classes = self.reader, self.reader.num_classes
        labels, products = reader.data.labels[self.rows], reader.products(names)
        if products is not None:
            inner = products[self.rows][:, self.rows]
            found = weigh_each(inner, labels, classes, steadies)
            if found is not None:
                weights, grams = (torch.stack(parts) for parts in zip(*found, strict=True))
                whitened = reader.weighted(weights.flatten(0, 1), names, self.rows)
                each = whitened.view(*weights.shape[:2], -1)
                return [ClassMeans(*pair) for pair in zip(each, grams, strict=True)]
        rows = {name: reader.table.rows[name][self.rows] for name in names}
        return ClassMeans.measure_each(joined(rows, names), labels, classes, steadies)


@dataclass(frozen=True, eq=False)
class Half:
    """Batches of one half of the samples, and what the other half shows.

    What single samples show of class means and of how they vary is not what others do, so batches
    are measured by samples that are not in them.

    Attributes:
        others: what the other half shows.
        sketches: of the batches' gradients, ``T x r`` by parameter name.
        counts: their label counts, ``T x K``.
    """

    others: Measure
    sketches: Mapping[str, Tensor]
    counts: Ints

    def named(self, counts: Floats) -> float:
        """Return the share of the batches' labels that counts name, once they are rounded."""
        total = int(self.counts[0].sum())
        guess = round_counts(counts, total)
        return float(np.minimum(guess, self.counts).sum(axis=1).mean() / total)

    def onto(self, names: Sequence[str], steadies: Sequence[float]) -> list[tuple[Tensor, Floats]]:
        """Score the batches along the class means of the other half, for each of some ridges.

        Returns:
            Inner products of those means, ``K x K``, and the batches' with them, ``T x K``.
        """
        seen = joined(self.sketches, names)
        return [(system.gram, system.onto(seen)) for system in self.others.of(names, steadies)]


def halve(reader: LayerReader, rng: np.random.Generator) -> list[tuple[Ints, Measure]]:
    """Divide the samples in two: places of each half, and what the other shows."""
    folds = folds_of(_labels(reader), 2, rng)
    found: list[tuple[Ints, Measure]] = []
    for fold in (0, 1):
        own, others = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        everything = np.arange(len(folds))  # one sample alone is in both halves
        places = torch.from_numpy(others if others.size else everything)
        found.append((own if own.size else everything, Measure(reader, places)))
    return found


def simulate(
    reader: LayerReader,
    total: int,
    number: int,
    halves: Sequence[tuple[Ints, Measure]],
    rng: np.random.Generator,
    client: LayerClient | None = None,
) -> list[Half]:
    """Make batches of N labels under a broad mixture of priors, half of them of each half.

    Args:
        reader: the attacker's samples at every layer.
        total: N.
        number: batches in all.
        halves: of the samples.
        rng: source of labels and samples.
        client: whose updates they are; None for plain gradients.
    """
    order = by_appearance(reader.data.labels, reader.num_classes)
    found = []
    for own, others in halves:
        counts = draw_counts(-(-number // 2), total, reader.num_classes, rng)
        picks = pick_samples(own, _labels(reader), counts, rng)
        sketches = reader.table.of_batches(picks) if client is None else None
        if client is not None:
            sketches = _sent(reader, client, picks, rng)
        assert sketches is not None
        found.append(Half(others, sketches, counts[:, torch.argsort(order).numpy()]))
    return found


def _labels(reader: LayerReader) -> Ints:
    """Return the samples' classes in the order in which these first come."""
    order = by_appearance(reader.data.labels, reader.num_classes)
    return np.asarray(torch.argsort(order)[reader.data.labels].numpy())


def _sent(
    reader: LayerReader, client: LayerClient, picks: Ints, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Sketch what a client sends; zeros for what it does not."""
    parts: dict[str, list[Tensor]] = {name: [] for name in reader.table.rows}
    for seen in client.share(picks, rng):
        told = reader.sketch(reader.shown(seen, changed=True))
        trials = seen.trials[0]
        for name, rows in reader.table.rows.items():
            parts[name].append(told.get(name, rows.new_zeros(trials, rows.shape[1])))
    return {name: torch.cat(own) for name, own in parts.items()}


__all__ = ["Half", "Measure", "halve", "simulate"]
