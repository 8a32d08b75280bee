"""A posterior of label counts learnt from examples, the same for every class of a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labelleak.attacks.bounds import hold_tails
from labelleak.attacks.shadow.training import Exercise, train
from labelleak.core.counts import Floats, Ints, smallest
from labelleak.core.lazy import Tensor, torch
from labelleak.core.rounding import best_counts
from labelleak.core.seeding import torch_seeded
from labelleak.errors import BadInput

if TYPE_CHECKING:
    from labelleak.attacks.shadow.net import CountNet

# Numbers of lessons that are learnt in one.
_TOGETHER = 2**24
# The least chance that is given, of a count and against it.
_UNSEEN = 1e-4
# Fields of the posterior that are kept beside its network.
_LEARNT = ("middle", "size", "lowest", "highest", "classes")


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a posterior is learnt from; the arguments of `CountPosterior.fit`."""

    features: Tensor
    counts: Ints
    total: int
    epochs: int
    rng: np.random.Generator
    width: int = 32
    trust: Tensor | None = None

    def scaled(self, posterior: CountPosterior) -> Exercise:
        """Return it as the posterior's network reads it."""
        # None lies beyond what examples reached, since these are they.
        features = self.features.sub(posterior.middle).div_(posterior.size).float().numpy()
        return Exercise(features, self.counts, self.total, self.epochs, self.rng)


@dataclass(frozen=True, eq=False)
class CountPosterior:
    """P(c_i >= k | features of all classes), for one N.

    Attributes:
        net: what was learnt.
        middle: mean of each feature over the examples.
        size: their standard deviation.
        lowest: the least of each feature that an example had.
        highest: the greatest.
        classes: K.
        total: N.
    """

    net: CountNet
    middle: Tensor
    size: Tensor
    lowest: Tensor
    highest: Tensor
    classes: Tensor
    total: int

    @classmethod
    def fit(
        cls,
        features: Tensor,
        counts: Ints,
        total: int,
        *,
        epochs: int,
        rng: np.random.Generator,
        width: int = 32,
        trust: Tensor | None = None,
    ) -> CountPosterior:
        """Learn from examples by maximum likelihood of each class's count (AdamW, one cycle).

        Args:
            features: ``S x K x F``.
            counts: ``S x K``, each row summing to N.
            total: N.
            epochs: passes over the examples.
            rng: source of the first weights and of the order of examples.
            width: numbers in each hidden layer.
            trust: what each feature counts, F numbers; 1 if left out.
        """
        return cls.fit_all([Lesson(features, counts, total, epochs, rng, width, trust)])[0]

    @classmethod
    def fit_all(cls, lessons: Sequence[Lesson]) -> list[CountPosterior]:
        """Learn each lesson as `fit` does, those of one shape in one, which takes less time."""
        begun = [cls._begin(lesson) for lesson in lessons]
        alike: dict[tuple[int, ...], list[int]] = {}
        for place, lesson in enumerate(lessons):
            alike.setdefault((*lesson.features.shape, lesson.width), []).append(place)
        for places in alike.values():
            size = max(1, _TOGETHER // lessons[places[0]].features.numel())
            for start in range(0, len(places), size):
                part = places[start : start + size]
                nets = [begun[place].net for place in part]
                train(nets, [lessons[place].scaled(begun[place]) for place in part])
        return begun

    @classmethod
    def _begin(cls, lesson: Lesson) -> CountPosterior:
        features, classes = lesson.features, lesson.counts.shape[1]
        middle = features.mean(dim=(0, 1))
        size = features.sub(middle).square_().mean(dim=(0, 1)).sqrt() + 1e-6
        size = size if lesson.trust is None else size / lesson.trust
        lowest, highest = features.amin(dim=(0, 1)), features.amax(dim=(0, 1))
        with torch_seeded(int(lesson.rng.integers(2**31))):
            net = _make_net(features.shape[-1], lesson.width, lesson.total, classes)
        return cls(net, middle, size, lowest, highest, torch.tensor(classes), lesson.total)

    def pack(self) -> dict[str, Tensor]:
        """Return everything that was learnt as tensors by name; `unpack` is the reverse."""
        own = {name: getattr(self, name) for name in _LEARNT}
        return {**own, **{f"net.{name}": value for name, value in self.net.state_dict().items()}}

    @classmethod
    def unpack(cls, packed: Mapping[str, Tensor], total: int) -> CountPosterior:
        """Make a posterior of what `pack` gave; its answers are the same to the last bit.

        Raises:
            BadInput: if it is not what `pack` gave.
        """
        try:
            width, features = packed["net.first.weight"].shape
            with torch_seeded(0):  # its first weights are written over
                net = _make_net(features // 2, width, total, int(packed["classes"]))
            parts = {k.removeprefix("net."): v for k, v in packed.items() if k.startswith("net.")}
            net.load_state_dict(parts)
            own = {name: packed[name] for name in _LEARNT}
        except (KeyError, RuntimeError, ValueError, ZeroDivisionError) as error:
            raise BadInput(f"this is no posterior of counts: {error}") from error
        if any(own[name].shape != (features // 2,) for name in _LEARNT[:-1]):
            raise BadInput("this posterior's features do not fit its network")
        return cls(net, total=total, **own)

    def tails(self, features: Tensor) -> Floats:
        """Give P(c_i >= k) for k = 1 .. N, ``T x K x N``; it falls with k by construction."""
        with torch.no_grad():
            return _tails(self.net(self._scaled(features)), self.total)

    def best(
        self, features: Tensor, order: Ints, bounds: tuple[Ints, Ints] | None = None
    ) -> tuple[Ints, Floats, Floats]:
        """Return the counts of the largest expected ASR, that ASR, and P(c_i >= 1).

        Presence comes first: as chances fall with k, the N largest of all are those of the N
        classes likeliest to be there, so the cost grows as K + N^2 and not as K N.

        Args:
            features: ``T x K x F``.
            order: the classes in the order of the answers, which settles ties.
            bounds: least and most counts that are possible, ``T x K`` each, in that order.
        """
        with torch.no_grad():
            parts = tuple(
                one[:, torch.from_numpy(order)] for one in self.net(self._scaled(features))
            )
            present = hold_tails(_tails(parts, 1), bounds)[..., 0]
            trials, classes = present.shape
            if classes > self.total:
                first = _ranked(present[..., None], bounds)[..., 0]
                likely = np.nonzero(smallest(-first, self.total))[1].reshape(trials, -1)
                rows = torch.from_numpy(likely)[..., None].expand(-1, -1, parts[0].shape[-1])
                parts = tuple(one.gather(1, rows) for one in parts)
            else:
                likely = np.broadcast_to(np.arange(classes), present.shape)
            tails = _tails(parts, self.total)
        if bounds is not None:
            least, most = (np.take_along_axis(bound, likely, axis=1) for bound in bounds)
            bounds = least, most
            tails = hold_tails(tails, bounds)
        own = best_counts(_ranked(tails, bounds), self.total)
        counts = np.zeros(present.shape, dtype=np.int64)
        np.put_along_axis(counts, likely, own, axis=1)
        return counts, expected_success(tails, own), present

    def _scaled(self, features: Tensor) -> Tensor:
        # What no example reached is held at the edge, so that it cannot run away.
        held = torch.minimum(torch.maximum(features, self.lowest), self.highest)
        return ((held - self.middle) / self.size).float()


def _ranked(tails: Floats, bounds: tuple[Ints, Ints] | None) -> Floats:
    """Put what is proved before all that only seems certain, and what cannot be behind all."""
    if bounds is None:
        return tails
    least, most = (bound[..., None] for bound in bounds)
    k = np.arange(1, tails.shape[-1] + 1)
    return np.asarray(tails + (k <= least) - (k > most))


def expected_success(tails: Floats, counts: Ints) -> Floats:
    """Return the ASR that a posterior expects of guessed counts: ``sum_i sum_{k<=g_i} P / N``.

    Args:
        tails: P(c_i >= k) for k = 1 .. N, ``*R x K x N``.
        counts: the guess g, ``*R x K``.

    >>> expected_success(np.array([[0.9, 0.5], [0.5, 0.1]]), np.array([2, 0])).item()
    0.7
    """
    taken = np.arange(tails.shape[-1]) < counts[..., None]
    return np.asarray(np.where(taken, tails, 0.0).sum(axis=(-2, -1)) / tails.shape[-1])


def _tails(parts: tuple[Tensor, ...], most: int) -> Floats:
    """P(c_i >= k) for k = 1 .. most, of mixtures of logistics of sqrt(c)."""
    centres, inverse, weights = parts
    steps = torch.sqrt(torch.arange(1, most + 1) - 0.5)
    chances = torch.zeros(*centres.shape[:-1], most)
    for part in range(weights.shape[-1]):
        height = (centres[..., part, None] - steps) * inverse[..., part, None]
        chances += weights[..., part, None] * torch.sigmoid(height)
    # Some thousand shadows show no chance that is nearer to 0 or 1; the order of chances stays.
    return np.asarray((chances.double().numpy() + _UNSEEN) / (1 + 2 * _UNSEEN))


def _make_net(features: int, width: int, total: int, classes: int) -> CountNet:
    from labelleak.attacks.shadow.net import CountNet  # a class of torch's, so torch is loaded

    return CountNet(features, width, math.sqrt(max(total / classes, 1.0)))


__all__ = ["CountPosterior", "Lesson", "expected_success"]
