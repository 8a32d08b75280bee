"""Audit updates as they arrive at the server: those that are alike in one call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

from torch import Tensor

from labelleak.errors import LabelleakError, few, shown
from labelleak.flower.auditor import Auditor, Finding, Sender
from labelleak.flower.events import AGGREGATES, ESTIMATES, LOG, RECORDS, ROUNDS
from labelleak.flower.rows import write_finding
from labelleak.flower.trainings import training_told

Arrays = Mapping[str, Tensor]
EVERYBODY = "all"
CLASH, CONTROL = "partition_clash", "control_terms"


@dataclass(frozen=True, eq=False)
class Arrival:
    """What a client sent back, beside what it was sent.

    Attributes:
        before: the weights that were sent; one object for all clients that were sent the same.
        after: gives the weights that came back.
        metrics: what the client said of its training.
        round: the server's round.
        client: the node that sent it.
        partition: the partition that it claims.
        lr: the learning rate that it was sent.
        flags: what is known of it that concerns every attack.
        run: Flower's number of the run.
    """

    before: Arrays
    after: Callable[[], Arrays]
    metrics: Mapping[str, Any]
    round: int
    client: str
    partition: str | None = None
    lr: float | None = None
    flags: tuple[str, ...] = ()
    run: int | None = None

    @property
    def place(self) -> tuple[int, str]:
        """Whose it is: the round and the client."""
        return self.round, self.client


def audit_at_server(auditor: Auditor, arrivals: Sequence[Arrival]) -> None:
    """Audit updates; whatever goes wrong with one becomes an event, and the round goes on.

    Clients that began at the same weights with as many labels are attacked in one call. If that
    fails they are taken one by one, so that a broken update spoils no other.
    """
    alike: dict[tuple[object, ...], list[Arrival]] = defaultdict(list)
    senders: dict[int, Sender] = {}
    for arrival in arrivals:
        with log_failures(auditor, arrival.place):
            sender = senders[id(arrival)] = _sender(auditor, arrival)
            known = None if sender.labels is None else len(sender.labels)
            told = (sender.local_steps, sender.lr, sender.flags)
            key = (id(arrival.before), arrival.round, sender.num_samples, known, *told)
            alike[key].append(arrival)
    written: list[Finding] = []
    for group in alike.values():
        finding = _together(auditor, group, senders) if len(group) > 1 else None
        for part in [group] if finding else [[one] for one in group]:
            with log_failures(auditor, *(one.place for one in part)):
                found = finding or _audit(auditor, part, senders)
                write_finding(auditor, found, observer="server", action="observed")
                written.append(found)
    say_round(auditor, arrivals, written)


def say_round(auditor: Auditor, arrivals: Sequence[Arrival], written: Sequence[Finding]) -> None:
    """Say in one line what of a round was attacked, and where the answers went."""
    if not arrivals:
        return
    audited = sum(len(found.senders) for found in written)
    heads = sorted({found.head.name for found in written})
    files = {RECORDS if found.truth is not None else ESTIMATES for found in written}
    home = "nowhere" if auditor.home is None else shown(auditor.home)
    at = f" at {few(heads, quoted=True)}" if heads else ""
    into = f" ({', '.join(sorted(files))})" if files and auditor.home else ""
    ROUNDS.info(
        "labelleak: round %d, %d of %d updates attacked%s; written to %s%s",
        arrivals[0].round, audited, len(arrivals), at, home, into,
    )  # fmt: skip


def audit_average(auditor: Auditor, arrivals: Sequence[Arrival]) -> None:
    """Audit the clients' average against the labels of all of them, where all answers are it.

    So it is under secure aggregation. The records go to ``aggregates.jsonl``.
    """
    if len(arrivals) < 2:
        return
    with log_failures(auditor, *(one.place for one in arrivals)):
        parts = [_sender(auditor, arrival) for arrival in arrivals]
        labels = [part.labels for part in parts if part.labels is not None]
        sizes = [part.num_samples for part in parts if part.num_samples is not None]
        sender = Sender(
            arrivals[0].round,
            EVERYBODY,
            sum(sizes) if len(sizes) == len(parts) else None,
            max((part.local_steps for part in parts if part.local_steps), default=None),
            tuple(chain(*labels)) if len(labels) == len(parts) else None,
            len(parts),
            parts[0].lr,
        )
        finding = auditor.audit(arrivals[0].before, arrivals[0].after(), sender)
        write_finding(auditor, finding, file=AGGREGATES, observer="server", action="observed")


def _sender(auditor: Auditor, arrival: Arrival) -> Sender:
    server_round, metrics = arrival.round, arrival.metrics
    note = partial(auditor.note, round=server_round, client=arrival.client)
    total, steps = training_told(auditor, metrics, note)
    sender = Sender(
        server_round,
        arrival.client,
        total,
        steps,
        lr=arrival.lr,
        partition=arrival.partition,
        flags=arrival.flags,
        run=arrival.run,
    )
    if CLASH in arrival.flags:  # whose labels these are is not known
        return sender
    known = auditor.labels_of(sender.known_as, server_round, metrics)
    return sender if known is None else replace(sender, labels=known.labels, images=known.images)


def _audit(auditor: Auditor, group: Sequence[Arrival], senders: Mapping[int, Sender]) -> Finding:
    afters = [one.after() for one in group]
    return auditor.audit_together(group[0].before, afters, [senders[id(one)] for one in group])


def _together(
    auditor: Auditor, group: Sequence[Arrival], senders: Mapping[int, Sender]
) -> Finding | None:
    try:
        return _audit(auditor, group, senders)
    except Exception:  # noqa: BLE001
        # One of them is broken, or all: each says so when it is taken by itself.
        LOG.debug("updates could not be audited together", exc_info=True)
        return None


@contextmanager
def log_failures(auditor: Auditor, *places: tuple[int, str]) -> Iterator[None]:
    """Turn a failure into events, one for each round and client, and go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        # Attacks, the user's model and truth run here: none of it may end the federation.
        if not isinstance(error, LabelleakError):  # those say in one line what to do
            LOG.exception("an audit failed; the round goes on")
        reason = f"{type(error).__name__}: {error}"
        for server_round, client in places:
            auditor.note("audit_failed", round=server_round, client=client, reason=reason)


__all__ = ["CLASH", "CONTROL", "Arrival", "audit_at_server", "audit_average", "log_failures"]
