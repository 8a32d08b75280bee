"""The parts of a client's local step: loss, optimiser, what bends gradients, and what is undone."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from labelleak.core.counts import Ints
from labelleak.core.interfaces import Defense, LabelledData, LocalTraining
from labelleak.core.observation import Observation
from labelleak.core.update import Update
from labelleak.core.white_box import WhiteBox


def make_loss(training: LocalTraining, reduction: str = "mean") -> nn.CrossEntropyLoss:
    """Make the loss of a local training: cross-entropy, smoothed and weighted where asked.

    With reduction ``none`` each sample's loss is already times its class weight, and the mean of
    torch is their sum over that of the weights (`class_weights_of`).
    """
    weights = training.class_weights
    return nn.CrossEntropyLoss(
        weight=None if weights is None else torch.tensor(weights),
        label_smoothing=training.label_smoothing,
        reduction=reduction,
    )


def class_weights_of(labels: Tensor, training: LocalTraining, like: Tensor) -> Tensor:
    """Return the weight of each label's class, ones where classes weigh alike.

    >>> weighted = LocalTraining(lr=0.1, class_weights=(1.0, 3.0))
    >>> class_weights_of(torch.tensor([1, 0]), weighted, torch.zeros(1)).tolist()
    [3.0, 1.0]
    """
    if training.class_weights is None:
        return torch.ones(len(labels), dtype=like.dtype)
    return torch.tensor(training.class_weights, dtype=like.dtype)[labels]


def make_optimiser(
    parameters: Iterable[nn.Parameter], training: LocalTraining
) -> torch.optim.Optimizer:
    """Make the optimiser of a local training, its state empty as at the start of a round."""
    if training.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=training.lr, weight_decay=training.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=training.lr,
        momentum=training.momentum,
        dampening=training.dampening,
        nesterov=training.nesterov,
        weight_decay=training.weight_decay,
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
    for parameter, origin in zip(trained, start, strict=bool(start)):
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - origin, alpha=training.proximal)
    if training.clip_norm is not None:
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
    client = WhiteBox(copy.deepcopy(model.module), model.head)
    trained = {n: p for n, p in client.module.named_parameters() if p.requires_grad}
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


def as_update(seen: Observation, head: str) -> Update:
    """Take gradients that were observed as the update that they were read off.

    Args:
        seen: gradients, of the head alone or with the rest.
        head: module name of the head.
    """
    empty = Update({}, head)
    tensors: dict[str, Tensor | None] = {
        **(seen.rest or {}),
        empty.head_weight: seen.weight,
        empty.head_bias: seen.bias,
    }
    return Update({name: t for name, t in tensors.items() if t is not None}, head)


def observe_training(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    head: str,
    training: LocalTraining,
    *,
    rest: Iterable[str] | None = None,
) -> Observation:
    """Observe weights before and after local steps as one who knows the training does.

    What SGD did to the scale is undone (`Observation.from_update`). Adam's movement is taken as
    plain SGD's, over ``lr * steps``; clipping, smoothing and class weights stay in it.

    Args:
        before: state dict that the server sent.
        after: state dict that the client returned.
        head: module name of the head.
        training: how the client trained; its local_steps are the steps really taken.
        rest: names of further parameters to keep, as in `Observation.from_update`.

    Returns:
        The observation, without a number of samples.
    """
    sgd = training.optimiser == "sgd"
    return Observation.from_update(
        before,
        after,
        head=head,
        lr=training.lr,
        local_steps=training.local_steps,
        momentum=training.momentum if sgd else 0.0,
        dampening=training.dampening if sgd else 0.0,
        nesterov=training.nesterov and sgd,
        weight_decay=training.weight_decay if sgd else 0.0,
        proximal=training.proximal if sgd else 0.0,
        rest=rest,
    )


__all__ = [
    "as_update",
    "bend_gradients",
    "class_weights_of",
    "make_loss",
    "make_optimiser",
    "observe_training",
    "take_defended_steps",
]
