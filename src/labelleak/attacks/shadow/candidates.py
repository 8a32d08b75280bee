"""The shadow attack of many classes: presence first, then shadows of the candidates alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from labelleak.attacks.confusions import own_and_others
from labelleak.attacks.shadow.attack import Shadow, ShadowPosterior, best_estimate
from labelleak.attacks.shadow.batches import Bank, Head, lend
from labelleak.attacks.shadow.features import ClassFeatures
from labelleak.attacks.shadow.proved import bounds_of_one, proved_estimate
from labelleak.core.counts import Floats, Ints
from labelleak.core.interfaces import Estimate, samples
from labelleak.core.knowledge import PART_ENTRIES, FitCache, Knowledge
from labelleak.core.lazy import F, Tensor, torch
from labelleak.core.observation import Observation
from labelleak.core.seeding import stream
from labelleak.core.white_box import HeadPass
from labelleak.errors import NotApplicable

# Candidates: twice the labels, within these numbers.
_FEWEST, _MOST = 256, 1_000


@dataclass(frozen=True, eq=False)
class MergedHead(Head):
    """A head that answers for some classes, and for all others merged into one, which comes last.

    A softmax is the same over them: the merged logit is ``log sum exp`` of those merged.

    Attributes:
        among: the classes that are kept.
    """

    among: Ints

    def logits(self, inputs: Tensor) -> Tensor:
        """Answer for head inputs, ``n x (M + 1)``."""
        kept = torch.from_numpy(self.among)
        parts = []
        for part in torch.split(inputs, max(1, PART_ENTRIES // len(self.weight))):
            whole = F.linear(part, self.weight, self.bias)
            own = whole[:, kept]
            rest = whole.index_fill_(1, kept, -torch.inf).logsumexp(dim=1, keepdim=True)
            parts.append(torch.cat([own, rest], dim=1))
        return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class CandidateShadow:
    """The shadow attack of many classes, prepared for one model.

    With the classes beside the candidates merged into one, the head is that of a softmax over few
    classes, and so is its gradient, row for row. `ShadowPosterior` is asked about that one. Its
    network treats classes alike, so it is fitted once, on classes that the own data show first,
    whatever the candidates of an update are.

    Attributes:
        attack: its options.
        head: the model's head.
        inputs: own samples at the head.
        labels: their classes.
        means: what a sample leaves at its own class and at another, of bias and of row sums.
        seed: of everything drawn.
        fit_cache: where fits are kept for another time, if anywhere.
        references: the problems on which networks were fitted, by their number of candidates.
    """

    attack: Shadow
    head: Head
    inputs: Tensor
    labels: Ints
    means: tuple[tuple[Floats, Floats], ...]
    seed: int
    fit_cache: FitCache | None = None
    references: dict[int, ShadowPosterior] = field(default_factory=dict)

    @classmethod
    def of(
        cls, attack: Shadow, known: Knowledge, num_classes: int, rng: np.random.Generator
    ) -> CandidateShadow:
        """Pass the auxiliary data once, part by part."""
        assert known.model is not None
        passes, held = known.stream_own(int(rng.integers(2**31)))
        inputs: list[Tensor] = []
        labels = held.cpu().numpy()
        means = own_and_others(_noting(passes, inputs), labels)
        head = Head.of(known.model, torch.arange(num_classes))
        seed = int(rng.integers(2**31))
        return cls(attack, head, torch.cat(inputs), labels, means, seed, known.fit_cache)

    def __call__(self, observation: Observation) -> Estimate:
        """Return the counts of the largest expected ASR among each update's candidates."""
        total, classes = samples(observation), observation.num_classes
        if 2 * total > _MOST:
            raise NotApplicable(
                f"shadow models of {classes:,} classes look at {_MOST:,} of them, too few for "
                f"{total:,} labels"
            )
        assert observation.weight is not None
        weights = observation.weight.detach().cpu().reshape(-1, *observation.weight.shape[-2:])
        biases: Iterable[Tensor | None] = [None] * len(weights)
        if observation.bias is not None:
            biases = observation.bias.detach().cpu().reshape(-1, classes)
        each = [
            self._answer(Observation(weight, bias, total))
            for weight, bias in zip(weights, biases, strict=True)
        ]
        shape = (*observation.trials, classes)
        told = np.array([one.expected_asr for one in each])
        return Estimate(
            np.stack([one.counts for one in each]).reshape(shape),
            np.stack([one.scores for one in each]).reshape(shape),
            expected_asr=told.reshape(observation.trials),
        )

    def _answer(self, seen: Observation) -> Estimate:
        """Answer for one update."""
        total, classes = samples(seen), seen.num_classes
        if proved := proved_estimate(bounds_of_one(seen, self.head), ()):
            return proved
        among = self._candidates(seen)
        shown, labels, _ = self._shown(among)
        features = ClassFeatures.measure(shown, labels, self.attack.groups)
        merged = _merged(seen, among)
        posterior = self._reference(len(among)).learnt(total, seen.bias is not None)
        # Nothing is given to the merged class.
        least, most = np.zeros((1, len(among) + 1), np.int64), np.full((1, len(among) + 1), total)
        most[:, -1] = 0
        order = torch.arange(len(among) + 1)
        found = best_estimate(posterior, features(merged, total)[:1], order, (), (least, most))
        counts, scores = np.zeros(classes, dtype=np.int64), np.zeros(classes)
        counts[among], scores[among] = found.counts[:-1], found.scores[:-1]
        return Estimate(counts, scores, expected_asr=found.expected_asr)

    def _candidates(self, seen: Observation) -> Ints:
        """Choose classes: by the least signal and, in turn, by the most labels after PPLR."""
        signal = seen.row_sums if seen.bias is None else seen.bias_gradient
        own, other = self.means[seen.bias is None]
        slope = np.maximum(np.abs(other - own), np.finfo(np.float32).eps * np.abs(own).max())
        shares = (other - signal) * np.sign(other - own) / slope
        ranks = np.stack([_places(signal), _places(-shares)])
        number = min(len(signal) - 1, max(_FEWEST, 2 * samples(seen)))
        return np.argsort(ranks.min(axis=0), kind="stable")[:number]

    def _reference(self, number: int) -> ShadowPosterior:
        """Make the problem of the classes that come first in the own data."""
        if number not in self.references:
            among = self._order[:number]
            shown, labels, head = self._shown(among)
            rng = stream(self.seed, "candidates", number)
            self.references[number] = ShadowPosterior(
                self.attack,
                torch.arange(number + 1),
                ClassFeatures.measure(shown, labels, self.attack.groups),
                Bank.of(shown, labels, head, rng),
                shown,
                labels,
                head,
                self.seed,
                fit_cache=self.fit_cache,
            )
        return self.references[number]

    @cached_property
    def _order(self) -> Ints:
        """The classes in the order that they come in."""
        found, first = np.unique(self.labels, return_index=True)
        absent = np.setdiff1d(np.arange(len(self.head.weight)), found)
        return np.concatenate([found[np.argsort(first)], absent])

    def _shown(self, among: Ints) -> tuple[HeadPass, Tensor, MergedHead]:
        """Return own samples of the candidates and a few others, as the merged head sees them."""
        number, classes = len(among), len(self.head.weight)
        place = np.full(classes, number)
        place[among] = np.arange(number)
        own = place[self.labels]
        few = max(2, len(own) // classes)
        picks = np.concatenate([np.flatnonzero(own < number), np.flatnonzero(own == number)[:few]])
        if not (own[picks] < number).any():
            raise NotApplicable("no candidate class has auxiliary data, so no shadows can be made")
        rng = stream(self.seed, "lent", number)
        lent, labels = lend(torch.from_numpy(own[picks]), number + 1, rng)
        head = MergedHead(self.head.weight, self.head.bias, among)
        inputs = self.inputs[torch.from_numpy(picks)][lent]
        logits = head.logits(inputs)
        return HeadPass(inputs, logits, logits), labels, head


def _merged(seen: Observation, among: Ints) -> Observation:
    """Merge all classes but some into one, which comes last."""
    kept = torch.from_numpy(among)
    assert seen.weight is not None

    def merge(rows: Tensor) -> Tensor:
        own = rows[kept].double()
        rest = rows.sum(dim=0, dtype=torch.float64) - own.sum(dim=0)
        return torch.cat([own, rest[None]])[None]

    bias = None if seen.bias is None else merge(seen.bias)
    return Observation(merge(seen.weight), bias, seen.num_samples)


def _places(values: Floats) -> Ints:
    """Return the place of each value when they are sorted."""
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")


def _noting(passes: Iterable[HeadPass], inputs: list[Tensor]) -> Iterator[HeadPass]:
    """Note the head inputs of passes as they go by."""
    for seen in passes:
        inputs.append(seen.inputs.detach().cpu())
        yield seen


__all__ = ["CandidateShadow", "MergedHead"]
