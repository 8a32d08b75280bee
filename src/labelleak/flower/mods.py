"""Client-side mods: audit what is about to leave, and defend it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from numbers import Real
from typing import Any

from flwr.app import Context, Message
from numpy.typing import ArrayLike

from labelleak.core.digests import digest_tensors
from labelleak.core.head import AmbiguousHead, HeadFinding
from labelleak.errors import BadInput, LabelleakError, shown, unknown_name
from labelleak.flower.audit_events import say_assumed, say_doubts
from labelleak.flower.auditor import Auditor, Finding, Sender
from labelleak.flower.claims import PARTITION, controls_named, partition_of
from labelleak.flower.defend import DefenseLike, defend, label_of, read_defense
from labelleak.flower.defense_mods import CallNext, DefenseMod, defense_mod, generator_of
from labelleak.flower.events import LOG
from labelleak.flower.labels import Reported, take_labels
from labelleak.flower.messages import (
    Arrays,
    Sent,
    client_of,
    is_train,
    metrics_of,
    model_record,
    names_in,
    round_of,
)
from labelleak.flower.readings import audit_readings
from labelleak.flower.rows import write_finding
from labelleak.flower.sealing import keep_metadata, seal, withhold
from labelleak.flower.server import CONTROL
from labelleak.flower.time_limit import within
from labelleak.flower.trainings import steps_told
from labelleak.records.advantages import read_limit

LabelsOf = Callable[[Message, Context], ArrayLike]
# Half of what was left to learn. Updates of pure noise exceed it by chance, since it is held
# against the largest of a dozen advantages: of 150 with evenly drawn labels of ten classes 30 %
# did for one label, 17 % for 4, 3 % for 8, and at most 1.3 % for 16, 32 and 64.
LIMIT = 0.5


class Policy(StrEnum):
    """What becomes of an update that leaks more than the limit."""

    record = "record"
    warn = "warn"
    defend = "defend"
    block = "block"


@dataclass(frozen=True, eq=False)
class AuditMod:
    """See `audit_mod`."""

    auditor: Auditor
    policy: Policy = Policy.record
    limit: float = LIMIT
    defense: DefenseLike = None
    labels: LabelsOf | None = None
    seed: int | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", read_limit("limit", self.limit))
        seconds = self.max_seconds
        if seconds is not None and not (_is_number(seconds) and 0 < seconds < math.inf):
            raise BadInput(f"max_seconds must be a number above 0, not {shown(seconds)}")

    def __call__(self, message: Message, context: Context, call_next: CallNext) -> Message:
        """Audit the reply to a training message, and let it leave or not."""
        if self.policy is not Policy.block:
            return self._answer(message, context, call_next)
        try:
            return self._answer(message, context, call_next)
        except BaseException as error:  # noqa: BLE001
            # Flower would send the text to the server, whatever stands in it. What asks to exit
            # or cancels is no exception: an app may raise it with a text, too.
            LOG.exception("the training failed")
            stopped = isinstance(error, KeyboardInterrupt)
            withheld = self._hide(message, context, f"{type(error).__name__}: {error}")
        if stopped:
            raise KeyboardInterrupt  # anew, with neither text nor traceback
        return withheld

    def _answer(self, message: Message, context: Context, call_next: CallNext) -> Message:
        take_labels(context)  # none may be left over from a round that broke off
        sent = Sent.of(message, self.auditor.lr_key)
        try:
            with keep_metadata(message):
                reply = call_next(message, context)
        except BaseException:
            take_labels(context)
            raise
        if reply.has_error():
            take_labels(context)
            closed = self.policy is Policy.block
            return self._hide(message, context, str(reply.error.reason)) if closed else reply
        if not is_train(message):
            return self._other(message, reply)
        try:
            sender = self._sender(message, context, sent, reply)
            if sent.arrays is None:
                raise BadInput("the message of the server holds no single array record")
            if self.policy is Policy.block:
                reply = seal(message, reply, sent.arrays)
            return self._judge(message, context, sent.arrays, reply, sender)
        except Exception as error:  # noqa: BLE001
            # Attacks, the user's model and defense run here; the policy decides what then.
            if not isinstance(error, LabelleakError):  # those say in one line what to do
                LOG.exception("the audit failed")
            return self._failed(message, context, reply, error)

    def _sender(self, message: Message, context: Context, sent: Sent, reply: Message) -> Sender:
        auditor, client = self.auditor, client_of(context)
        # Taken first, whatever fails later.
        reported = take_labels(context)
        controls = sent.controls or controls_named(names_in(reply))
        sender = Sender(
            sent.round,
            client,
            lr=sent.lr,
            partition=partition_of(context.node_config.get(PARTITION))[0],
            flags=(CONTROL,) if controls and auditor.control is None else (),
            run=context.run_id,
        )
        if self.labels is None and reported is not None:
            return self._with(sender, reported, reported.steps)
        found: Reported | None
        if self.labels is not None:
            known = self.labels(message, context)
            found = None if known is None else Reported.of(known)
        else:
            found = auditor.labels_of(sender.known_as, sent.round, {})
        if found is None:
            raise BadInput("the client reported no labels; call report_labels in its training")
        note = partial(auditor.note, round=sent.round, client=client)
        own = len(found.labels) // (auditor.epochs or 1)
        return self._with(sender, found, steps_told(auditor, own or None, metrics_of(reply), note))

    @staticmethod
    def _with(sender: Sender, found: Reported, steps: int | None) -> Sender:
        """Add the labels that a client told."""
        return replace(
            sender,
            num_samples=len(found.labels),
            local_steps=steps,
            labels=found.labels,
            images=found.images,
        )

    def _judge(
        self, message: Message, context: Context, before: Arrays, reply: Message, sender: Sender
    ) -> Message:
        after = Arrays(model_record(reply))
        digest = digest_tensors(after)  # before an attack or a model sees them
        finding = self._audit(before, after, sender)
        acts = self.policy in (Policy.block, Policy.defend)
        say_assumed(self.auditor, finding, acts=acts)
        # A figure of what cannot be as it was told is no evidence, so it lets nothing pass.
        leaks = finding.worst > self.limit or finding.impossible or bool(finding.refuted)
        say_doubts(self.auditor, finding)
        if not leaks or self.policy is Policy.record:
            self._write(finding, "sent", update_digest=digest)
            return reply
        if self.policy is Policy.warn:
            self._tell("above_limit", finding)
            self._write(finding, "warned", update_digest=digest)
            return reply
        if self.policy is Policy.block:
            if finding.worst > self.limit:  # else the doubt that closed it is noted
                self._tell("blocked", finding)
            self._write(finding, "blocked", update_digest=digest)
            return withhold(message)
        self._defend(message, context, before, reply)
        self._write(finding, "defended", update_digest=digest)
        after = Arrays(model_record(reply))
        digest = digest_tensors(after)
        again = self._audit(before, after, sender, finding.head)
        if again.worst > self.limit or again.impossible:
            self._tell("above_limit", again)
        self._write(again, "sent", defense=label_of(self.defense), update_digest=digest)
        return reply

    def _audit(
        self, before: Arrays, after: Arrays, sender: Sender, head: HeadFinding | None = None
    ) -> Finding:
        if list(before) != list(after):
            raise BadInput("the reply's arrays have other names than those that were sent")
        if head is None and self.policy in (Policy.block, Policy.defend):
            audit = partial(audit_readings, self.auditor, before, after, sender, self.limit)
        else:
            strict = head is not None
            audit = partial(self.auditor.audit, before, after, sender, head=head, strict=strict)
        return (
            audit() if self.max_seconds is None else within(self.max_seconds, self.auditor, audit)
        )

    def _write(self, finding: Finding, action: str, **extra: Any) -> None:
        said: dict[str, Any] = {"policy": str(self.policy), "limit": self.limit, "action": action}
        write_finding(self.auditor, finding, observer="client", **said, **extra)

    def _tell(self, event: str, finding: Finding) -> None:
        sender = finding.sender
        self.auditor.note(
            event,
            round=sender.round,
            client=sender.client,
            advantage=round(finding.worst, 4),
            limit=self.limit,
        )

    def _defend(self, message: Message, context: Context, before: Arrays, reply: Message) -> None:
        rng = generator_of(self.seed, context, round_of(message))
        head = self.auditor.head or ""
        returns = self.auditor.returns
        defend(before, reply, self.defense, rng, context=context, head=head, returns=returns)

    def _failed(
        self,
        message: Message,
        context: Context,
        reply: Message,
        error: Exception,
    ) -> Message:
        """Say what went wrong here; the server is not told, as the reason may name labels."""
        self.auditor.note(
            "audit_failed",
            round=round_of(message),
            client=client_of(context),
            policy=str(self.policy),
            reason=f"{type(error).__name__}: {error}",
            **({"candidates": error.candidates} if isinstance(error, AmbiguousHead) else {}),
        )
        closed = self.policy in (Policy.block, Policy.defend)
        return withhold(message) if closed else reply

    def _other(self, message: Message, reply: Message) -> Message:
        """Stop arrays that would leave by another kind of reply, which cannot be audited."""
        if self.policy is not Policy.block:
            return reply
        try:
            return seal(message, reply, None)
        except BadInput as reason:
            kind = message.metadata.message_type
            self.auditor.note(
                "arrays_withheld", kind=kind, policy=str(self.policy), reason=str(reason)
            )
            return withhold(message)

    def _hide(self, message: Message, context: Context, reason: str) -> Message:
        """Say here why a client failed, and send that it did, without the reason."""
        self.auditor.note(
            "reply_error", round=round_of(message), client=client_of(context), reason=reason[:500]
        )
        return withhold(message)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def audit_mod(
    auditor: Auditor,
    policy: str = "record",
    *,
    limit: float = LIMIT,
    defense: DefenseLike = None,
    labels: LabelsOf | None = None,
    seed: int | None = None,
    max_seconds: float | None = None,
) -> AuditMod:
    """Make a mod that audits what is about to leave a client against the client's own labels.

    Put it first in the mods: the first one sees what really leaves, after the others. The labels
    come from `report_labels` in the client's training, or from ``labels``; they stay here.

    The largest advantage of any attack that reads the update is held against the limit. It is
    one update's figure and has no interval: updates of pure noise exceeded 0.5 in 3 % of batches
    of 8 labels, and in every third of one label.

    Policies: ``record`` writes and lets pass, also when the audit fails. ``warn`` notes an event
    too. ``defend`` applies the defense to an update above the limit, audits again, notes an event
    if that is still above, and sends it; if anything fails the update is withheld. ``block``
    withholds an update above the limit, one of impossible scale or sign, one whose loss or N
    cannot be as it was told (``labels_inconsistent``, ``pos_weight``, ``samples_inconsistent``,
    ``parts_inconsistent``; the auditor's ``defense`` explains these), one that cannot be audited or
    whose arrays are not shaped as those sent, arrays in replies other than to training, and lists,
    bytes or long text in the metrics or configuration of any reply: the server gets an error
    without any of the reply's content, nor the text of an exception, an exit or a cancellation.
    What does leave is packed anew from what was audited.
    Both judge by the attacks that the auditor can run: without its ``model`` those of the usual
    server are not among them, and an event says so (``model_not_given``). Where the loss's weights
    were not told it is taken to be plain, unless the client's labels refute that
    (``labels_inconsistent``), and an event says so (``loss_not_told``).
    Where the head or the form of a reply cannot be told, or where it is unlike a softmax's and may
    be of a sigmoid a class, ``defend`` and ``block`` audit it in every reading that is left, and
    withhold it if one of them leaks. They guard against mistakes, not against an app that means to
    send labels one number at a time, or hides them in another layer's weights.

    Args:
        auditor: how to audit, and where to write on the client.
        policy: record, warn, defend or block.
        limit: advantage above which the policy acts, from 0 to below 1: 0.2 for 20 %.
        defense: what ``defend`` applies; see `defense_mod`.
        labels: gives the labels behind a reply, instead of `report_labels`.
        seed: of the defense's randomness; None draws from the system.
        max_seconds: how long one audit may take; one that takes longer has failed. None sets no
            limit.

    Raises:
        BadInput: for an unknown policy, a limit that is no share below 1, what is no defense, or
            ``defend`` without one.
    """
    if policy not in set(Policy):
        raise unknown_name("policy", str(policy), [str(known) for known in Policy])
    if policy == Policy.defend and defense is None:
        raise BadInput("the policy 'defend' needs a defense")
    chosen = None if defense is None else read_defense(defense)
    return AuditMod(auditor, Policy(policy), limit, chosen, labels, seed, max_seconds)


__all__ = ["LIMIT", "AuditMod", "DefenseMod", "Policy", "audit_mod", "defense_mod"]
