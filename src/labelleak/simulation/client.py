"""A client's local training: the weights that it returns for the model that it was sent."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelleak.interfaces import LabelledData, LocalTraining
from labelleak.seeding import torch_seeded


def train_locally(
    model: nn.Module,
    data: LabelledData,
    batches: np.ndarray,
    training: LocalTraining,
    *,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Take local steps from a model, as a FedAvg client does, and give the weights after them.

    The model itself, its mode and torch's global random state are left as they were. Parameters
    that need no gradient stay, and buffers come back as the last step left them.

    Args:
        model: the model that the server sent.
        data: where the client's samples lie.
        batches: ``steps x B`` indices into the data, one row a step; their shape decides the
            steps and batch size, whatever the training says.
        training: learning rate and optimiser.
        seed: seed of dropout and the like.

    Returns:
        The state dict after the last step.

    >>> model = nn.Linear(3, 2)
    >>> data = LabelledData(torch.rand(4, 3), torch.tensor([0, 1, 1, 0]))
    >>> batches = np.array([[0, 1], [2, 3]])
    >>> after = train_locally(model, data, batches, LocalTraining(lr=0.1, local_steps=2))
    >>> sorted(after), torch.equal(after["weight"], model.weight)
    (['bias', 'weight'], False)
    """
    module = copy.deepcopy(model)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimiser = make_optimiser(trained, training)
    with torch_seeded(seed), torch.enable_grad():
        for batch in torch.from_numpy(batches):
            loss = F.cross_entropy(module(data.inputs[batch]), data.labels[batch])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
    return {name: value.detach() for name, value in module.state_dict().items()}


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
        weight_decay=training.weight_decay,
    )


__all__ = ["make_optimiser", "train_locally"]
