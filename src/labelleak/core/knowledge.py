"""What an attacker may hold beside the update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from labelleak.core.lazy import Tensor, torch
from labelleak.core.needs import Need
from labelleak.core.one_label import OneLabel
from labelleak.core.priors import Prior, UniformPrior
from labelleak.core.task import SEVERAL, Task
from labelleak.core.task_priors import EachPrior
from labelleak.core.training import LocalTraining
from labelleak.core.update import Memory, Scope, SharedTensors
from labelleak.core.white_box import CHUNK, HeadPass, WhiteBox
from labelleak.errors import BadInput, NotApplicable

# Rows at the head that stand for a dense task's own data; more only cost.
MOST_ROWS = 20_000
# Logits of own texts that are held at once.
MOST_ENTRIES = 2**25
# Logits in a part of own inputs, where it is enough to see one part at a time.
PART_ENTRIES = 2**22
POOLED = (
    "the head is a convolution that sees several positions of an input, and own data have one "
    "label an input; average before the head and make it a linear layer, which gives the same"
)


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
# Which parts of what is known each need stands for.
_OF = {
    Need.MODEL: ("model", "input_shape"),
    Need.AUXILIARY: ("auxiliary",),
    Need.PRIOR: ("prior",),
    Need.TRAINING: ("training",),
    Need.DEFENSE: ("defense",),
}


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
        weights_known: whether the model's weights are those that the client was sent.
        batch_told: whether the labels of a step were told; else `training` has their mean.
        expected: numbers of labels of updates to come, where an attack may get ready for all of
            them at once; each update tells its own again.
        made: what attacks made of model and own data, for one another, by its fingerprint; no
            knowledge of its own.
    """

    model: WhiteBox | None = None
    input_shape: tuple[int, ...] | None = None
    auxiliary: LabelledData | None = None
    prior: Prior = _UNIFORM
    training: LocalTraining | None = None
    defense: Defense | None = None
    fit_cache: FitCache | None = None
    weights_known: bool = True
    batch_told: bool = True
    expected: tuple[int, ...] = ()
    made: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def has_several(self) -> bool:
        """Whether an input has several labels, each a problem of its own."""
        task = None if self.model is None else self.model.task
        return task is Task.multilabel or isinstance(self.prior, EachPrior)

    @property
    def pos_weight(self) -> tuple[float, ...]:
        """How much more labels that are there weigh in the client's loss, where it was told."""
        return () if self.training is None else self.training.pos_weight or ()

    def of_label(self, number: int) -> Knowledge:
        """Return what is known of one label of several; what its loss weighs was undone."""
        model, data, prior = self.model, self.auxiliary, self.prior
        told = self.training
        if told is not None:  # None stays: what is not known
            plain: dict[str, Any] = {"class_weights": (), "pos_weight": ()}
            told = replace(told, **{n: none for n, none in plain.items() if getattr(told, n)})
        return replace(
            self,
            training=told,
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
        if labels.dim() > 1:
            return _rows(seen, labels.flatten(), seed)
        if len(seen.logits) != len(labels):
            raise NotApplicable(POOLED)
        return seen, labels

    def stream_own(
        self, seed: int = 0, *, order: Tensor | None = None
    ) -> tuple[Iterator[HeadPass], Tensor]:
        """Pass the auxiliary data as `pass_own` does, of classes a part at a time.

        Args:
            seed: seed of dropout and the like.
            order: of the inputs.

        Returns:
            What the head shows, part by part, and the labels of all parts.
        """
        assert self.model is not None
        assert self.auxiliary is not None
        data = self.auxiliary
        if self.model.task is not Task.classes or data.labels.dim() > 1:
            seen, labels = self.pass_own(seed, order=order)
            return iter((seen,)), labels
        inputs, labels = (part if order is None else part[order] for part in vars(data).values())
        return _joined(self.model.run_chunks(inputs, seed=seed)), labels

    def parts(self, most: int) -> Iterator[Knowledge]:
        """Yield what is known with a few of the auxiliary inputs each, for what is summed.

        Args:
            most: labels that are used at most.
        """
        assert self.auxiliary is not None
        data, at = self.auxiliary, 0
        each = max(1, data.labels[:1].numel())
        step = CHUNK if self.model is None else self.model.inputs_at_once(data.inputs)
        while at < min(len(data), -(-most // each)):
            part = LabelledData(data.inputs[at : at + step], data.labels[at : at + step])
            yield replace(self, auxiliary=part)
            at += step

    def refuse_pooled(self) -> None:
        """Refuse own data of one label an input where the head sees several positions of each.

        Raises:
            BadInput: saying what to do.
        """
        model, own = self.model, self.auxiliary
        if model is None or own is None or model.task is not Task.dense or own.labels.dim() > 1:
            return
        few = own.inputs[:2]
        if len(model.run(few).logits) != len(few):
            raise BadInput(POOLED)

    def refuse_maps(self, who: str) -> None:
        """Refuse tasks of several labels an input, for attacks that draw inputs by their one.

        Raises:
            NotApplicable: naming the attack.
        """
        if self.model is not None and self.model.task in SEVERAL:
            raise NotApplicable(
                f"{who} draws inputs by their label; of a {self.model.task} task each has several"
            )

    def holds(self, need: Need) -> bool:
        """Whether what an attack needs is there, as far as it is a part of this."""
        return all(getattr(self, name) is not None for name in _OF.get(need, ())[:1])

    def granted(self, needs: frozenset[Need]) -> Knowledge:
        """Keep only what an attack with these needs may see."""
        nothing: Any = Knowledge()
        hidden = [name for need, names in _OF.items() if need not in needs for name in names]
        return replace(self, **{name: getattr(nothing, name) for name in hidden})


def _joined(chunks: Iterable[HeadPass]) -> Iterator[HeadPass]:
    """Join chunks into parts of `PART_ENTRIES` logits at most, at least a chunk each."""
    held: list[HeadPass] = []
    for chunk in chunks:
        if held and sum(one.logits.numel() for one in (*held, chunk)) > PART_ENTRIES:
            yield HeadPass.joined(held)
            held = []
        held.append(chunk)
    yield HeadPass.joined(held)


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


__all__ = ["PART_ENTRIES", "Defense", "FitCache", "Knowledge", "LabelledData"]
