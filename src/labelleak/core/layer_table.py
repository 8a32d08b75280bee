"""Gradients of every layer of any batch, from one pass of each sample, kept as short sketches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from labelleak.core.knowledge import LabelledData
from labelleak.core.layer_passes import LayerPass, pass_layers, shared_parameters
from labelleak.core.lazy import F, Tensor, nn, torch
from labelleak.core.sketches import Sketch
from labelleak.core.white_box import HeadPass, WhiteBox

# Numbers that a parameter's gradient is sketched in; see docs/other_layers.md for the choice.
SIZE = 1024
# Samples that are passed together, and numbers that their other gradients may take up.
_CHUNK, _HELD = 128, 2**22


@dataclass(frozen=True, eq=False)
class LayerTable:
    """Every sample's gradient, a sketch a parameter, so that a batch's is a mean of rows.

    What `HeadTable` does for the head: with cross-entropy, mean reduction and a forward pass that
    treats each sample alone, it is exact for the sketched gradient. Memory is ``n x r`` a
    parameter. Where samples are not passed alone (batch normalisation in train mode, dropout) the
    rows are those of real batches of these samples and stand for other batches only nearly;
    `is_exact` says so.

    Attributes:
        rows: sketched gradients, ``n x size`` each, by parameter name.
        sketches: how each was sketched.
        is_exact: whether each sample was passed alone.
        seen: what the head saw of each sample.
        layers: layers with one position, as each sample passed them, where they were kept.
    """

    rows: Mapping[str, Tensor]
    sketches: Mapping[str, Sketch]
    is_exact: bool
    seen: HeadPass
    layers: Mapping[str, LayerPass]

    @classmethod
    def build(
        cls,
        model: WhiteBox,
        data: LabelledData,
        *,
        size: int = SIZE,
        keep: frozenset[str] = frozenset(),
        seed: int = 0,
    ) -> LayerTable:
        """Pass the data through the model once, forward and backward.

        Args:
            model: the model.
            data: samples with their labels.
            size: r, the most numbers that a parameter's gradient is kept in.
            keep: names of layers whose inputs and signals are kept too.
            seed: seed of dropout and the like.

        >>> model = torch.nn.Linear(3, 2)
        >>> data = LabelledData(torch.rand(5, 3), torch.tensor([0, 1, 0, 1, 1]))
        >>> table = LayerTable.build(WhiteBox(model, ""), data)
        >>> {name: tuple(rows.shape) for name, rows in table.rows.items()}
        {'weight': (5, 6), 'bias': (5, 2)}
        """
        trained = {n: p for n, p in model.module.named_parameters() if p.requires_grad}
        sketches = {name: Sketch.of(name, value.shape, size) for name, value in trained.items()}
        shared = shared_parameters(model.module)
        alone = {name: sketch for name, sketch in sketches.items() if name not in shared}
        exact = model.is_per_sample(data.inputs)
        rows: dict[str, list[Tensor]] = {}
        kept: dict[str, list[LayerPass]] = {}
        heads: list[HeadPass] = []
        for part in pass_layers(model, data, seed=seed, chunk=_CHUNK):
            heads.append(part.head)
            for name, layer in part.layers.items():
                for key, own in _sketched(name, layer, alone):
                    rows.setdefault(key, []).append(own)
                if name in keep and layer.inputs.shape[1] == 1:
                    kept.setdefault(name, []).append(layer)
        others = {name: value for name, value in trained.items() if name not in rows}
        if exact and others:
            rows |= _differentiated(model, data, others, sketches)
        return cls(
            {name: torch.cat(rows[name]) for name in trained if name in rows},
            sketches,
            exact,
            HeadPass.joined(heads),
            {name: LayerPass.joined(found) for name, found in kept.items()},
        )

    def of_batches(self, batches: np.ndarray) -> dict[str, Tensor]:
        """Return the sketched gradients of ``T x B`` batches, by parameter name."""
        picks = torch.from_numpy(batches)
        return {n: F.embedding_bag(picks, rows, mode="mean") for n, rows in self.rows.items()}

    def sketch(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sketch ``T x ...`` gradients of an update as the table's rows are."""
        names = [name for name in self.rows if name in gradients]
        return {name: self.sketches[name].of_gradients(gradients[name]) for name in names}


def _sketched(name: str, layer: LayerPass, sketches: Mapping[str, Sketch]) -> Any:
    """Give the sketches of a layer's weight and bias, where these are parameters of their own."""
    prefix = f"{name}." if name else ""
    weight, bias = sketches.get(f"{prefix}weight"), sketches.get(f"{prefix}bias")
    if weight is not None:
        yield f"{prefix}weight", weight.of_products(layer.signals, layer.inputs)
    if bias is not None:
        yield f"{prefix}bias", bias.of_gradients(layer.signals.sum(dim=1))


def _differentiated(
    model: WhiteBox,
    data: LabelledData,
    wanted: Mapping[str, nn.Parameter],
    sketches: Mapping[str, Sketch],
) -> dict[str, list[Tensor]]:
    """Differentiate each sample's loss by itself; nothing where torch.func cannot take a layer."""
    module = model.module
    own = {name: value.detach() for name, value in wanted.items()}
    fixed = {n: p.detach() for n, p in module.named_parameters() if n not in own}
    fixed |= dict(module.named_buffers())

    def loss(trained: Mapping[str, Tensor], one: Tensor, label: Tensor) -> Tensor:
        answer = torch.func.functional_call(module, {**fixed, **trained}, (one[None],))
        return F.cross_entropy(answer, label[None])

    each: Callable[..., Any] = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    inputs = data.inputs
    if inputs.is_floating_point():
        inputs = inputs.to(model.head_weight)
    size = max(1, _HELD // sum(value.numel() for value in own.values()))
    found: dict[str, list[Tensor]] = {name: [] for name in own}
    for part, labels in zip(torch.split(inputs, size), torch.split(data.labels, size), strict=True):
        try:
            slopes = each(own, part, labels)
        except (RuntimeError, ValueError, TypeError, NotImplementedError):
            return {}
        for name, slope in slopes.items():
            found[name].append(sketches[name].of_gradients(slope))
    return found


__all__ = ["SIZE", "LayerTable"]
