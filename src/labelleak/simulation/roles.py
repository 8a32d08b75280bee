"""Divide a data set among the three who hold data: the global model, the attacker, the victims."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from labelleak.core.knowledge import LabelledData
from labelleak.core.seeding import stream

AUXILIARY_SHARE = 0.2
VICTIM_SHARE = 0.35


@dataclass(frozen=True, eq=False)
class Roles:
    """Disjoint parts of a data set, one for each who holds data.

    Attributes:
        train: what the global model was trained on.
        auxiliary: the attacker's own data.
        victims: what the audited batches are drawn from.
        train_rows: places of the training part in what was divided.
    """

    train: LabelledData
    auxiliary: LabelledData
    victims: LabelledData
    train_rows: np.ndarray


def divide(inputs: Tensor, labels: Tensor, *, seed: int, victims_seen: bool = False) -> Roles:
    """Divide labelled samples class by class: 45 % train, 20 % auxiliary, 35 % victims.

    Rows of token ids are divided where they lie, from a random one on, since neighbours may hold
    two halves of one text.

    Args:
        inputs: ``n x ...``.
        labels: ``n`` class indices, or ``n x ...`` maps, which are divided at random.
        seed: seed of the shuffle.
        victims_seen: draw victims from the training part instead, as in a running federation,
            whose model has seen its clients' data before.

    >>> roles = divide(torch.rand(200, 3), torch.arange(200) % 2, seed=0)
    >>> len(roles.train), len(roles.auxiliary), len(roles.victims)
    (90, 40, 70)
    """
    rng = stream(seed, "roles")
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    groups = labels.numpy() if labels.dim() == 1 else np.zeros(len(labels))
    for label in np.unique(groups):
        members = np.flatnonzero(groups == label)
        if inputs.is_floating_point():
            members = rng.permutation(members)
        else:
            members = np.roll(members, int(rng.integers(len(members))))
        auxiliary = round(AUXILIARY_SHARE * len(members))
        victims = auxiliary + round(VICTIM_SHARE * len(members))
        for part, chosen in zip(parts, np.split(members, [auxiliary, victims]), strict=True):
            part.append(chosen)
    rows = [np.sort(np.concatenate(part)) for part in parts]
    auxiliary_part, victim_part, train_part = (_take(inputs, labels, own) for own in rows)
    seen = train_part if victims_seen else victim_part
    return Roles(train_part, auxiliary_part, seen, rows[2])


def _take(inputs: Tensor, labels: Tensor, chosen: np.ndarray) -> LabelledData:
    picks = torch.from_numpy(chosen)
    return LabelledData(inputs[picks], labels[picks])
