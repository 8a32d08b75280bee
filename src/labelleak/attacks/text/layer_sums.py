"""What own text shows of the linear layers below the head: a sketched gradient for each label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from labelleak.core.knowledge import LabelledData
from labelleak.core.layer_passes import LayerPass, pass_layers, shared_parameters
from labelleak.core.layer_table import SIZE
from labelleak.core.lazy import Tensor, torch
from labelleak.core.sketches import Sketch
from labelleak.core.white_box import WhiteBox

# Numbers of all sketches together, at most, and those of all tokens' means; and labels of own text
# for each number, at least, for its covariance with the others.
_MOST, _ENTRIES, _LABELS = 4096, 2**25, 8
# Parameters that share the room at least.
_PARTS = 3
# Labels that are laid out at once.
_TOGETHER = 4096
# Ridge of the line from rows of the head, as a share of their mean square.
_RIDGE = 1e-2


@dataclass(frozen=True, eq=False)
class LayerSums:
    """What a label of each token leaves below the head, in sketches of R numbers.

    A position's signal at a layer is taken for the work of its own label. That of later labels is
    in it, too, by way of attention, and makes it vary.

    Attributes:
        means: mean of each token's labels, drawn to what its row in the head leads one to expect,
            ``K x R``.
        within: covariance of one label around its token's mean, ``R x R``.
    """

    means: Tensor
    within: Tensor

    @classmethod
    def of(
        cls, model: WhiteBox, data: LabelledData, sketches: Mapping[str, Sketch], classes: int
    ) -> LayerSums:
        """Pass own text forward and backward once.

        Args:
            model: the model that the update belongs to.
            data: own text.
            sketches: of the parameters that were shared, by name.
            classes: K.
        """
        width = sum(sketch.size for sketch in sketches.values())
        sums, second = torch.zeros(classes, width), torch.zeros(width, width)
        counts = np.zeros(classes)
        for rows, labels in _passed(model, data, sketches):
            sums.index_add_(0, labels, rows)
            second.addmm_(rows.mT, rows)
            counts += np.bincount(labels.numpy(), minlength=classes)
        wide, seen = sums.double(), torch.from_numpy(counts)
        own = wide / seen.clamp_min(1).sqrt()[:, None]
        within = (second.double() - own.mT @ own) / seen.sum()
        rows_of_head = output_rows(model).detach().cpu().double()
        size = float(second.diagonal().double().sum() / seen.sum())
        return cls(_drawn(wide, seen, rows_of_head, size), within)

    def root(self, noise: float) -> Tensor:
        """Return L of ``L L^T``, the covariance with noise alike in all numbers.

        Args:
            noise: its variance, as a share of that of a label in a number.
        """
        wide = self.within.clone()
        wide.diagonal().add_(noise * wide.diagonal().mean() + torch.finfo(wide.dtype).tiny)
        return torch.as_tensor(torch.linalg.cholesky(wide))


def output_rows(model: WhiteBox) -> Tensor:
    """Return the rows that make the logits: those of the layer that is adapted, of an adapter."""
    owner = model.head.rpartition(".lora_B")[0]
    layer = model.module.get_submodule(f"{owner}.base_layer") if owner else model.head_layer
    assert isinstance(layer.weight, torch.Tensor)
    return layer.weight


def _drawn(sums: Tensor, seen: Tensor, rows: Tensor, size: float) -> Tensor:
    """Draw means of tokens to the line that leads from rows of the head to them.

    A label y adds ``-J^T W_y`` to a layer's gradient, J what the layer's parameters do to the
    head's inputs, so the line is the mean of J.

    Args:
        sums: of what each token's labels leave, ``K x R``.
        seen: how often each token is a label.
        rows: of the head, ``K x D``.
        size: mean squared length of what a label leaves.
    """
    total = seen.sum()
    usual = sums.sum(0) / total
    apart = rows - seen @ rows / total
    square = (apart * seen[:, None]).mT @ apart
    square.diagonal().add_(_RIDGE * square.diagonal().mean() + 1e-30)
    line = torch.linalg.solve(square, apart.mT @ (sums - seen[:, None] * usual))
    expected = usual + apart @ line
    # How far means lie from the line beyond what their few labels explain.
    held = seen > 1
    off = (sums[held] / seen[held][:, None] - expected[held]).square().sum(1)
    label = max(size - float(expected.square().sum(1) @ seen / total), 1e-3 * size)
    beyond = float((off * seen[held] - label).sum() / seen[held].sum().clamp_min(1))
    trust = label / max(beyond, 1e-3 * label, 1e-30)
    return torch.as_tensor((sums + trust * expected) / (seen + trust)[:, None])


def _passed(
    model: WhiteBox, data: LabelledData, sketches: Mapping[str, Sketch]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give what some labels leave, a row each, and the labels."""
    at = 0
    for part in pass_layers(model, data, chunk=model.inputs_at_once(data.inputs)):
        number = len(part.head.outputs)
        labels = data.labels[at : at + number].flatten()
        at += number
        held = torch.nonzero(labels >= 0)[:, 0]
        for places in torch.split(held, _TOGETHER):
            rows = [_sketched(one, part.layers, name, places) for name, one in sketches.items()]
            yield torch.cat(rows, dim=1).cpu().float(), labels[places]


def _sketched(sketch: Sketch, layers: Mapping[str, LayerPass], name: str, places: Tensor) -> Tensor:
    """Sketch what positions add to the gradient of a layer's weight or bias."""
    module, _, kind = name.rpartition(".")
    signals = layers[module].signals.flatten(0, 1)[places]
    if kind == "bias":
        return sketch.of_gradients(signals)
    inputs = layers[module].inputs.flatten(0, 1)[places]
    return sketch.of_products(signals[:, None], inputs[:, None])


def sketch_layers(
    model: WhiteBox, data: LabelledData, names: Sequence[str], classes: int
) -> dict[str, Sketch]:
    """Draw sketches of what linear layers below the head share, the nearest to it first.

    Layers farther below are left out where there is no room for them, and those that do not see
    each position once, or that own text leaves where they are (LoRA's first matrix beside a second
    one of zeros).

    Args:
        model: the model.
        data: own text.
        names: parameters that were shared, in the model's order.
        classes: K.
    """
    few = LabelledData(data.inputs[:2], data.labels[:2])
    positions, twice = data.labels[0].numel(), shared_parameters(model.module)
    seen = next(pass_layers(model, few)).layers
    readable = {
        name
        for name, layer in seen.items()
        if layer.inputs.shape[1] == positions and name != model.head and layer.signals.any()
    }
    shapes = {name: one.shape for name, one in model.module.named_parameters()}
    room = max(1, min(_MOST, _ENTRIES // classes, data.labels.numel() // _LABELS))
    most = min(SIZE, -(-room // _PARTS))
    found: dict[str, Sketch] = {}
    for name in reversed(names):
        if name.rpartition(".")[0] in readable and name not in twice:
            sketch = Sketch.of(name, shapes[name], most)
            if sketch.size <= room:
                found[name] = sketch
                room -= sketch.size
    return found


__all__ = ["LayerSums", "output_rows", "sketch_layers"]
