"""Audit updates as they arrive at the server: those that are alike in one call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import Tensor

from labelleak.flower.auditor import Auditor, Finding, Sender
from labelleak.flower.events import AGGREGATES, LOG
from labelleak.flower.messages import num_examples

Arrays = Mapping[str, Tensor]
EVERYBODY = "all"


@dataclass(frozen=True, eq=False)
class Arrival:
    """What a client sent back, beside what it was sent.

    Attributes:
        before: the weights that were sent; one object for all clients that were sent the same.
        after: gives the weights that came back.
        metrics: what the client said of its training.
        round: the server's round.
        client: who sent it.
    """

    before: Arrays
    after: Callable[[], Arrays]
    metrics: Mapping[str, Any]
    round: int
    client: str

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
            key = (id(arrival.before), arrival.round, sender.num_samples, known)
            alike[key].append(arrival)
    for group in alike.values():
        finding = _together(auditor, group, senders) if len(group) > 1 else None
        for part in [group] if finding else [[one] for one in group]:
            with log_failures(auditor, *(one.place for one in part)):
                found = finding or _audit(auditor, part, senders)
                auditor.write(found, observer="server", action="observed")


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
            None,
            tuple(chain(*labels)) if len(labels) == len(parts) else None,
            len(parts),
        )
        finding = auditor.audit(arrivals[0].before, arrivals[0].after(), sender)
        auditor.write(finding, file=AGGREGATES, observer="server", action="observed")


def _sender(auditor: Auditor, arrival: Arrival) -> Sender:
    labels = auditor.labels_of(arrival.client, arrival.round, arrival.metrics)
    return Sender(arrival.round, arrival.client, num_examples(arrival.metrics), None, labels)


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
        LOG.exception("an audit failed; the round goes on")
        reason = f"{type(error).__name__}: {error}"
        for server_round, client in places:
            auditor.note("audit_failed", round=server_round, client=client, reason=reason)


__all__ = ["Arrival", "audit_at_server", "audit_average", "log_failures"]
