"""What an attack is, what it may know, and what it answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np

from labelleak.core.card import Card
from labelleak.core.counts import Floats, Ints
from labelleak.core.lazy import Tensor, torch
from labelleak.core.needs import Need
from labelleak.core.observation import Observation
from labelleak.core.priors import EachPrior, Prior, UniformPrior
from labelleak.core.task import SEVERAL, Task
from labelleak.core.training import LocalTraining
from labelleak.core.update import Memory, Scope, SharedTensors
from labelleak.core.white_box import HeadPass, OneLabel, WhiteBox
from labelleak.errors import BadInput, NotApplicable

# Rows at the head that stand for a dense task's own data; more only cost.
MOST_ROWS = 20_000
# Logits of own texts that are held at once.
MOST_ENTRIES = 2**25


@dataclass(frozen=True, eq=False)
class LabelledData:
    """Inputs with their labels.

    Attributes:
        inputs: ``n x ...`` as the model takes them.
        labels: ``n`` class indices, int64; ``n x`` positions of a dense task, negative where a
            position has none.
    """

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.labels):
            raise BadInput(f"{len(self.inputs)} inputs came with {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.inputs.shape[1:])) or "one number"
        return f"<LabelledData: {len(self):,} rows of {shape}>"


class Defense(Protocol):
    """What a client does to hide its labels: to its update, or to how it computes it.

    Immutable and without hidden state: what must last from round to round is a `Memory` that is
    handed in and given back. The same generator state gives the same answer.
    """

    @property
    def label(self) -> str:
        """The text form, as on the command line and in records."""
        ...

    @property
    def scope(self) -> Scope:
        """How much of an update must be at hand for the answer to be exact."""
        ...

    @property
    def changes_training(self) -> bool:
        """Whether `gradients` differs from the plain gradients of the mean cross-entropy."""
        ...

    def gradients(
        self,
        model: WhiteBox,
        batches: Sequence[LabelledData],
        rng: np.random.Generator,
        *,
        full: bool = False,
    ) -> SharedTensors:
        """Compute each batch's gradient as the client does, before `apply`."""
        ...

    def apply(
        self, update: SharedTensors, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[SharedTensors, Memory | None]:
        """Return what is shared in place of an update, and what the client keeps for its next."""
        ...


class FitCache(Protocol):
    """Where an attack keeps what it learnt at some cost, for another time with the same knowledge.

    The key is a fingerprint of all that the answer depends on, so what is found under it is to the
    last bit what would be learnt anew. An attack sees no more of where it is kept.
    """

    def recall(self, what: str, key: str) -> Mapping[str, Tensor] | None:
        """Return what was noted under a key; None if nothing was, and it is about to be learnt.

        Args:
            what: what it is, in words for whoever waits.
            key: the fingerprint.
        """
        ...

    def note(self, key: str, learnt: Mapping[str, Tensor]) -> None:
        """Keep what was learnt."""
        ...


_UNIFORM = UniformPrior()


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What the attacker holds beside the update; a field is None where it is not granted.

    Attributes:
        model: the model that the update belongs to, as the client ran it.
        input_shape: shape of one input, which comes with the model.
        auxiliary: labelled data of the attacker's own.
        prior: how label counts are distributed before the update is seen.
        training: how the client trained.
        defense: what the client does to its update before it is shared.
        fit_cache: where attacks keep what they learn; no knowledge of its own.
    """

    model: WhiteBox | None = None
    input_shape: tuple[int, ...] | None = None
    auxiliary: LabelledData | None = None
    prior: Prior = _UNIFORM
    training: LocalTraining | None = None
    defense: Defense | None = None
    fit_cache: FitCache | None = None

    @property
    def has_several(self) -> bool:
        """Whether an input has several labels, each a problem of its own."""
        task = None if self.model is None else self.model.task
        return task is Task.multilabel or isinstance(self.prior, EachPrior)

    def of_label(self, number: int) -> Knowledge:
        """Return what is known of one label of several."""
        model, data, prior = self.model, self.auxiliary, self.prior
        return replace(
            self,
            model=None if model is None else OneLabel(model.module, model.head, number),
            auxiliary=None if data is None else LabelledData(data.inputs, data.labels[:, number]),
            prior=prior.each[number] if isinstance(prior, EachPrior) else prior,
        )

    @property
    def dummy_shape(self) -> tuple[int, ...]:
        """The shape of one input, for attacks that make inputs of their own.

        Raises:
            NotApplicable: if it is not known.
        """
        if self.input_shape is None:
            raise NotApplicable("dummies need the shape of the model's inputs; give input_shape")
        return self.input_shape

    def pass_own(
        self, seed: int = 0, *, most: int | None = None, order: Tensor | None = None
    ) -> tuple[HeadPass, Tensor]:
        """Pass the auxiliary data through the model; return what its head shows, and each label.

        Of a dense task every position is a row, those without a label left out, thinned to
        `MOST_ROWS`.

        Args:
            seed: seed of dropout and the like.
            most: inputs that are passed at most.
            order: of the inputs.

        Raises:
            NotApplicable: if the head does not give one row a label.
        """
        assert self.model is not None
        assert self.auxiliary is not None
        data = self.auxiliary
        if self.model.task is Task.tokens:
            texts = self.model.texts_in(MOST_ENTRIES, data.labels.shape[-1])
            most = texts if most is None else min(most, texts)
        inputs, labels = (part if order is None else part[order] for part in vars(data).values())
        seen, labels = self.model.run_all(inputs[:most], seed=seed), labels[:most]
        if self.model.task is Task.multilabel and labels.dim() > 1:
            raise NotApplicable("several labels of an input are told one by one")
        return (seen, labels) if labels.dim() == 1 else _rows(seen, labels.flatten(), seed)

    def refuse_maps(self, who: str) -> None:
        """Refuse tasks of several labels an input, for attacks that draw inputs by their one.

        Raises:
            NotApplicable: naming the attack.
        """
        if self.model is not None and self.model.task in SEVERAL:
            raise NotApplicable(
                f"{who} draws inputs by their label; of a {self.model.task} task each has several"
            )

    def granted(self, needs: frozenset[Need]) -> Knowledge:
        """Keep only what an attack with these needs may see."""
        known = self
        if Need.MODEL not in needs:
            known = replace(known, model=None, input_shape=None)
        if Need.AUXILIARY not in needs:
            known = replace(known, auxiliary=None)
        if Need.PRIOR not in needs:
            known = replace(known, prior=_UNIFORM)
        if Need.TRAINING not in needs:
            known = replace(known, training=None)
        if Need.DEFENSE not in needs:
            known = replace(known, defense=None)
        return known


def _rows(seen: HeadPass, labels: Tensor, seed: int) -> tuple[HeadPass, Tensor]:
    """Keep the rows that have a label, or some of them."""
    if len(seen.inputs) != len(labels):
        raise NotApplicable(
            f"the head has {len(seen.inputs)} positions and the data {len(labels)} labels; its "
            "output is resized, so that no position has a label of its own"
        )
    held = torch.nonzero(labels >= 0)[:, 0]
    if len(held) > MOST_ROWS:
        generator = torch.Generator().manual_seed(seed)
        held = held[torch.randperm(len(held), generator=generator)[:MOST_ROWS].sort().values]
    inputs, logits = seen.inputs[held], seen.logits[held]
    return HeadPass(inputs, logits, logits), labels[held]


@dataclass(frozen=True, eq=False)
class Estimate:
    """An attack's answer.

    Attributes:
        counts: guessed label counts, ``*R x K`` whole numbers, each row summing to N.
        scores: how strongly each class is thought present, ``*R x K``; larger is likelier.
        notes: what the attack wants said about its answer.
        expected_asr: ``*R``, the ASR that the attack expects of its counts; its scores are then
            probabilities, P(c_i >= 1 | update). None where scores only rank the classes.
    """

    counts: Ints
    scores: Floats
    notes: tuple[str, ...] = ()
    expected_asr: Floats | None = None


Prepared = Callable[[Observation], Estimate]


class Attack(Protocol):
    """A way to guess label counts from an observation.

    ``prepare`` does what is costly once per model; what it returns is cheap, works on many
    trials at once, and sees nothing but the observation. Neither sees the truth, the disk,
    the clock or global random state.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    cite: ClassVar[str]
    card: ClassVar[Card]

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Get ready to attack updates of one model."""
        ...


class Rule(Attack):
    """An attack that prepares nothing: it answers each observation by itself."""

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Return `answer`; nothing is prepared."""
        return self.answer

    @abstractmethod
    def answer(self, observation: Observation) -> Estimate:
        """Guess the label counts of every trial."""


def threat_model(attack: Attack) -> str:
    """Name what an attack must hold: none, update, model or auxiliary; see the record's key."""
    for need, name in ((Need.AUXILIARY, "auxiliary"), (Need.MODEL, "model")):
        if need in attack.needs:
            return name
    reads = {Need.WEIGHT, Need.BIAS, Need.FULL_GRADIENT}
    return "update" if attack.needs & reads else "none"


def prepare(
    attack: Attack, known: Knowledge, num_classes: int, rng: np.random.Generator
) -> Prepared:
    """Prepare an attack with no more knowledge than it needs, and check needs at each call.

    Raises:
        NotApplicable: if a need of the attack is not granted; the returned function raises it
            if the observation lacks what the attack needs, and BadInput if its classes differ.
    """
    granted = {
        Need.MODEL: known.model,
        Need.AUXILIARY: known.auxiliary,
        Need.TRAINING: known.training,
        Need.DEFENSE: known.defense,
    }
    _refuse_missing(attack, granted, "granted")
    if attack.needs & {Need.FULL_GRADIENT, Need.DEFENSE}:
        known.refuse_maps(attack.name)
    ready = attack.prepare(known.granted(attack.needs), num_classes, rng)

    def answer(observation: Observation) -> Estimate:
        if observation.num_classes != num_classes:
            raise BadInput(
                f"{attack.name} was prepared for {num_classes} classes, "
                f"the observation has {observation.num_classes}"
            )
        refuse_observation(attack, observation)
        return ready(observation)

    return answer


def _refuse_missing(attack: Attack, held: Mapping[Need, object], what: str) -> None:
    for need, thing in held.items():
        if need in attack.needs and thing is None:
            raise NotApplicable(f"{attack.name} needs {need.value}, which is not {what}")


def refuse_observation(attack: Attack, observation: Observation) -> None:
    """Check that an observation carries what an attack needs.

    Raises:
        NotApplicable: naming the first thing that is missing.
    """
    known = {
        Need.WEIGHT: observation.weight,
        Need.BIAS: observation.bias,
        Need.NUM_SAMPLES: observation.num_samples,
        Need.FULL_GRADIENT: observation.rest,
    }
    _refuse_missing(attack, known, "known")


def samples(observation: Observation) -> int:
    """Return N, for attacks that declare that they need it."""
    if observation.num_samples is None:
        raise NotApplicable(f"this attack needs {Need.NUM_SAMPLES.value}, which is not known")
    return observation.num_samples


__all__ = [
    "Attack",
    "Defense",
    "Estimate",
    "FitCache",
    "Knowledge",
    "LabelledData",
    "Prepared",
    "Rule",
    "prepare",
    "refuse_observation",
    "samples",
    "threat_model",
]
