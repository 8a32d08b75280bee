"""Audit clients' updates: weights before and after become records, or estimates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from labelleak.attacks.choice import Choice, choose_attacks
from labelleak.core.battery import Battery
from labelleak.core.copies import copy_model
from labelleak.core.head import AmbiguousHead, HeadFinding, in_trace, locate_head
from labelleak.core.head_finding import listed
from labelleak.core.head_shapes import key_of
from labelleak.core.interfaces import Attack
from labelleak.core.knowledge import Knowledge
from labelleak.core.limits import check_limits
from labelleak.core.observation import Observation
from labelleak.core.outputs import NoLogits, as_tensor_model
from labelleak.core.priors import Prior, UniformPrior
from labelleak.core.task import Task, read_task
from labelleak.core.training import TrainingFacts
from labelleak.core.update import ReceivedUpdate
from labelleak.core.weights import load_weights
from labelleak.core.white_box import WhiteBox, lift
from labelleak.errors import BadInput, fields_checked
from labelleak.flower.events import check_home, note, note_once
from labelleak.flower.findings import Finding, Sender
from labelleak.flower.forms import Form, likelier
from labelleak.flower.kept import Kept
from labelleak.flower.labels import Reported
from labelleak.flower.naming import likeliest_head, with_names
from labelleak.flower.reading import (
    after_defense,
    check_own,
    drawn_by,
    flags_of,
    one_label_each,
    receive,
    truth_of,
)
from labelleak.flower.trainings import as_weights, check_told, common_form, how_trained
from labelleak.simulation.data.given import own_data

Arrays = Mapping[str, Tensor]
MOST_COUNTED = 10**6
_UNIFORM = UniformPrior()


@fields_checked
@dataclass(frozen=True, kw_only=True, eq=False)
class Auditor(TrainingFacts):
    """Options of an audit of a federation's updates; server and clients use the same.

    The update is what moved between the weights that were sent and those that came back, so the
    client's learning rate and steps must be known; beside what stands here, it takes all that
    `LocalTraining` does (``lr``, ``momentum``, ``class_weights``, ...). Where labels are known (on
    the client, or by ``truth``) the folder gets ``records.jsonl``; otherwise an attack cannot be
    scored and its answer goes to ``estimates.jsonl``, with the keys ``round``, ``run``, ``client``,
    ``attack``, ``threat_model``, ``num_samples``, ``counts``, ``flags``, ``notes``, ``time``. What
    went wrong stands in ``events.jsonl``; an error of the auditor never stops the federation.

    Attributes:
        folder: where the files go; None writes none.
        local_steps: optimiser steps of a client in a round; None where that is not known.
        epochs: passes over a client's samples in a round, in place of `local_steps`: each takes
            ceil(samples / `batch_size`) steps.
        steps_metric: name of a reply's metric that holds the client's own number of steps.
        lr_key: name under which the configuration that was sent holds a round's learning rate; it
            goes before `lr`.
        batch_size: labels of a step; None takes the reply's number of examples as all labels.
        returns: what clients send back: ``weights``, their ``difference`` from those sent, or a
            ``gradient``. None takes weights, unless a reply does not look like them; `block` and
            `defend` refuse such a reply, others flag it (``reply_form_uncertain``).
        control: gives by name, for a client and a round (as `truth`), the constant terms that
            each local step added to its gradient: SCAFFOLD's c - c_i, FedDyn's -lambda_i (beside
            `proximal`). They are subtracted.
        model: the model, or a function that makes it, in the mode that clients train it in;
            None leaves out the attacks that need it, as does one that returns no logits of its
            head (event ``model_left_out``).
        input_shape: shape of one input, for attacks that feed the model random inputs; as the
            auxiliary data have it if left out, and without both those attacks are left out.
        head: module name of the last linear layer; None finds it by the model, else by each update.
        task: ``classes``, ``binary`` (one output tells one of two classes), ``multilabel`` (each
            class is there or not) or ``dense`` (a class for each pixel); None takes what the head
            or the labels tell, else it is asked for.
        layout: ``torch`` (weights are outputs x inputs) or ``keras`` (inputs x outputs), where
            names and biases do not tell.
        attacks: names or attacks; None takes ``rules``: the standard battery but for the shadow
            attack, which fits anew for each round's model; ``["standard"]`` has it. Above 256
            classes the costly ones must be named.
        auxiliary: labelled data of the attacker's own, as `labelleak.audit` takes data: a name,
            ``(X, y)``, a `LabelledData`, ...; None leaves out the attacks that need it.
        prior: how labels are distributed before the update is seen: a prior, or class frequencies
            as a list or a JSON file of one (of several labels the share of samples with each); the
            advantage counts from the best guess under it.
        truth: gives the labels of a client's update in a round, in a simulation. It is called
            with two arguments: the partition id that the client claims, as text, or its node id
            where it claims none; and the server's round.
        truth_metric: name of a reply's metric that holds the K true label counts; only for
            experiments, since a client that sends them has nothing left to hide.
        data: name of the data for the records.
        model_name: name of the model for the records.
        defense: name of the clients' defense for the records.
        seed: of the attacks' randomness and the trials' numbers.
        keep_counts: write guessed and true counts into records; they are private.

    >>> import torch
    >>> before = {"fc.weight": torch.zeros(2, 3)}
    >>> after = {"fc.weight": torch.tensor([[0.2, 0.2, 0.2], [-0.2, -0.2, -0.2]])}
    >>> auditor = Auditor(folder=None, lr=0.1, attacks=["llg"])
    >>> sender = Sender(round=1, client="0", labels=(0, 0))
    >>> auditor.audit(before, after, sender).worst
    1.0
    """

    folder: Path | str | None
    epochs: int | None = None
    steps_metric: str | None = None
    lr_key: str = "lr"
    returns: Literal["weights", "difference", "gradient"] | None = None
    control: Callable[[str, int], Arrays] | None = None
    model: nn.Module | Callable[[], nn.Module] | None = None
    input_shape: tuple[int, ...] | None = None
    head: str | None = None
    task: Literal["classes", "binary", "multilabel", "dense"] | None = None
    layout: Literal["torch", "keras"] | None = None
    attacks: Sequence[str | Attack] | None = None
    auxiliary: Any = None
    prior: Prior | Sequence[float] | str | Path = _UNIFORM
    truth: Callable[[str, int], ArrayLike] | None = None
    truth_metric: str | None = None
    data: str = "federation"
    model_name: str = ""
    defense: str = "none"
    seed: int = 0
    keep_counts: bool = False
    _kept: Kept = field(default_factory=Kept, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_told(self)
        check_home(self.home)
        choose_attacks(self.asked)
        object.__setattr__(self, "auxiliary", own_data(self.auxiliary))

    @property
    def asked(self) -> Sequence[str | Attack]:
        """The attacks that were asked for."""
        return ["rules"] if self.attacks is None else self.attacks

    @property
    def home(self) -> Path | None:
        """The folder as a path."""
        return None if self.folder is None else Path(self.folder)

    def audit(
        self,
        before: Arrays,
        after: Arrays,
        sender: Sender,
        *,
        head: HeadFinding | None = None,
        form: Form | None = None,
        strict: bool = False,
    ) -> Finding:
        """Attack one update, and score the answers if the sender's labels are known.

        Args:
            before: weights that the server sent, by name or in a list.
            after: weights that the client returned.
            sender: whose they are; with labels, N is their number.
            head: the layer to attack, where an earlier audit of the update found it.
            form: the form in which to read the reply; told by what was declared, else by its
                entries, if left out.
            strict: refuse where the head or the form is in doubt, instead of taking the likeliest
                and flagging it.

        Raises:
            BadInput: if the update cannot be read: no head, other shapes, NaN, labels out of range.
        """
        return self.audit_together(before, [after], [sender], head=head, form=form, strict=strict)

    def audit_together(
        self,
        before: Arrays,
        afters: Sequence[Arrays],
        senders: Sequence[Sender],
        *,
        head: HeadFinding | None = None,
        form: Form | None = None,
        strict: bool = False,
    ) -> Finding:
        """Attack updates that began at the same weights in one call, which costs little more.

        Args:
            before: weights that the server sent to all of them.
            afters: weights that the clients returned.
            senders: whose they are; N, local steps and whether labels are known must be alike.
            head: as in `audit`.
            form: as in `audit`.
            strict: as in `audit`.

        Raises:
            BadInput: as `audit`, or if the senders are not alike.
        """
        if len({self._kind(sender) for sender in senders}) != 1:
            raise BadInput("updates audited together need the same N and local steps")
        before, *replies = (
            with_names(arrays, self._module, self.layout) for arrays in (before, *afters)
        )
        told, form = form, form or common_form(self, before, replies, strict=strict)
        trained = how_trained(self, senders[0], form)
        returned = as_weights(self, before, replies, senders, trained)
        found = self._head(before, returned, head, strict)
        if told is None and form.doubt:
            form = likelier(form, lambda: replies[0].get(key_of(found.name, "bias")), trained.rate)
        if form is not trained.form:
            trained = how_trained(self, senders[0], form)
            returned = as_weights(self, before, replies, senders, trained)
        if self.task == Task.multilabel:
            own = one_label_each(senders[0], before.get(key_of(found.name)))
            trained = how_trained(self, own, form)
        update = receive(before, returned, found.name, trained, self.task, self._module)
        head_form = update.form_of(found.name, senders[0].labels)
        task = head_form.task
        update = replace(update, task=task)
        seen = update.observe(found.name)
        observation = after_defense(self.defense, seen, self.batch_size, update.trained)
        choice = self._kept.choice.choose(self.asked, observation.num_classes)
        battery = self._battery(before, found.name, update, observation, choice)
        assumed = task is Task.binary and self.task is None
        more = flags_of(senders[0], found, trained, task, assumed=assumed)
        battery = replace(battery, flags=(*battery.flags, *more))
        truth = truth_of(senders, observation, len(head_form.shape) - 2)
        return Finding(
            tuple(senders),
            observation,
            tuple(battery.answer(observation, truth)),
            truth,
            {**choice.left_out, **battery.not_applicable(observation)},
            found,
            check_limits(observation, battery.known.training),
            trained,
            task,
        )

    def note(self, event: str, **what: Any) -> None:
        """Note what went wrong among the events."""
        note(self.home, event, **what)

    def note_once(self, event: str, **what: Any) -> None:
        """Note an event that holds for the whole run, if nobody has noted it yet."""
        if event not in self._kept.said:
            self._kept.said.add(event)
            note_once(self.home, event, **what)

    def labels_of(
        self, known_as: str, server_round: int, metrics: Mapping[str, Any]
    ) -> Reported | None:
        """Find the true labels of an update where the server's side was given them."""
        if self.truth is not None:
            return Reported.of(self.truth(known_as, server_round))
        counts = metrics.get(self.truth_metric) if self.truth_metric else None
        if counts is None:
            return None
        if sum(counts) > MOST_COUNTED:  # from a client, which may say anything
            raise BadInput(f"{self.truth_metric} counts more than {MOST_COUNTED:,} labels")
        return Reported.of(np.repeat(np.arange(len(counts)), counts))

    def control_of(self, sender: Sender) -> Arrays:
        """Return the terms that a client's steps added to their gradients, by name."""
        return {} if self.control is None else self.control(sender.known_as, sender.round)

    @property
    def name_of_model(self) -> str:
        """The model's name for the records."""
        module = self._module
        return self.model_name or (type(module).__name__ if module else "unknown")

    @property
    def _module(self) -> nn.Module | None:
        """The model, made once; attacks get it with the weights that were sent."""
        given = self.model
        if self._kept.module is None and given is not None:
            # A copy, since it takes the weights of every round.
            self._kept.module = copy_model(given) if isinstance(given, nn.Module) else given()
        return self._kept.module

    def _head(
        self, before: Arrays, afters: Sequence[Arrays], known: HeadFinding | None, strict: bool
    ) -> HeadFinding:
        """Find the head of updates, which must have the same."""
        known, task = known or self._known_head, read_task(self.task)
        each = [likeliest_head(before, after, known, strict=strict, task=task) for after in afters]
        found = {one.name: one for one in each}
        if len(found) > 1:
            raise AmbiguousHead(
                f"these updates have several heads: {listed(found)}; audit them one by one",
                tuple(found),
            )
        return each[0]

    @property
    def _known_head(self) -> HeadFinding | None:
        """The head as it was named, or as the model has it; None if only updates can tell."""
        named = None if self.head is None else HeadFinding(self.head, "named")
        if self._module is None:
            return named
        if self._kept.head is None:
            example = None if self.auxiliary is None else self.auxiliary.inputs[:2]
            if example is None and self.input_shape is not None:
                example = torch.zeros(2, *self.input_shape)
            self._kept.head = (
                in_trace(named, self._module, example)
                if named
                else locate_head(model=self._module, example=example)
            )
        return self._kept.head

    def _kind(self, sender: Sender) -> tuple[object, ...]:
        """Return what senders must share to be audited in one call."""
        known = sender.labels is not None
        total = len(sender.labels) if sender.labels is not None else sender.num_samples
        alike = (sender.local_steps, sender.lr, sender.flags, sender.clients, sender.round)
        return (total, known, *alike)

    def _battery(
        self,
        before: Arrays,
        head: str,
        update: ReceivedUpdate,
        observation: Observation,
        choice: Choice,
    ) -> Battery:
        """Prepare the attacks for the weights that were sent; once a round at the server."""
        training, classes = update.trained, observation.num_classes
        source = None if self._module is None else getattr(before, "_arrays", before)
        battery = self._kept.battery if self._kept.sent is source else None
        if battery is not None and battery.num_classes == classes:
            if battery.known.training != training:  # clients differ in N; the model is the same
                battery = battery.with_batches(battery.known.prior, training)
        else:
            check_own(self.auxiliary, update.task or Task.classes)
            white_box = self._white_box(before, head, update.task)
            prior = drawn_by(self.prior, classes, observation.problems, self.epochs or 1)
            known = Knowledge(white_box, self._shape, self.auxiliary, prior, training)
            known = replace(known, batch_told=self.batch_size is not None)
            battery = Battery.prepare(choice.attacks, known, classes, seed=self.seed, lenient=True)
        self._kept.sent, self._kept.battery = source, battery
        return battery

    @property
    def _shape(self) -> tuple[int, ...] | None:
        """The shape of one input, as said or as auxiliary data have it."""
        if self.input_shape is None and self.auxiliary is not None:
            return tuple(self.auxiliary.inputs.shape[1:])
        return self.input_shape

    def _white_box(self, before: Arrays, head: str, task: Task | None) -> WhiteBox | None:
        if self._module is None:
            return None
        load_weights(self._module, before, "the weights sent")
        module, shape = self._module, self._shape
        if task is not Task.tokens and shape is not None:
            own = self.auxiliary
            example = torch.zeros(2, *shape) if own is None else own.inputs[:2]
            try:
                module = as_tensor_model(module, head, example)
            except NoLogits as reason:
                self.note_once("model_left_out", reason=str(reason))
                return None
        labels = None if self.auxiliary is None else self.auxiliary.labels
        return WhiteBox(lift(module, task or Task.classes, labels), head)


__all__ = ["Auditor", "Finding", "Sender"]
