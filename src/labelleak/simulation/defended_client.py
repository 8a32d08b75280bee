"""Local training of a client that defends itself while it trains."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from labelleak.core.interfaces import Defense, LabelledData
from labelleak.core.local_steps import take_defended_steps
from labelleak.core.seeding import stream
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import WhiteBox


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


__all__ = ["train_defended"]
