"""A client's local training: the weights that it returns for the model that it was sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from labelleak.core.copies import copy_model
from labelleak.core.counts import Ints
from labelleak.core.knowledge import Defense, LabelledData
from labelleak.core.local_steps import (
    bend_gradients,
    make_loss,
    make_optimiser,
    take_defended_steps,
)
from labelleak.core.seeding import stream, torch_seeded
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import WhiteBox
from labelleak.errors import BadInput

Last = Literal["keep", "drop"]


def consumed_labels(data: LabelledData, steps: Sequence[Ints] | Ints) -> tuple[Ints, ...]:
    """Return the labels that each step consumed, which is the truth behind the update."""
    labels = data.labels.numpy()
    return tuple(labels[np.asarray(batch)] for batch in steps)


def train_locally(
    model: nn.Module,
    data: LabelledData,
    batches: Sequence[Ints] | Ints,
    training: LocalTraining,
    *,
    seed: int = 0,
    on: WorkingCopy | None = None,
) -> dict[str, Tensor]:
    """Take local steps from a model, as a FedAvg client does, and give the weights after them.

    The loss of a step is the mean cross-entropy (smoothed and weighted by class where asked)
    plus ``proximal / 2 * |theta - theta_0|^2`` (FedProx, Li et al., MLSys 2020); its gradient is
    clipped by norm, then handed to the optimiser, which adds the weight decay.

    The model itself, its mode and torch's global random state are left as they were. Parameters
    that need no gradient stay, and buffers come back as the last step left them.

    Args:
        model: the model that the server sent.
        data: where the client's samples lie.
        batches: indices into the data, one row a step: an array ``steps x B``, or a sequence of
            arrays that need not be alike in length (`draw_steps`). They decide the
            steps and batch size, whatever the training says.
        training: how to train.
        seed: seed of dropout and the like.
        on: the copy to train on, where client after client is served; None makes one.

    Returns:
        The state dict after the last step.

    >>> model = nn.Linear(3, 2)
    >>> data = LabelledData(torch.rand(4, 3), torch.tensor([0, 1, 1, 0]))
    >>> batches = np.array([[0, 1], [2, 3]])
    >>> after = train_locally(model, data, batches, LocalTraining(lr=0.1, local_steps=2))
    >>> sorted(after), torch.equal(after["weight"], model.weight)
    (['bias', 'weight'], False)
    """
    module, training = (on or WorkingCopy()).of(model), training.filled()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    start = [one.detach().clone() for one in trained] if training.proximal else []
    optimiser, criterion = make_optimiser(trained, training), make_loss(training)
    criterion.to(trained[0].dtype)
    with torch_seeded(seed), torch.enable_grad():
        for batch in map(torch.from_numpy, batches):
            loss = criterion(module(data.inputs[batch]), data.labels[batch])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            bend_gradients(trained, start, training)
            optimiser.step()
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def train_defended(
    model: WhiteBox,
    data: LabelledData,
    batches: np.ndarray,
    training: LocalTraining,
    defense: Defense,
    *,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Take local steps whose gradients are computed as a training-time defense has it.

    As `train_locally`, with `Defense.gradients` at every step: for DP-SGD each step clips and
    adds noise of its own. What the defense does to the finished update is left to `defend_update`.
    Running statistics of batch norm stay as they were; only parameters are trained.

    Args:
        model: the model that the server sent; left as it was.
        data: where the client's samples lie.
        batches: ``steps x B`` indices into the data, one row a step.
        training: learning rate and optimiser.
        defense: what the client does.
        seed: seed of dropout, noise and the like.

    Returns:
        The state dict after the last step.

    Raises:
        BadInput: as the defense does, for example DP-SGD on batch normalisation.

    >>> from labelleak.defenses import DPSGD
    >>> import torch
    >>> model = WhiteBox(torch.nn.Linear(3, 2), "")
    >>> data = LabelledData(torch.rand(4, 3), torch.tensor([0, 1, 1, 0]))
    >>> batches, training = np.array([[0, 1], [2, 3]]), LocalTraining(lr=0.1, local_steps=2)
    >>> sorted(train_defended(model, data, batches, training, DPSGD(1.0)))
    ['bias', 'weight']
    """
    rng = stream(seed, "defended training", defense.label)
    return take_defended_steps(model, data, batches, training, defense, rng)


@dataclass(eq=False)
class WorkingCopy:
    """A copy to train on, made once and set to the weights of each model of its architecture.

    For small models it takes half the work to copy one anew for every client.

    >>> model, own = nn.Linear(3, 2), WorkingCopy()
    >>> own.of(model) is own.of(model), own.of(model) is model
    (True, False)
    """

    _copy: nn.Module | None = None

    def of(self, model: nn.Module) -> nn.Module:
        """Return the copy with a model's weights and buffers."""
        if self._copy is None:
            self._copy = copy_model(model)
        copy_weights(model, self._copy)
        return self._copy


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Set parameters and buffers of a module to those of another one of its architecture."""
    with torch.no_grad():
        for own, sent in zip(_tensors(target), _tensors(source), strict=True):
            own.copy_(sent)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def draw_steps(
    samples: Ints,
    batch_size: int,
    rng: np.random.Generator,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    last: Last = "keep",
) -> tuple[Ints, ...]:
    """Draw the batches of a client's local steps from its own samples.

    By epochs, each epoch is a shuffle cut into batches; a short last batch is kept or dropped.
    By steps, shuffles follow one another without short batches: what is left of one is filled
    up from the next. No batch holds a sample twice; a client that has fewer samples than a batch
    gives all of them in each.

    Args:
        samples: the client's indices into the data.
        batch_size: labels per step.
        rng: source of the shuffles.
        steps: local steps to draw; or
        epochs: passes over the samples to draw.
        last: what becomes of an epoch's short last batch: ``keep`` or ``drop`` (a client with
            fewer samples than a batch keeps its only one).

    Returns:
        One array of indices a step.

    Raises:
        BadInput: if not exactly one of steps and epochs is given, or a number is below 1.

    >>> rng = np.random.default_rng(0)
    >>> [len(one) for one in draw_steps(np.arange(5), 2, rng, epochs=2)]
    [2, 2, 1, 2, 2, 1]
    >>> [len(one) for one in draw_steps(np.arange(5), 2, rng, steps=4)]
    [2, 2, 2, 2]
    """
    if (steps is None) == (epochs is None):
        raise BadInput("say how long a client trains by either local steps or epochs, not both")
    length = steps if steps is not None else epochs
    if length is None or min(length, batch_size, len(samples)) < 1:
        raise BadInput("a client needs at least one sample, a batch of one and one step or epoch")
    size = min(batch_size, len(samples))
    if steps is not None:
        return _fill_steps(samples, size, steps, rng)
    drawn: list[Ints] = []
    for _ in range(length):
        batches = np.split(rng.permutation(samples), range(size, len(samples), size))
        drawn += batches[:-1] if last == "drop" and len(batches[-1]) < size else batches
    return tuple(drawn)


def _fill_steps(samples: Ints, size: int, steps: int, rng: np.random.Generator) -> tuple[Ints, ...]:
    order, place, drawn = rng.permutation(samples), 0, []
    for _ in range(steps):
        if place + size > len(order):
            left, fresh = order[place:], rng.permutation(samples)
            # Those already in the batch go to the end of the new shuffle, so none comes twice.
            twice = np.isin(fresh, left)
            order, place = np.concatenate([left, fresh[~twice], fresh[twice]]), 0
        drawn.append(order[place : place + size])
        place += size
    return tuple(drawn)


__all__ = [
    "WorkingCopy",
    "consumed_labels",
    "copy_weights",
    "draw_steps",
    "train_defended",
    "train_locally",
]
