"""The shadow attack: learn what updates look like from batches of one's own, then guess at best."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from labelleak.attacks.bounds import hold_tails
from labelleak.attacks.by_class import by_appearance
from labelleak.attacks.many_confusions import DIRECT
from labelleak.attacks.shadow.batches import Bank, Head, draw_counts, lend
from labelleak.attacks.shadow.clients import ShadowClient
from labelleak.attacks.shadow.features import GROUPS, ClassFeatures
from labelleak.attacks.shadow.learning import expected_with, learn_once
from labelleak.attacks.shadow.posterior import CountPosterior, Lesson, expected_success
from labelleak.attacks.shadow.proved import Bounds, bounds_of_one, proved_estimate
from labelleak.core.card import Card
from labelleak.core.counts import Floats
from labelleak.core.fingerprints import fingerprint_tensors
from labelleak.core.interfaces import Attack, Estimate, Prepared, samples
from labelleak.core.knowledge import FitCache, Knowledge
from labelleak.core.lazy import Tensor, torch
from labelleak.core.needs import OWN_DATA, READS_WEIGHT, Need
from labelleak.core.observation import Observation
from labelleak.core.seeding import stream
from labelleak.core.white_box import HeadPass
from labelleak.errors import BadInput
from labelleak.records.assumptions import SIZES, Assumption

# Many classes and large batches get fewer shadows: rows to learn from, and samples to add up.
_ROWS_EACH, _SAMPLES_EACH, _FEWEST = 20, 250, 100
# Raised whenever a fit of the same data comes out otherwise, so that old notes are not taken.
EDITION = 13
# Halves of the auxiliary data that shadows are measured by, each for its share of them.
HALVES = 6
_SLICE_ENTRIES = 2**23


@dataclass(frozen=True)
class Shadow(Attack):
    """Learn P(c_i >= k | update) on shadow batches and give the counts that maximise expected ASR.

    The attacker draws batches from its auxiliary data under a mixture of priors
    (`draw_counts`), makes the head gradient of each by the closed form ``(p - e_y) h^T``
    over one pass through the model, measures each class of each batch (`ClassFeatures`) and
    fits one network for all classes to the counts (`CountPosterior`). For an update it
    then takes the N largest ``P(c_i >= k)`` (`rounding.best_counts`), which maximises expected ASR
    under the mixture. Where the update says nothing that is the free guess without a scheme.
    Of one sample the gradient proves the label (`prove_label`), and that is held to.

    It is told no prior: whatever the scheme, the mixture stands. Assumes auxiliary data like the
    client's, one step, and an update that no defense has touched.

    Edge cases: a class without auxiliary data is modelled by all of them under its label. A
    head without a bias is read by its rows alone. An update unlike every shadow is held at the edge
    of what was learnt. In train mode batch norm sees auxiliary batches.

    Cost: one pass over the auxiliary data; at the first update of each N it fits, one or two
    seconds at the default budget, and keeps what it learnt; where other N are known to come, it
    fits for them too, in less time together; then ``K D + K N`` a trial. Above 1,000 classes
    presence comes first: 256 candidates or more, twice N, are looked at and all others merged into
    one class (`CandidateShadow`), for up to 500 labels.

    Attributes:
        batches: shadow batches, the budget; fewer are drawn above 20 classes or 250 labels.
        epochs: passes over them; half as many where a straight line nearly tells the counts.
        groups: groups of features that are used; see `ClassFeatures`.
    """

    batches: int = 4000
    epochs: int = 4
    groups: tuple[str, ...] = GROUPS

    name = "shadow"
    needs = READS_WEIGHT | OWN_DATA
    cite = "labelleak (posterior of counts learnt on shadow batches)"
    card = Card(
        "shadow models",
        SIZES | {Assumption.HARD_LABELS, Assumption.EQUAL_CLASSES, Assumption.ONE_STEP},
        standard=True,
        learns=True,
        quick_up_to=10_000,
        plain="Learns to read counts off practice updates made of the attacker's own data.",
    )

    def __post_init__(self) -> None:
        if self.batches < 1 or self.epochs < 1:
            raise BadInput("the shadow attack needs at least one batch and one epoch")
        unknown = set(self.groups) - set(GROUPS)
        if unknown or not self.groups:
            raise BadInput(f"groups of features are chosen from {', '.join(GROUPS)}")

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Pass the auxiliary data once; fitting waits for the first update of each N."""
        if num_classes > DIRECT and Need.DEFENSE not in self.needs:
            from labelleak.attacks.shadow.candidates import CandidateShadow  # which asks this one

            return CandidateShadow.of(self, known, num_classes, rng)
        ready = ShadowPosterior.of(self, known, num_classes, rng)
        if Need.DEFENSE not in self.needs:
            return ready
        # Updates that passed through a client may take minutes, so none is made before its time.
        client = ShadowClient.of(known, ready.order, ready.bank)
        return replace(ready, source=client, expected=())


@dataclass(frozen=True)
class AdaptiveShadow(Shadow):
    """The shadow attack, its shadows passed through the client's local training and defense.

    As `Shadow`, by an attacker that knows how the client trains and what it does to its
    update (`ShadowClient`). Noise, pruning and signs at one step cost little more, defenses that
    look at the whole update some seconds. Local steps are taken for many shadows side by side, up
    to 20,000 in all; where every shadow has to be made by itself, an eighth of the budget is drawn.

    Assumes what `Shadow` does but the one step and the lack of a defense. A class without
    auxiliary data then lends samples under their true label.
    """

    name = "shadow_adaptive"
    needs = Shadow.needs | {Need.TRAINING, Need.DEFENSE}
    cite = "labelleak (posterior of counts learnt on shadow clients)"
    card = Shadow.card.without(Assumption.ONE_STEP).renamed(
        "shadow models, adaptive",
        "As shadow models, with practice updates that pass through the client's defense.",
        quick_up_to=DIRECT,
    )


@dataclass(frozen=True, eq=False)
class ShadowPosterior:
    """The attack prepared for one model: ask it for counts, or for the posterior behind them.

    Attributes:
        attack: its options.
        order: the classes in the order that they are worked on: as they first come in
            the auxiliary data, so that class names do not matter.
        features: how an update is measured.
        bank: what shadows are drawn from.
        shown: the samples at the head.
        labels: their classes in that order.
        head: the model's head, its classes in their own order.
        seed: of everything drawn for a fit.
        source: what passes shadows through training and defense; None for one plain step.
        fit_cache: where fits are kept for another time, if anywhere.
        expected: N of updates to come, where they are known.
        fitted: what was learnt so far, by N and by whether a bias is seen.
    """

    attack: Shadow
    order: Tensor
    features: ClassFeatures
    bank: Bank
    shown: HeadPass
    labels: Tensor
    head: Head
    seed: int
    source: ShadowClient | None = None
    fit_cache: FitCache | None = None
    expected: tuple[int, ...] = ()
    fitted: dict[tuple[int, bool], CountPosterior] = field(default_factory=dict)

    @classmethod
    def of(
        cls, attack: Shadow, known: Knowledge, num_classes: int, rng: np.random.Generator
    ) -> ShadowPosterior:
        """Pass the auxiliary data, class by class in order of appearance."""
        assert known.model is not None
        seen, held = known.pass_own(int(rng.integers(2**31)))
        order = by_appearance(held, num_classes)
        own_labels = torch.argsort(order)[held]
        picks, labels = lend(own_labels, num_classes, rng)
        inputs = seen.inputs.detach().cpu()[picks]
        logits = seen.logits.detach().cpu()[picks][:, order]
        shown = HeadPass(inputs, logits, logits)
        bank = Bank.of(shown, labels, Head.of(known.model, order), rng)
        features = ClassFeatures.measure(shown, labels, attack.groups)
        seed = int(rng.integers(2**31))
        head, expected = Head.of(known.model, torch.arange(num_classes)), known.expected
        cache = known.fit_cache
        return cls(attack, order, features, bank, shown, labels, head, seed, None, cache, expected)

    def __call__(self, observation: Observation) -> Estimate:
        """Return the counts of the largest expected ASR, and that ASR; scores are P(c_i >= 1)."""
        bounds = self._bounds(observation)
        if proved := proved_estimate(bounds, observation.trials):
            return proved
        measured, posterior = self._measure(observation), self._posterior(observation)
        return best_estimate(posterior, measured, self.order, observation.trials, bounds)

    def tails(self, observation: Observation) -> Floats:
        """Give P(c_i >= k | update) for k = 1 .. N, ``*R x K x N``."""
        tails = self._posterior(observation).tails(self._measure(observation))
        named = hold_tails(tails[:, torch.argsort(self.order).numpy()], self._bounds(observation))
        return np.asarray(named.reshape(*observation.trials, *named.shape[1:]))

    @cached_property
    def halves(self) -> list[ClassFeatures]:
        """Measures by halves of the samples, each for its share of the shadows of any N."""
        rng, groups = stream(self.seed, "halves"), self.attack.groups
        return [
            ClassFeatures.measure_half(self.shown, self.labels, groups, rng) for _ in range(HALVES)
        ]

    def _measure(self, observation: Observation) -> Tensor:
        assert observation.weight is not None
        bias = None if observation.bias is None else observation.bias[..., self.order]
        weight = observation.weight[..., self.order, :]
        flat = Observation(
            weight.reshape(-1, *weight.shape[-2:]),
            None if bias is None else bias.reshape(-1, bias.shape[-1]),
        )
        return self.features(flat, samples(observation))

    def _bounds(self, observation: Observation) -> Bounds | None:
        return None if self.source is not None else bounds_of_one(observation, self.head)

    def _posterior(self, observation: Observation) -> CountPosterior:
        return self.learnt(samples(observation), observation.bias is not None)

    def learnt(self, total: int, has_bias: bool) -> CountPosterior:
        """Return what is learnt of N labels, with or without a bias; it is fitted once.

        What is expected of other N is learnt with it.
        """
        if (total, has_bias) not in self.fitted:
            wanted = expected_with(total, self.expected, lambda n: (n, has_bias) in self.fitted)
            found = learn_once(
                self.fit_cache,
                self.attack.name,
                wanted,
                lambda number: self._fingerprint(number, has_bias),
                lambda number: self._lesson(number, has_bias),
            )
            self.fitted.update({(n, has_bias): one for n, one in found.items()})
        return self.fitted[total, has_bias]

    def _fingerprint(self, total: int, has_bias: bool) -> str:
        """Hash all that a fit depends on."""
        client = "" if self.source is None else self.source.fingerprint()
        purpose = EDITION, str(torch.__version__), self.attack, self.seed, total, has_bias, client
        return fingerprint_tensors([(repr((*purpose, self._samples)), self.order)])

    @cached_property
    def _samples(self) -> str:
        """Hash the samples that shadows are drawn from."""
        shown, table = self.shown, self.bank.table
        held = {"inputs": shown.inputs, "logits": shown.logits, "labels": self.labels}
        made = {"copies": table.inputs, "errors": table.errors}
        return fingerprint_tensors((held | made).items())

    def _lesson(self, total: int, has_bias: bool) -> Lesson:
        rng = stream(self.seed, "shadow", total, has_bias)
        observe = self.bank.observe if self.source is None else self.source.observer()
        classes, budget = len(self.order), self.attack.batches
        if self.source is not None:
            budget = self.source.affords(budget)
        counts = draw_counts(budget_of(budget, total, classes), total, classes, rng)
        # Slices keep the gradients of some thousand shadows from being held at once.
        size = max(1, _SLICE_ENTRIES // (classes * self.bank.table.inputs.shape[1]))
        parts = []
        shares = np.array_split(counts, min(HALVES, len(counts)))
        for own, features in zip(shares, self.halves, strict=False):
            for slice_ in np.split(own, range(size, len(own), size)):
                seen = observe(slice_, rng)
                bias = seen.bias if has_bias else None
                parts.append(features(Observation(seen.weight, bias), total))
        return Lesson(torch.cat(parts), counts, total, self.attack.epochs, rng)


def best_estimate(
    posterior: CountPosterior,
    measured: Tensor,
    order: Tensor,
    trials: tuple[int, ...],
    bounds: Bounds | None = None,
) -> Estimate:
    """Return the counts of the largest expected ASR, in slices that fit into memory.

    Args:
        posterior: what was learnt.
        measured: ``T x K x F`` features, T for all trials together.
        order: the classes in the features' order.
        trials: leading dimensions of the answer.
        bounds: least and most counts that are possible, ``T x K`` each.
    """
    places = torch.argsort(order).numpy()
    few = min(measured.shape[1], posterior.total)
    size = max(1, _SLICE_ENTRIES // (few * posterior.total + 64 * measured.shape[1]))
    found = []
    for start in range(0, len(measured), size):
        part = slice(start, start + size)
        own = None if bounds is None else (bounds[0][part], bounds[1][part])
        found.append(posterior.best(measured[part], places, own))
    counts, told, present = (np.concatenate(column) for column in zip(*found, strict=True))
    shape = (*trials, measured.shape[1])
    return Estimate(
        counts.reshape(shape), present.reshape(shape), expected_asr=told.reshape(trials)
    )


def budget_of(batches: int, total: int, classes: int) -> int:
    """Say how many shadows a budget gives: fewer of many classes or large batches."""
    most = min(_ROWS_EACH * batches // classes, _SAMPLES_EACH * batches // total, batches)
    return max(most, min(_FEWEST, batches))


__all__ = [
    "EDITION",
    "HALVES",
    "AdaptiveShadow",
    "Shadow",
    "ShadowPosterior",
    "expected_success",
]
