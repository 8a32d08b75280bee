"""Counts of tokens from the layers below the head, where the head is frozen or withheld."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from labelleak.attacks.layers.reading import refuse_nothing
from labelleak.attacks.text.count_chances import likeliest, log_chances, moments
from labelleak.attacks.text.input_tokens import read_tokens
from labelleak.attacks.text.layer_sums import LayerSums, sketch_layers
from labelleak.core.card import Card
from labelleak.core.counts import Floats, Ints
from labelleak.core.frequencies import smooth_frequencies, told_frequencies
from labelleak.core.interfaces import Attack, Estimate, Prepared, samples
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.lazy import Tensor, torch
from labelleak.core.needs import OWN_DATA, Need
from labelleak.core.observation import Observation
from labelleak.core.sketches import Sketch
from labelleak.core.task import Task
from labelleak.core.white_box import WhiteBox
from labelleak.errors import NotApplicable
from labelleak.records.assumptions import MEASURED

# Tokens whose counts are told, the commonest first; the others are taken as expected.
_KEPT = 4096
# Labels of own text that are passed at most, backwards, too.
_MOST_LABELS = 2**15
# Counts of a smaller variance are taken as expected.
_TOLD = 1e-3
# Noise that is always taken to be there, as a share of what a label varies by; it stands for what
# few labels leave unknown of the covariance. Above the second it is said.
_RIDGE, _LOUD = 0.1, 3.0
# A gradient is doubted that lies so many times farther off than it should; and turns of that.
_DOUBTED, _TURNS = 2.0, 4
# Factors beyond this are taken to be of another scale.
_FAR = 4.0


@dataclass(frozen=True)
class TokenLayers(Attack):
    """Explain the gradient of the layers below the head as a sum of what each token leaves there.

    A label y at head input h adds ``J^T (p - e_y)`` to the gradient of a layer, J what its
    parameters do to the logits. Own text shows what a label of token v leaves on average, M_v (the
    means of rare tokens are drawn to a line that leads from their rows in the head to M), and its
    covariance S around that. So ``N g`` is normal around ``sum_v c_v M_v`` with covariance ``N S``.
    With counts of the mean and variance that their frequencies give, this is a system of least
    squares, whose answer and its doubt are a likelihood for each count alone; times the chance of
    the count at its frequency that is its posterior, and the counts are those with the highest
    expected ASR. Gradients are compared in sketches (`labelleak.core.sketches`), and layers are
    read from the head downwards as far as 4,096 numbers hold them. LoRA's second matrices are
    layers like others. Where the input embedding was shared, too, the tokens that it shows are
    labels, but for the first of each text, and others are labels only at a text's end.

    Of this project (no paper). The head itself is never read.

    Assumes text like the client's, a known scale and one gradient.

    Edge cases: where the gradient varies more than N labels make it, by noise or by steps of Adam,
    noise alike in all numbers is taken to be in it, which is said where it is much. Where it is
    four times too short or more, as after clipping, the likeliest scale is taken, and said. Of more
    than 4,096 tokens the rarest are never named. Layers that are no linear ones (normalisation,
    recurrence) are not read, and those that did not move in any trial neither. Cost: one pass
    forward and backward over own text (at most 32,768 labels), at each of them ``R^2`` for R
    sketched numbers, once for each set of layers; a system of as many unknowns as tokens for each
    N, and for each trial where the embedding tells or the gradient varies too much.
    """

    name = "token_layers"
    needs = OWN_DATA | {Need.FULL_GRADIENT, Need.PRIOR}
    cite = "labelleak"
    card = Card(
        "token layers",
        MEASURED,
        plain="Explains the layers below the head by what each token's labels leave there.",
    )
    by_position = True

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Count own text; it is passed at the first update of each set of layers."""
        model, data = known.model, known.auxiliary
        assert model is not None
        assert data is not None
        if model.task not in (Task.tokens, Task.classes):
            raise NotApplicable(f"{self.name} reads one label a position, of one softmax")
        labels, told = data.labels.numpy(), told_frequencies(known.prior)
        seen = np.bincount(labels[labels >= 0], minlength=num_classes)
        shares = smooth_frequencies(seen) if told is None else told
        ends = 1 / labels[0].size

        @cache
        def reading_of(moved: tuple[str, ...]) -> _Reading:
            return _Reading.of(model, data, moved, shares)

        def answer(observation: Observation) -> Estimate:
            total, shape = samples(observation), (*observation.trials, num_classes)
            if not observation.lr_known:
                raise NotApplicable(f"{self.name} needs the scale of gradients (the learning rate)")
            rest = observation.rest or {}
            reading = reading_of(tuple(name for name, one in rest.items() if bool(one.any())))
            read = read_tokens(observation).reshape(-1, num_classes)
            found = [
                reading.weigh(one, None if there.all() else there, ends, total)
                for one, there in zip(reading.sums_in(rest, shape[:-1], total), read, strict=True)
            ]
            counts, chances, odd = (np.stack(part) for part in zip(*found, strict=True))
            notes = ("unlikely_scale",) if odd.any() else ()
            return Estimate(counts.reshape(shape), chances.reshape(shape), notes)

        return answer


@dataclass(frozen=True, eq=False)
class _System:
    """Own text in coordinates in which what a label leaves varies alike.

    Attributes:
        root: of the covariance of a label, with noise.
        means: what a label of each token leaves, ``K' x R``.
        gram: their inner products.
    """

    root: Tensor
    means: Tensor
    gram: Tensor

    def turned(self, sums: Tensor) -> Tensor:
        """Return numbers in those coordinates."""
        found = torch.linalg.solve_triangular(self.root, sums[:, None], upper=False)
        return torch.as_tensor(found[:, 0])


@dataclass(frozen=True, eq=False)
class _Reading:
    """Own text at some layers.

    Attributes:
        sketches: of the layers' parameters.
        sums: what own text shows in them.
        shares: how often each token occurs.
        kept: the tokens whose counts are told.
        systems: by the noise that is taken to be there.
        covers: what was solved, by noise and N.
    """

    sketches: Mapping[str, Sketch]
    sums: LayerSums
    shares: Floats
    kept: Ints
    systems: dict[float, _System] = field(default_factory=dict)
    covers: dict[tuple[float, float], Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: WhiteBox, data: LabelledData, moved: Sequence[str], shares: Floats
    ) -> _Reading:
        """Pass own text.

        Raises:
            NotApplicable: if no linear layer below the head moved.
        """
        texts = -(-_MOST_LABELS // data.labels[0].numel())
        some = LabelledData(data.inputs[:texts], data.labels[:texts])
        sketches = sketch_layers(model, some, moved, len(shares))
        refuse_nothing(list(sketches), TokenLayers.name)
        sums = LayerSums.of(model, some, sketches, len(shares))
        return cls(sketches, sums, shares, np.sort(np.argsort(-shares, kind="stable")[:_KEPT]))

    def sums_in(
        self, rest: Mapping[str, Tensor], trials: tuple[int, ...], total: int
    ) -> Iterator[Tensor]:
        """Yield ``N g`` of each trial, less what rare tokens are expected to leave."""
        parts = []
        for name, sketch in self.sketches.items():
            own = rest[name].detach().cpu().float()
            parts.append(sketch.of_gradients(own.reshape(-1, *own.shape[len(trials) :])))
        rare = np.ones(len(self.shares), dtype=bool)
        rare[self.kept] = False
        expected = torch.from_numpy(total * self.shares * rare) @ self.sums.means
        yield from total * torch.cat(parts, dim=1).double() - expected

    def at(self, noise: float) -> _System:
        """Return the system under some noise, made once."""
        if noise not in self.systems:
            root, kept = self.sums.root(noise), torch.from_numpy(self.kept)
            means = torch.linalg.solve_triangular(root, self.sums.means[kept].mT, upper=False).mT
            self.systems[noise] = _System(root, means, means @ means.mT)
        return self.systems[noise]

    def weigh(
        self, sums: Tensor, read: np.ndarray | None, ends: float, total: int
    ) -> tuple[Ints, Floats, bool]:
        """Return one trial's counts, the chance that each token is there, and if its scale is odd.

        Args:
            sums: as `sums_in` gives them.
            read: which tokens were read, where that is known.
            ends: share of labels that are the last of their text.
            total: N.
        """
        there = None if read is None else read[self.kept]
        logs = log_chances(total * self.shares[self.kept], there, ends)
        mean, spread = moments(logs)
        told, noise, odd = np.flatnonzero(spread > _TOLD), _RIDGE, False
        for _ in range(_TURNS):
            system = self.at(noise)
            seen, own = system.turned(sums) / total**0.5, system.means / total**0.5
            expected = torch.from_numpy(mean) @ own
            usual = len(seen) + float(torch.from_numpy(spread) @ system.gram.diagonal()) / total
            doubt = float((seen - expected).square().sum()) / usual
            if doubt < _DOUBTED:
                break
            # A power of two, so that trials of one cell share a system.
            noise = 2.0 ** math.ceil(math.log2(noise * doubt))
        key = noise, total * max(1.0, doubt)
        cover = self._cover(system, told, spread, key, again=read is None and doubt <= 1)
        rows = own[torch.from_numpy(told)]
        factor = _likeliest_factor(seen, expected, rows, cover, max(1.0, doubt))
        if factor > _FAR:
            seen, odd = seen * factor, True
        onto = rows @ (seen - expected) / max(1.0, doubt)
        estimate = mean[told] + (cover @ onto).numpy()
        variance = np.clip(cover.diagonal().numpy(), 1e-12, spread[told] * (1 - 1e-9))
        # The likelihood of a count alone is what the estimate holds beyond the prior's moments.
        sure = 1 / variance - 1 / spread[told]
        middle = (estimate / variance - mean[told] / spread[told]) / sure
        counts = np.arange(logs.shape[1])
        logs[told] -= np.square(counts - middle[:, None]) * sure[:, None] / 2
        found, chances = likeliest(logs, total)
        every, each = np.zeros(len(self.shares), dtype=np.int64), -np.expm1(-total * self.shares)
        every[self.kept], each[self.kept] = found, chances
        return every, each, odd or noise > _LOUD

    def _cover(
        self, system: _System, told: Ints, spread: Floats, key: tuple[float, float], *, again: bool
    ) -> Tensor:
        """Return the covariance of counts once the gradient is seen; kept where it comes again."""
        if again and key in self.covers:
            return self.covers[key]
        own = torch.from_numpy(told)
        sure = system.gram[own][:, own] / key[1]
        sure.diagonal().add_(torch.from_numpy(1 / spread[told]))
        found = torch.as_tensor(torch.cholesky_inverse(torch.linalg.cholesky(sure)))
        if again:
            self.covers[key] = found
        return found


def _likeliest_factor(
    seen: Tensor, expected: Tensor, rows: Tensor, cover: Tensor, doubt: float
) -> float:
    """Return the factor s that makes s times what was seen likeliest.

    It is normal around what is expected, with the inverse covariance ``(1 - rows^T cover rows / d)
    / d`` under the doubt d, so ``R log s`` less half the squared distance is largest at the root of
    a quadratic equation.
    """

    def product(one: Tensor, other: Tensor) -> float:
        return float(one @ other - (rows @ one) @ (cover @ (rows @ other)) / doubt) / doubt

    square, along = product(seen, seen), product(seen, expected)
    if square <= 0:
        return 1.0
    return (along + math.sqrt(along**2 + 4 * square * len(seen))) / (2 * square)


__all__ = ["TokenLayers"]
