"""Lower layers read as heads: learnt maps from back-propagated signals to errors at the logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from labelleak.attacks.layers.class_means import STEADY, ClassMeans, solve_steadied, weigh_each
from labelleak.attacks.layers.reading import LayerReader, joined
from labelleak.core.lazy import F, Tensor, torch

# Layers that are read as heads, the nearest to it; groups of layers that are scored.
_HEADS, _GROUPS = 2, 3
# In how many ways `score_features` writes a score.
_FORMS = 4
_WIDEST = 2048
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Scores:
    """How sketches of a group of layers are scored: two numbers a class.

    Attributes:
        names: the group's parameters.
        reader: the samples at every layer.
        products: inner products of all samples' sketches, where they are at hand.
        weights: the map's columns as weighted sums of all samples' sketches then, ``2 K x n``.
        plain: the map itself else, ``R x 2 K``.
    """

    names: tuple[str, ...]
    reader: LayerReader
    products: Tensor | None
    weights: Tensor | None
    plain: Tensor | None

    @classmethod
    def learn(
        cls,
        reader: LayerReader,
        names: tuple[str, ...],
        products: Tensor | None,
        errors: Tensor,
        labels: Tensor,
        rows: Tensor,
    ) -> Scores:
        """Learn from some of the samples; the arguments are those of `Bridges.learn`."""
        known, classes, number = errors[rows], labels[rows], errors.shape[1]
        loud = _loudness(known)
        if products is not None:
            inner = products[rows][:, rows]
            found = weigh_each(inner, classes, number, (STEADY,))
            if found is not None:
                dual = ClassMeans(*found[0]).dual()
                width = sum(reader.table.rows[name].shape[1] for name in names)
                gram = _steadied(inner / loud / loud.T, min(len(rows), width))
                error = solve_steadied(gram, known / loud) / loud
                weights = errors.new_zeros(2 * number, len(errors))
                weights[:, rows] = torch.cat([dual, error.T])
                return cls(names, reader, products, weights, None)
        sketches = joined(reader.table.rows, names)[rows]
        system = ClassMeans.measure(sketches, classes, number)
        error = _ridge(sketches / loud, known / loud)
        return cls(names, reader, None, None, torch.cat([system.dual().T, error], dim=1))

    @cached_property
    def to(self) -> Tensor:
        """The map, ``R x 2 K``."""
        if self.plain is not None:
            return self.plain
        assert self.weights is not None
        every = torch.arange(self.weights.shape[1])
        return self.reader.weighted(self.weights, self.names, every).T

    @property
    def width(self) -> int:
        """Numbers of a score, 2 K."""
        held = self.to.T if self.weights is None else self.weights
        return len(held)

    def of_samples(self, rows: Tensor) -> Tensor:
        """Score the gradients of some samples themselves."""
        if self.weights is None or self.products is None:
            return joined(self.reader.table.rows, self.names)[rows] @ self.to
        return self.products[rows] @ self.weights.T


@dataclass(frozen=True, eq=False)
class Bridges:
    """What some samples show of how errors at the logits come down to the layers below.

    A fully connected layer's gradient is ``sum_k d_k a_k^T``, and its signal d comes from the error
    ``e = p - y`` by ``d = J_k^T e``. A matrix B that regresses e on d, samples weighed by 1/|e| so
    that the quiet ones count, makes of it ``sum_k (B d_k) a_k^T``: the gradient of a head with the
    layer's inputs. That is GDBR's bridge (arXiv 2412.12640), learnt instead of averaged, so that
    all that can be read off a head can be read off the layer.

    Of every group of layers, whatever their kind, two numbers a class are read in sketches: the
    score along the basis dual to the class means, and the error by the same regression.

    Attributes:
        heads: B of each layer that is read as a head, ``outputs x K`` by layer name.
        scores: of each group.
    """

    heads: Mapping[str, Tensor]
    scores: Sequence[Scores]

    def score_width(self, classes: int) -> int:
        """Return how many features `score_features` makes of each class."""
        return _FORMS * sum(one.width for one in self.scores) // classes

    @classmethod
    def learn(
        cls, reader: LayerReader, names: Sequence[str], errors: Tensor, labels: Tensor, rows: Tensor
    ) -> Bridges:
        """Learn from some of the reader's samples.

        Args:
            reader: the samples at every layer.
            names: the parameters that are read.
            errors: p - y of every sample, ``n x K`` float64, in the classes' own order.
            labels: their classes in that order.
            rows: which samples.
        """
        known = errors[rows]
        loud, heads = _loudness(known), {}
        for layer in read_as_heads(reader, names):
            signals = reader.table.layers[layer].signals[rows, 0].double()
            heads[layer] = _ridge(signals / loud, known / loud)
        scores = [
            Scores.learn(reader, group, products, errors, labels, rows)
            for group, products in _with_products(reader, names)
        ]
        return cls(heads, scores)

    def errors(self, reader: LayerReader, rows: Tensor) -> dict[str, Tensor]:
        """Return the bridged errors of samples at each layer, ``n x K``."""
        layers = reader.table.layers
        return {n: layers[n].signals[rows, 0].double() @ b for n, b in self.heads.items()}

    def score(self, sketches: Mapping[str, Tensor], trials: int) -> Tensor:
        """Return the scores of the sketches of T updates, ``T x (groups * 2 K)``."""
        parts = [joined(sketches, one.names) @ one.to for one in self.scores]
        return torch.cat(parts, dim=1) if parts else torch.zeros(trials, 0).double()

    def score_samples(self, rows: Tensor) -> Tensor:
        """Return the scores of some of the reader's samples."""
        parts = [one.of_samples(rows) for one in self.scores]
        return torch.cat(parts, dim=1) if parts else torch.zeros(len(rows), 0).double()

    def cross(self, gradients: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Return layers' gradients as those of heads: weight ``T x K x D``, bias ``T x K``."""
        found = {}
        for layer, bridge in self.heads.items():
            to = bridge.T.float()
            bias = gradients.get(f"{layer}.bias")
            found[layer] = (
                torch.matmul(to, gradients[f"{layer}.weight"]),
                None if bias is None else bias @ to.T,
            )
        return found


def read_as_heads(reader: LayerReader, names: Sequence[str]) -> list[str]:
    """Name the layers below the head that are read as heads: linear, one position, not too wide."""
    own = reader.head[0].rpartition(".")[0]
    held = [
        name
        for name, layer in reader.table.layers.items()
        if name != own and f"{name}.weight" in names and layer.signals.shape[2] <= _WIDEST
    ]
    order = [name.rpartition(".")[0] for name in names]
    return sorted(held, key=order.index)[-_HEADS:]


def groups_of(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Group parameters by layer, neighbours together where there are many; all of them at last."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    parts = np.array_split(np.arange(len(layers)), max(1, min(_GROUPS, len(layers))))
    own = list(layers.values())
    groups = [tuple(name for place in part for name in own[place]) for part in parts]
    return [*groups, tuple(names)] if len(groups) > 1 else [g for g in groups if g]


def _with_products(
    reader: LayerReader, names: Sequence[str]
) -> list[tuple[tuple[str, ...], Tensor | None]]:
    """Give each group of layers with the inner products of its sketches, of all those summed."""
    groups = groups_of(names)
    parts = groups[:-1] if len(groups) > 1 else groups
    found = [reader.products(group) for group in parts]
    known = [one for one in found if one is not None]
    if len(groups) > 1:
        found.append(torch.stack(known).sum(dim=0) if len(known) == len(found) else None)
    return list(zip(groups, found, strict=True))


def folds_of(labels: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Divide samples into folds, each class evenly."""
    order = np.argsort(labels + rng.random(len(labels)), kind="stable")
    folds = np.empty(len(labels), dtype=np.int64)
    folds[order] = np.arange(len(labels)) % number
    return folds


def score_features(scores: Tensor, classes: int) -> Tensor:
    """Lay out summed scores, ``T x (groups * 2 K)``, as features of each class, ``T x K x F``."""
    each = scores.reshape(len(scores), -1, classes).transpose(1, 2)
    size = each.abs()
    largest = size.amax(dim=1, keepdim=True) + 1e-30
    ranked = each.argsort(dim=1).argsort(dim=1).double() / classes
    logs = [each.sign() * torch.log1p(size / unit) / 10 for unit in (1e-6, 1e-2)]
    return torch.cat([*logs, each / largest, ranked], dim=2)


def one_hot_errors(posteriors: Tensor, labels: Tensor) -> Tensor:
    """Return p - y in float64."""
    return posteriors.double() - F.one_hot(labels, posteriors.shape[1])


def _loudness(errors: Tensor) -> Tensor:
    """Return what samples are divided by so that the quiet ones count, ``n x 1``."""
    return torch.as_tensor(errors.norm(dim=1, keepdim=True) + _TINY + 1e-6)


def _ridge(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Regress outputs on inputs with a ridge, through whichever of samples and inputs are fewer.

    Args:
        inputs: ``n x R``.
        outputs: ``n x K``.
    """
    samples, width = inputs.shape
    if samples > width:
        gram = _steadied(inputs.T @ inputs, width)
        return torch.as_tensor(torch.linalg.solve(gram, inputs.T @ outputs))
    gram = _steadied(inputs @ inputs.T, samples)
    return torch.as_tensor(inputs.T @ torch.linalg.solve(gram, outputs))


def _steadied(gram: Tensor, fewer: int) -> Tensor:
    """Add the ridge to a gram matrix, in place; fewer of samples and inputs share its trace."""
    ridge = STEADY * torch.trace(gram) / fewer + torch.finfo(gram.dtype).tiny
    gram.diagonal().add_(ridge)
    return gram


__all__ = [
    "Bridges",
    "Scores",
    "folds_of",
    "groups_of",
    "one_hot_errors",
    "read_as_heads",
    "score_features",
]
