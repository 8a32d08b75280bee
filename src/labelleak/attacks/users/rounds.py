"""What a server holds of a round: the model that it sent, and what each user returned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from labelleak.attacks.users.shadows import ShadowRound, ShadowUsers
from labelleak.core.counts import Floats
from labelleak.core.knowledge import LabelledData
from labelleak.core.lazy import Tensor, torch
from labelleak.core.observation import Observation
from labelleak.core.training import FullTraining
from labelleak.core.white_box import WhiteBox


@dataclass(frozen=True, eq=False)
class UserUpdate:
    """What one user returned in a round.

    Attributes:
        user: its number.
        seen: the head's mean gradient, read off the update.
        after: the state dict that it returned.
    """

    user: int
    seen: Observation
    after: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class UserRound:
    """A round as the server sees it.

    Attributes:
        model: what was sent.
        training: how users train; its local steps are those of a middling user.
        auxiliary: the server's own labelled data.
        updates: what came back.
        users: the server's imitation of users; the same ones in every round.
    """

    model: WhiteBox
    training: FullTraining
    auxiliary: LabelledData
    updates: tuple[UserUpdate, ...]
    users: ShadowUsers

    @cached_property
    def shadows(self) -> ShadowRound:
        """What the imitated users return for the same model."""
        return self.users.play(self.model, self.training)

    @cached_property
    def absent(self) -> np.ndarray:
        """Which classes show no sign of a sample in each update, ``users x K``; see `is_absent`."""
        return np.stack([is_absent(update.seen) for update in self.updates])

    @cached_property
    def signs_tell(self) -> bool:
        """Whether no head input is negative, so that a negative entry tells presence."""
        seen = self.model.run_all(self.auxiliary.inputs[:200])
        return bool((seen.inputs >= 0).all())

    @property
    def heads(self) -> tuple[Floats, Floats]:
        """The users' head gradients, weight ``users x K D`` and bias ``users x K``."""
        return join([update.seen for update in self.updates])


def is_absent(seen: Observation) -> np.ndarray:
    """Return which classes have a gradient row without a negative entry.

    A sample of another class adds ``p_c h`` to row c. Where head inputs h are not negative that
    is not negative either, in every local step, and so is the sum. One sample of the class
    adds ``(p_c - 1) h`` in each step that it is part of.

    >>> is_absent(Observation(torch.tensor([[0.1, 0.0], [-0.2, 0.3]]), None)).tolist()
    [True, False]
    """
    assert seen.weight is not None
    rows = seen.weight.detach()
    if seen.bias is not None:
        rows = torch.cat([rows, seen.bias.detach()[..., None]], dim=-1)
    return np.asarray((rows >= 0).all(dim=-1).numpy())


def join(seen: list[Observation]) -> tuple[Floats, Floats]:
    """Lay observations of one update each, or of many, under one another."""
    weights = [one.weight.detach().double().flatten(-2) for one in seen if one.weight is not None]
    rows = np.concatenate([np.atleast_2d(weight.numpy()) for weight in weights])
    if any(one.bias is None for one in seen):
        return rows, np.zeros((len(rows), 0))
    return rows, np.concatenate([np.atleast_2d(one.bias_gradient) for one in seen])


__all__ = ["UserRound", "UserUpdate", "is_absent", "join"]
