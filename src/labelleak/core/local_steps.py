"""The parts of a client's local step: loss, optimiser, and what bends gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from labelleak.core.copies import copy_model
from labelleak.core.counts import Ints
from labelleak.core.knowledge import Defense, LabelledData
from labelleak.core.lazy import Tensor, nn, torch
from labelleak.core.observation import Observation
from labelleak.core.optimisers import uncompiled
from labelleak.core.training import LocalTraining
from labelleak.core.update import SharedTensors
from labelleak.core.white_box import WhiteBox


def make_loss(training: LocalTraining, reduction: str = "mean") -> nn.CrossEntropyLoss:
    """Make the loss of a local training: cross-entropy, smoothed and weighted where asked.

    With reduction ``none`` each sample's loss is already times its class weight, and the mean of
    torch is their sum over that of the weights (`class_weights_of`).
    """
    training = training.filled()
    weights = training.class_weights
    return nn.CrossEntropyLoss(
        weight=torch.tensor(weights) if weights else None,
        label_smoothing=training.label_smoothing,
        reduction=reduction,
    )


def class_weights_of(labels: Tensor, training: LocalTraining, like: Tensor) -> Tensor:
    """Return the weight of each label's class, ones where classes weigh alike.

    >>> weighted = LocalTraining(lr=0.1, class_weights=(1.0, 3.0))
    >>> class_weights_of(torch.tensor([1, 0]), weighted, torch.zeros(1)).tolist()
    [3.0, 1.0]
    """
    weights = training.class_weights
    if not weights:
        return torch.ones(len(labels), dtype=like.dtype)
    return torch.tensor(weights, dtype=like.dtype)[labels]


def make_optimiser(
    parameters: Iterable[nn.Parameter], training: LocalTraining
) -> torch.optim.Optimizer:
    """Make the optimiser of a local training, its state empty as at the start of a round."""
    training = training.filled()
    lr, decay, momentum = training.lr, training.weight_decay, training.momentum
    if training.optimiser == "adam":
        return uncompiled(torch.optim.Adam)(parameters, lr=lr, weight_decay=decay)
    if training.optimiser == "adamw":
        return uncompiled(torch.optim.AdamW)(parameters, lr=lr, weight_decay=decay)
    if training.optimiser == "rmsprop":
        make = uncompiled(torch.optim.RMSprop)
        return make(parameters, lr=lr, momentum=momentum, weight_decay=decay)
    return uncompiled(torch.optim.SGD)(
        parameters,
        lr=lr,
        momentum=momentum,
        dampening=training.dampening,
        nesterov=training.nesterov,
        weight_decay=decay,
    )


def bend_gradients(
    trained: Sequence[nn.Parameter], start: Sequence[Tensor], training: LocalTraining
) -> None:
    """Add FedProx's pull to the gradients, then clip them by their norm.

    Args:
        trained: the parameters, each with its gradient.
        start: what they were when the server sent them; empty without a proximal term.
        training: how the client trains.
    """
    training = training.filled()
    for parameter, origin in zip(trained, start, strict=bool(start)):
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - origin, alpha=training.proximal)
    if training.clip_norm < math.inf:
        nn.utils.clip_grad_norm_(trained, training.clip_norm)


def take_defended_steps(
    model: WhiteBox,
    data: LabelledData,
    steps: Iterable[Ints],
    training: LocalTraining,
    defense: Defense,
    rng: np.random.Generator,
) -> dict[str, Tensor]:
    """Take a client's local steps, each gradient as a training-time defense has it.

    Running statistics of batch norm stay as they were; only parameters are trained. The loss is
    the defense's, so label smoothing and class weights of the training itself have no say.

    Args:
        model: the model that the server sent; left as it was.
        data: where the client's samples lie.
        steps: indices into the data, one array a step; a step without samples is none.
        training: learning rate, optimiser and what bends gradients.
        defense: what the client does at every step.
        rng: source of dropout, noise and the like.

    Returns:
        The state dict after the last step.
    """
    client = WhiteBox(copy_model(model.module), model.head)
    trained = client.trained
    own = list(trained.values())
    start = [parameter.detach().clone() for parameter in own]
    optimiser = make_optimiser(own, training)
    for picks in map(torch.from_numpy, steps):
        if len(picks):
            batch = LabelledData(data.inputs[picks], data.labels[picks])
            update = defense.gradients(client, [batch], rng, full=True)
            for name, parameter in trained.items():
                parameter.grad = update.tensors[name][0].detach().clone()
            bend_gradients(own, start, training)
            optimiser.step()
    return {name: value.detach() for name, value in client.module.state_dict().items()}


def as_update(seen: Observation, model: WhiteBox) -> SharedTensors:
    """Take gradients that were observed as the update that they were read off.

    Args:
        seen: gradients, of the head alone or with the rest.
        model: whose gradients they are.
    """
    return SharedTensors(name_gradients(seen, model), model.head)


def name_gradients(seen: Observation, model: WhiteBox) -> dict[str, Tensor]:
    """Return gradients that were observed by parameter name, with trials as they were observed."""
    empty = SharedTensors({}, model.head)
    weight, bias = model.form.raw(seen.weight, seen.bias)
    tensors: dict[str, Tensor | None] = {
        **(seen.rest or {}),
        empty.head_weight: weight,
        empty.head_bias: bias,
    }
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def as_seen(
    update: SharedTensors,
    model: WhiteBox,
    num_samples: int | None = None,
    *,
    trials: int | None = None,
    full: bool = False,
) -> Observation:
    """Read the head off shared gradients: `as_update` undone.

    A weight gradient of zeros, from which no attack learns, stands for a head of which nothing is
    shared.

    Args:
        update: gradients of R trials.
        model: whose gradients they are.
        num_samples: labels behind each.
        trials: R, where it may be that nothing is shared.
        full: keep the other parameters' gradients, too.
    """
    form, head = model.form, (update.head_weight, update.head_bias)
    weight, bias = (update.tensors.get(name) for name in head)
    if weight is None and bias is None:
        weight = torch.zeros(trials or update.trials, *form.shape)
    rest = {name: t for name, t in update.tensors.items() if name not in head}
    seen = Observation.from_gradient(weight, bias, num_samples=num_samples, form=form)
    return replace(seen, rest=rest) if full else seen


__all__ = [
    "as_seen",
    "as_update",
    "bend_gradients",
    "class_weights_of",
    "make_loss",
    "make_optimiser",
    "name_gradients",
    "take_defended_steps",
]
