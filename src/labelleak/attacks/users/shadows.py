"""Users that a server imitates with its own data: known label distributions, trained as users."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from labelleak.attacks.many_clients import Tensors, train_together
from labelleak.attacks.shadow.batches import draw_shares
from labelleak.core.counts import Floats, Ints
from labelleak.core.knowledge import LabelledData
from labelleak.core.lazy import torch
from labelleak.core.observation import Observation
from labelleak.core.training import FullTraining
from labelleak.core.update import ReceivedUpdate
from labelleak.core.white_box import WhiteBox

# Kinds of size that imitated users come in.
_SIZES = 3


@dataclass(frozen=True, eq=False)
class ShadowRound:
    """What imitated users return for one model.

    Attributes:
        seen: the head's mean gradients of some users each, in order.
        after: the trained parameters that they return, ``users x ...``.
        pure: the head's mean gradients of users of one class each, ``K`` of them.
    """

    seen: list[Observation]
    after: Tensors
    pure: Observation


@dataclass(frozen=True, eq=False)
class ShadowUsers:
    """Users that hold samples of the server's own data, the same ones in every round.

    Attributes:
        data: the server's own data.
        num_classes: K.
        epochs: passes over a user's samples in a round.
        batch_size: samples a step.
        groups: users of one size each, ``users x samples`` indices into the data.
        seed: seed of the order in which samples are taken.
    """

    data: LabelledData
    num_classes: int
    epochs: int
    batch_size: int
    groups: tuple[Ints, ...]
    seed: int

    @classmethod
    def draw(
        cls,
        data: LabelledData,
        num_classes: int,
        sizes: Sequence[int],
        shadows: int,
        *,
        epochs: int,
        batch_size: int,
        rng: np.random.Generator,
    ) -> ShadowUsers:
        """Draw users of a few sizes that are those of the users, and of all kinds of shares.

        Args:
            data: the server's own data.
            num_classes: K.
            sizes: samples of each user, which users report to be averaged.
            shadows: users to draw.
            epochs: passes over a user's samples in a round.
            batch_size: samples a step.
            rng: source of the draws.
        """
        groups = []
        for part in np.array_split(np.sort(np.asarray(sizes)), min(_SIZES, len(sizes))):
            size = _whole_batches(int(np.median(part)), batch_size)
            shares = draw_shares(-(-shadows // _SIZES), num_classes, rng)
            counts = np.stack([rng.multinomial(size, row) for row in shares])
            groups.append(np.stack([_pick(data, row, rng) for row in counts]))
        seed = int(rng.integers(2**31))
        return cls(data, num_classes, epochs, batch_size, tuple(groups), seed)

    @cached_property
    def shares(self) -> Floats:
        """The label distribution of each user, ``users x K``."""
        labels = self.data.labels.numpy()
        rows = [np.bincount(labels[own], minlength=self.num_classes) for own in self._each]
        return np.stack([row / row.sum() for row in rows])

    @cached_property
    def steps(self) -> Floats:
        """Local steps of each user in a round."""
        return np.array([self.epochs * self._steps(len(own)) for own in self._each], float)

    @property
    def _each(self) -> Iterator[Ints]:
        return (own for group in self.groups for own in group)

    def _steps(self, size: int) -> int:
        return max(1, size // self.batch_size)

    def play(self, model: WhiteBox, training: FullTraining) -> ShadowRound:
        """Let all users train from a model, and one user for each class alone."""
        rng = np.random.default_rng(self.seed)
        names = frozenset(n for n, p in model.module.named_parameters() if p.requires_grad)
        found = [self._train(model, own, training, names, rng) for own in self.groups]
        after = {name: torch.cat([part[1][name] for part in found]) for name in sorted(names)}
        size = self.groups[len(self.groups) // 2].shape[1]
        counts = size * np.eye(self.num_classes, dtype=np.int64)
        pure = np.stack([_pick(self.data, row, rng) for row in counts])
        alone, _ = self._train(model, pure, training, names, rng)
        return ShadowRound([part[0] for part in found], after, alone)

    def _train(
        self,
        model: WhiteBox,
        own: Ints,
        training: FullTraining,
        names: frozenset[str],
        rng: np.random.Generator,
    ) -> tuple[Observation, Tensors]:
        steps = self.epochs * self._steps(own.shape[1])
        size = own.shape[1] // self._steps(own.shape[1])
        how = replace(training, local_steps=steps, batch_size=size)
        picks = np.concatenate([rng.permuted(own, axis=1) for _ in range(self.epochs)], axis=1)
        after = train_together(model, self.data, picks, how, names)
        before = {name: value.detach() for name, value in model.module.state_dict().items()}
        update = ReceivedUpdate(before, {**before, **after}, training=how, task=model.task)
        return update.observe(model.head), after


def _whole_batches(size: int, batch_size: int) -> int:
    return size if size < batch_size else size // batch_size * batch_size


def _pick(data: LabelledData, counts: Ints, rng: np.random.Generator) -> Ints:
    """Draw samples by class, twice only where a class has too few, any for one without data."""
    labels = data.labels.numpy()
    parts = []
    for label, number in enumerate(counts):
        pool = np.flatnonzero(labels == label)
        pool = pool if pool.size else np.arange(len(labels))
        parts.append(rng.choice(pool, number, replace=number > len(pool)))
    return rng.permutation(np.concatenate(parts))


__all__ = ["ShadowRound", "ShadowUsers"]
