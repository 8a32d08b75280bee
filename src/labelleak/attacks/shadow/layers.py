"""The shadow attack on the whole update: features of every layer beside those of the head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np

from labelleak.attacks.by_class import by_appearance
from labelleak.attacks.layers.reading import LayerReader, refuse_nothing
from labelleak.attacks.shadow.attack import EDITION, HALVES, Shadow, best_estimate, budget_of
from labelleak.attacks.shadow.batches import Head, draw_counts, lend
from labelleak.attacks.shadow.bridges import Bridges, folds_of, one_hot_errors
from labelleak.attacks.shadow.features import ClassFeatures, sureness
from labelleak.attacks.shadow.layer_bank import LayerBank, SampleRows
from labelleak.attacks.shadow.layer_clients import LayerClient, pick_samples
from labelleak.attacks.shadow.layer_features import Kit, Seen
from labelleak.attacks.shadow.learning import expected_with, learn_once
from labelleak.attacks.shadow.posterior import CountPosterior, Lesson
from labelleak.attacks.shadow.proved import bounds_of_one, proved_estimate
from labelleak.core.counts import Ints
from labelleak.core.fingerprints import fingerprint_tensors
from labelleak.core.interfaces import Estimate, Prepared, samples
from labelleak.core.knowledge import FitCache, Knowledge, LabelledData
from labelleak.core.lazy import Tensor, nn, torch
from labelleak.core.needs import OWN_DATA, Need
from labelleak.core.observation import Observation
from labelleak.core.seeding import stream
from labelleak.core.white_box import HeadPass
from labelleak.records.assumptions import Assumption

# Parts of the samples that are measured by what the others show.
_FOLDS = 3


@dataclass(frozen=True)
class LayerShadow(Shadow):
    """Learn P(c_i >= k | whole update) on shadow batches of every layer.

    As `Shadow`, with more to read: fully connected layers below the head as heads of their own, and
    two scores a class of every group of layers (`Bridges`). The network learns which of them to
    trust. The head is read where it was shared and sums to zero over classes.

    What single samples show of the maps is not what a client's do, so the samples are divided in
    three, and each part is measured by maps learnt from the others. Smoothed copies move a
    sample's inputs, its scores and what the bridges miss of its error along one line.

    Edge cases: as `Shadow`. Convolutions have no inputs of single positions in an update, so they
    are scored only. Of layers that did not move in any trial nothing is read.

    Cost: as `Shadow`, and a backward pass over the auxiliary data.
    """

    name = "shadow_layers"
    needs = OWN_DATA | {Need.FULL_GRADIENT}
    cite = "labelleak (posterior of counts learnt on shadow batches of all layers)"
    card = Shadow.card.renamed(
        "shadow models, all layers", "As shadow models, reading every layer.", quick_up_to=256
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Pass the auxiliary data once; fitting waits for the first update of each kind."""
        return LayerPosterior.of(self, known, num_classes, rng)


@dataclass(frozen=True)
class AdaptiveLayerShadow(LayerShadow):
    """The shadow attack on the whole update, its shadows passed through training and defense.

    As `LayerShadow`, by an attacker that knows how the client trains and what it does to its
    update: each shadow is the client's own update of all layers (`LayerClient`).

    Assumes what `LayerShadow` does but the one step and the lack of a defense.
    """

    name = "shadow_layers_adaptive"
    needs = LayerShadow.needs | {Need.TRAINING, Need.DEFENSE}
    cite = "labelleak (posterior of counts learnt on shadow clients, all layers)"
    card = Shadow.card.without(Assumption.ONE_STEP).renamed(
        "shadow models, all layers, adaptive",
        "As shadow models on all layers, passed through the client's defense.",
    )


@dataclass(frozen=True)
class _Shown:
    """What of an update is read: parameters below the head, and which of the head."""

    names: tuple[str, ...]
    weight: bool
    bias: bool


@dataclass(frozen=True, eq=False)
class LayerPosterior:
    """The attack prepared for one model.

    Attributes:
        attack: its options.
        reader: the samples at every layer, classes without samples lent some.
        labels: their classes in the attack's order.
        order: the classes in that order: as they first come in the auxiliary data.
        seed: of everything drawn for a fit.
        client: what passes shadows through training and defense; None for one plain step.
        fit_cache: where what was learnt of one plain step is kept for another time, if anywhere.
        expected: N of updates to come, where they are known.
        fitted: what was learnt so far, by N and by what is shown.
        kits: how updates are measured, by what is shown.
        halves: the same by halves of the samples, each for its share of the shadows of any N.
        banks: what shadows are drawn from, of any N, by what is shown.
    """

    attack: LayerShadow
    reader: LayerReader
    labels: Tensor
    order: Tensor
    seed: int
    client: LayerClient | None = None
    fit_cache: FitCache | None = None
    expected: tuple[int, ...] = ()
    fitted: dict[tuple[int, _Shown], CountPosterior] = field(default_factory=dict)
    kits: dict[_Shown, Kit] = field(default_factory=dict)
    halves: dict[_Shown, list[Kit]] = field(default_factory=dict)
    banks: dict[_Shown, LayerBank] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        attack: LayerShadow,
        known: Knowledge,
        num_classes: int,
        rng: np.random.Generator,
    ) -> LayerPosterior:
        """Pass the auxiliary data, class by class in order of appearance."""
        assert known.model is not None
        assert known.auxiliary is not None
        order = by_appearance(known.auxiliary.labels, num_classes)
        picks, labels = lend(torch.argsort(order)[known.auxiliary.labels], num_classes, rng)
        data = LabelledData(known.auxiliary.inputs[picks], order[labels])
        linear = (n for n, m in known.model.module.named_modules() if isinstance(m, nn.Linear))
        held = Knowledge(known.model, known.input_shape, data, made=known.made)
        reader = LayerReader.of(held, num_classes, rng, frozenset(linear))
        client = None
        if Need.DEFENSE in attack.needs:
            assert known.training is not None
            assert known.defense is not None
            client = LayerClient(known.model, data, known.training.filled(), known.defense)
        seed = int(rng.integers(2**31))
        if client is not None:  # whose updates of one N may take minutes
            return cls(attack, reader, labels, order, seed, client)
        cache, expected = known.fit_cache, known.expected
        return cls(attack, reader, labels, order, seed, None, cache, expected)

    def __call__(self, observation: Observation) -> Estimate:
        """Return the counts of the largest expected ASR, and that ASR; scores are P(c_i >= 1)."""
        total, gradients = samples(observation), self.reader.shown(observation)
        shown = self._what_is_shown(observation, gradients)
        refuse_nothing([*shown.names, *(["head"] if shown.weight else [])], self.attack.name)
        bounds = None
        if self.client is None and shown.bias:
            bounds = bounds_of_one(observation, self.own_head)
        if proved := proved_estimate(bounds, observation.trials):
            return proved
        if shown not in self.kits:
            self.kits[shown] = self._make_kit(shown)
        kit = self.kits[shown]
        if (total, shown) not in self.fitted:
            self._learn(total, shown, kit)
        below = {name: gradients[name] for name in shown.names}
        measured = kit.features(self._see(observation, below, shown, kit.bridges, total), total)
        fitted = self.fitted[total, shown]
        return best_estimate(fitted, measured, self.order, observation.trials, bounds)

    @cached_property
    def own_head(self) -> Head:
        """The model's head, its classes in their own order."""
        return Head.of(self.reader.model, torch.arange(len(self.order)))

    def _what_is_shown(self, observation: Observation, gradients: Mapping[str, Tensor]) -> _Shown:
        names = tuple(name for name in gradients if name not in self.reader.head)
        if self.client is None:
            weight, bias = (name in gradients for name in self.reader.head)
            return _Shown(names, weight, weight and bias)
        weight = observation.weight is not None and bool(observation.weight.any())
        return _Shown(names, weight, weight and observation.bias is not None)

    def _see(
        self,
        observation: Observation,
        below: Mapping[str, Tensor],
        shown: _Shown,
        bridges: Bridges,
        total: int,
    ) -> Seen:
        heads = {name: Observation(*parts) for name, parts in bridges.cross(below).items()}
        if shown.weight:
            weight, bias = observation.weight, observation.bias if shown.bias else None
            assert weight is not None
            heads[""] = Observation(
                weight[..., self.order, :].flatten(0, -3) if weight.dim() > 2 else weight[None],
                None if bias is None else bias[..., self.order].reshape(-1, len(self.order)),
            )
        trials = prod(observation.trials)
        return Seen(heads, total * bridges.score(self.reader.sketch(below), trials))

    @property
    def _errors(self) -> Tensor:
        return one_hot_errors(self.reader.table.seen.probabilities[:, self.order], self.labels)

    def _make_kit(self, shown: _Shown) -> Kit:
        bridges = self._learn_bridges(shown, torch.arange(len(self.labels)))
        groups, views = self.attack.groups, self._views(bridges, shown)
        heads = {n: ClassFeatures.measure(view, self.labels, groups) for n, view in views.items()}
        seen = self.reader.table.seen
        sure = sureness(seen.logits[:, self.order].double().softmax(dim=-1), self.labels)
        return Kit(bridges, heads, sure)

    def _learn_bridges(self, shown: _Shown, rows: Tensor) -> Bridges:
        return Bridges.learn(self.reader, shown.names, self._errors, self.labels, rows)

    def _learn(self, total: int, shown: _Shown, kit: Kit) -> None:
        """Learn of N labels, and of other N that are expected."""
        wanted = expected_with(total, self.expected, lambda n: (n, shown) in self.fitted)
        found = learn_once(
            self.fit_cache,
            self.attack.name,
            wanted,
            lambda number: self._fingerprint(number, shown),
            lambda number: self._lesson(number, shown, kit),
        )
        self.fitted.update({(n, shown): one for n, one in found.items()})

    def _fingerprint(self, total: int, shown: _Shown) -> str:
        """Hash all that a fit of one plain step depends on; bridges and features follow from it."""
        purpose = EDITION, str(torch.__version__), self.attack, self.seed, total, shown
        return fingerprint_tensors([(repr((*purpose, self._samples)), self.order)])

    @cached_property
    def _samples(self) -> str:
        """Hash the samples at every layer."""
        table = self.reader.table
        layers = [(n, t) for n, p in table.layers.items() for t in (p.inputs, p.signals)]
        head = ("head", self.reader.model.head_weight.detach())
        seen = ("inputs", table.seen.inputs), ("logits", table.seen.logits)
        return fingerprint_tensors([*table.rows.items(), *layers, *seen, ("", self.labels), head])

    def _lesson(self, total: int, shown: _Shown, kit: Kit) -> Lesson:
        """Draw shadows to learn from."""
        rng = stream(self.seed, "shadow", total, shown)
        batches = self.client.affords(self.attack.batches) if self.client else self.attack.batches
        number = budget_of(batches, total, len(self.order))
        counts = draw_counts(number, total, len(self.order), rng)
        make = self._from_bank if self.client is None else self._from_client
        parts = make(counts, shown, kit, rng)
        features = torch.cat(parts)
        trust = kit.trust(features.shape[2]) if self.client is None else None
        return Lesson(features, counts, total, self.attack.epochs, rng, trust=trust)

    def _views(self, bridges: Bridges, shown: _Shown) -> dict[str, HeadPass]:
        """Return the samples as each head sees them; the model's own is there under no name."""
        seen = self.reader.table.seen
        logits = seen.logits[:, self.order]
        inputs = {n: self.reader.table.layers[n].inputs[:, 0] for n in bridges.heads}
        if shown.weight:
            inputs[""] = seen.inputs
        return {name: HeadPass(own, logits, logits) for name, own in inputs.items()}

    def _from_bank(
        self, counts: Ints, shown: _Shown, kit: Kit, rng: np.random.Generator
    ) -> list[Tensor]:
        """Measure shadows whose every layer is a sum of rows."""
        views = self._views(kit.bridges, shown)
        if shown not in self.banks:
            self.banks[shown] = self._make_bank(shown, kit.bridges)
        bank = self.banks[shown]
        biased = {name for name in views if f"{name}.bias" in shown.names}
        biased |= {""} if shown.bias else set()
        if shown not in self.halves:
            halved = stream(self.seed, "halves", shown)
            self.halves[shown] = kit.halved(views, self.labels, self.attack.groups, halved, HALVES)
        parts = []
        shares = np.array_split(counts, min(HALVES, len(counts)))
        for own, measure in zip(shares, self.halves[shown], strict=False):
            for slice_ in np.split(own, range(bank.at_once, len(own), bank.at_once)):
                heads, scores = bank.observe(slice_, biased, rng)
                parts.append(measure.features(Seen(heads, scores), int(counts[0].sum())))
        return parts

    def _make_bank(self, shown: _Shown, bridges: Bridges) -> LayerBank:
        rng = stream(self.seed, "bank", shown)
        rows, views = self._honest(shown, bridges, rng), self._views(bridges, shown)
        return LayerBank.of(self.reader, rows, views, self._errors, self.labels, self.order, rng)

    def _honest(self, shown: _Shown, bridges: Bridges, rng: np.random.Generator) -> SampleRows:
        """Measure every sample by maps that were learnt from the others."""
        folds = torch.from_numpy(folds_of(self.labels.numpy(), _FOLDS, rng))
        errors = {name: torch.zeros_like(self._errors) for name in bridges.heads}
        width = sum(one.width for one in bridges.scores)
        scores = torch.zeros(len(self.labels), width).double()
        for fold in range(_FOLDS):
            own, others = (torch.nonzero(which)[:, 0] for which in (folds == fold, folds != fold))
            learnt = self._learn_bridges(shown, others)
            for name, found in learnt.errors(self.reader, own).items():
                errors[name][own] = found
            scores[own] = learnt.score_samples(own)
        return SampleRows(errors, scores)

    def _from_client(
        self, counts: Ints, shown: _Shown, kit: Kit, rng: np.random.Generator
    ) -> list[Tensor]:
        """Measure shadows that clients made of one part of the samples by maps of the others."""
        assert self.client is not None
        views = self._views(kit.bridges, shown)
        folds = torch.from_numpy(folds_of(self.labels.numpy(), _FOLDS, rng))
        total, parts = int(counts[0].sum()), []
        for fold, own in enumerate(np.array_split(counts, _FOLDS)):
            others = torch.nonzero(folds != fold)[:, 0]
            learnt = self._learn_bridges(shown, others)
            (measure,) = kit.halved(views, self.labels, self.attack.groups, rng, 1)
            pool = np.flatnonzero(folds.numpy() == fold)
            picks = pick_samples(pool, self.labels.numpy(), own, rng)
            for seen in self.client.share(picks, rng):
                below = {name: (seen.rest or {})[name].float() for name in shown.names}
                measured = self._see(seen, below, shown, learnt, total)
                parts.append(measure.features(measured, total))
        return parts


__all__ = ["AdaptiveLayerShadow", "LayerShadow"]
