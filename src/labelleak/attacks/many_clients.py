"""Many clients of one model at once: the whole gradients of batches, and local steps of SGD."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from labelleak.core.counts import Floats, Ints
from labelleak.core.knowledge import LabelledData
from labelleak.core.layer_passes import pass_layers, shared_parameters
from labelleak.core.lazy import F, Tensor, torch
from labelleak.core.training import FullTraining
from labelleak.core.white_box import WhiteBox

# Numbers that the gradients of all samples may take together, and those of clients at once.
_MOST_HELD, _AT_ONCE = 2**27, 2**22
# What is worth holding to spare some passes.
_FEW_HELD = 2**25
_SAMPLES = 128

Tensors = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class SampleGradients:
    """The gradient of every parameter for each sample, so that a batch's is a mean of rows.

    Attributes:
        flat: ``n x P``.
        shapes: of each parameter, by name in the order of the columns.
    """

    flat: Tensor
    shapes: dict[str, torch.Size]

    @classmethod
    def of(cls, model: WhiteBox, data: LabelledData) -> SampleGradients:
        """Differentiate the cross-entropy of each sample by itself; see `fits`."""
        trained, frozen = _parts(model)
        inputs = _fed(model, data.inputs)
        one = torch.func.grad(_loss_of(model, frozen, alone=True))
        each = torch.func.vmap(one, in_dims=(None, 0, 0))
        rows = []
        slices = torch.split(inputs, _SAMPLES), torch.split(data.labels, _SAMPLES)
        for part, labels in zip(*slices, strict=True):
            found = each(trained, part, labels)
            rows.append(torch.cat([one.flatten(1) for one in found.values()], dim=1))
        return cls(torch.cat(rows), {name: value.shape for name, value in trained.items()})

    @classmethod
    def of_layers(cls, model: WhiteBox, data: LabelledData) -> SampleGradients | None:
        """Put together as `of` what one pass shows at every layer, which needs no `torch.func`.

        Returns:
            None where samples have several labels or are tied together, where a parameter is shared
            by layers or belongs to none that is linear or convolutional, and where all take more
            than some 100 MB.
        """
        trained, _ = _parts(model)
        numbers = sum(value.numel() for value in trained.values())
        if len(data) * numbers > _FEW_HELD or not model.is_per_sample(data.inputs):
            return None
        if data.labels.dim() > 1 or shared_parameters(model.module):
            return None
        flat, done = torch.empty(0), 0
        for part in pass_layers(model, data):
            found = dict(pair for name, one in part.layers.items() for pair in one.slopes(name))
            if not trained.keys() <= found.keys():
                return None
            rows = [found[name].flatten(1) for name in trained]
            if not done:
                kind = torch.cat([row[:1] for row in rows], dim=1)
                flat = kind.new_empty(len(data), numbers)
            torch.cat(rows, dim=1, out=flat[done : done + len(rows[0])])
            done += len(rows[0])
        return cls(flat, {name: value.shape for name, value in trained.items()})

    @staticmethod
    def fits(model: WhiteBox, data: LabelledData) -> bool:
        """Return whether samples can be differentiated each by itself, and held all together."""
        numbers = sum(p.numel() for p in model.module.parameters() if p.requires_grad)
        return len(data) * numbers <= _MOST_HELD and is_vectorised(model, data)

    @property
    def at_once(self) -> int:
        """Batches whose gradients are made together."""
        return max(1, _AT_ONCE // self.flat.shape[1])

    def of_batches(self, picks: Ints) -> Tensors:
        """Return the gradients of ``S x N`` batches by parameter name."""
        mean = F.embedding_bag(torch.from_numpy(picks), self.flat, mode="mean")
        columns = torch.split(mean, [shape.numel() for shape in self.shapes.values()], dim=1)
        return {
            name: part.reshape(-1, *shape)
            for part, (name, shape) in zip(columns, self.shapes.items(), strict=True)
        }


def is_vectorised(model: WhiteBox, data: LabelledData) -> bool:
    """Return whether a model treats samples alike and apart, in ways that can run side by side."""
    if not model.is_per_sample(data.inputs):
        return False
    trained, frozen = _parts(model)
    together = {name: torch.stack([value, value]) for name, value in trained.items()}
    inputs = _fed(model, data.inputs[:1])
    try:
        torch.func.vmap(torch.func.grad(_loss_of(model, frozen)), in_dims=(0, None, None))(
            together, inputs, data.labels[:1]
        )
    except (RuntimeError, ValueError, TypeError, NotImplementedError):  # a layer of its own kind
        return False
    return True


def trains_together(model: WhiteBox, data: LabelledData, how: FullTraining) -> bool:
    """Return whether `train_together` can: for SGD with no more than momentum and weight decay."""
    plain = FullTraining(
        lr=how.lr,
        local_steps=how.local_steps,
        batch_size=how.batch_size,
        momentum=how.momentum,
        weight_decay=how.weight_decay,
    )
    return how == plain and is_vectorised(model, data)


def train_together(
    model: WhiteBox, data: LabelledData, picks: Ints, how: FullTraining, keep: frozenset[str]
) -> Tensors:
    """Let clients take local steps of SGD from the model side by side.

    Args:
        model: where all begin.
        data: what they draw from; see `trains_together`.
        picks: ``S x N``, each client's samples in the order in which it takes them.
        how: steps, learning rate, momentum and weight decay.
        keep: names of the parameters to give.

    Returns:
        The parameters after the last step, ``S x ...`` by name.
    """
    trained, frozen = _parts(model)
    size = max(1, _AT_ONCE // max(1, sum(value.numel() for value in trained.values())))
    parts = [_train(model, data, part, how, keep) for part in _slices(picks, size)]
    given = {name: torch.cat([part[name] for part in parts]) for name in keep & trained.keys()}
    fixed = {name: frozen[name] for name in keep - trained.keys()}
    return {**given, **{n: v.expand(len(picks), *v.shape) for n, v in fixed.items()}}


def _train(
    model: WhiteBox, data: LabelledData, picks: Ints, how: FullTraining, keep: frozenset[str]
) -> Tensors:
    trained, frozen = _parts(model)
    slopes = torch.func.vmap(torch.func.grad(_loss_of(model, frozen)), in_dims=(0, 0, 0))
    weights = {name: value.expand(len(picks), *value.shape) for name, value in trained.items()}
    moving: Tensors = {}
    for step in np.array_split(picks, how.local_steps, axis=1):
        if not step.shape[1]:
            continue
        rows = torch.from_numpy(step)
        inputs = _fed(model, data.inputs[rows])
        found = slopes(weights, inputs, data.labels[rows])
        if how.weight_decay:
            found = {n: slope + how.weight_decay * weights[n] for n, slope in found.items()}
        if how.momentum:
            moving = {n: how.momentum * moving.get(n, 0.0) + slope for n, slope in found.items()}
            found = moving
        weights = {name: value - how.lr * found[name] for name, value in weights.items()}
    return {name: value for name, value in weights.items() if name in keep}


def batch_gradients(model: WhiteBox, data: LabelledData, picks: Ints) -> Tensors:
    """Return the gradients of ``R x B`` batches, one a client, by parameter name, made together.

    Args:
        model: what all clients were sent; see `is_vectorised`.
        data: where their samples lie.
        picks: indices into the data.
    """
    trained, frozen = _parts(model)
    slopes = torch.func.vmap(torch.func.grad(_loss_of(model, frozen)), in_dims=(None, 0, 0))
    rows = torch.from_numpy(picks)
    found: Tensors = slopes(trained, _fed(model, data.inputs[rows]), data.labels[rows])
    return found


def gradient_norms(model: WhiteBox, data: LabelledData, states: Tensors) -> Floats:
    """Return the length of the mean gradient on some data at each of many states of a model.

    Args:
        model: which model; see `is_vectorised`.
        data: a batch.
        states: trained parameters, ``S x ...`` by name.
    """
    _, frozen = _parts(model)
    slopes = torch.func.vmap(torch.func.grad(_loss_of(model, frozen)), in_dims=(0, None, None))
    inputs = _fed(model, data.inputs)
    sizes = []
    count = len(next(iter(states.values())))
    for rows in torch.split(torch.arange(count), _SAMPLES):
        found = slopes({name: value[rows] for name, value in states.items()}, inputs, data.labels)
        sizes.append(sum(one.flatten(1).square().sum(dim=1) for one in found.values()).sqrt())
    return np.asarray(torch.cat(sizes).double().numpy())


def _parts(model: WhiteBox) -> tuple[Tensors, Tensors]:
    """Part a model's tensors into those that are trained and the rest."""
    module = model.module
    trained = {n: p.detach() for n, p in module.named_parameters() if p.requires_grad}
    rest = {n: p.detach() for n, p in module.named_parameters() if not p.requires_grad}
    return trained, {**rest, **dict(module.named_buffers())}


def _loss_of(
    model: WhiteBox, frozen: Tensors, *, alone: bool = False
) -> Callable[[Tensors, Tensor, Tensor], Tensor]:
    def loss(trained: Tensors, inputs: Tensor, labels: Tensor) -> Tensor:
        if alone:
            inputs, labels = inputs[None], labels[None]
        return F.cross_entropy(
            torch.func.functional_call(model.module, {**trained, **frozen}, (inputs,)), labels
        )

    return loss


def _fed(model: WhiteBox, inputs: Tensor) -> Tensor:
    """Return inputs in the model's precision, token numbers as they are."""
    return inputs.to(model.head_weight) if inputs.is_floating_point() else inputs


def _slices(picks: Ints, size: int) -> list[Ints]:
    return np.split(picks, range(size, len(picks), size))


__all__ = [
    "SampleGradients",
    "batch_gradients",
    "gradient_norms",
    "is_vectorised",
    "train_together",
    "trains_together",
]
