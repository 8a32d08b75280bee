"""The partitions that clients claim: shown beside their node, never taken for a key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from labelleak.flower.auditor import Auditor
from labelleak.flower.claims import PARTITION, partition_of
from labelleak.flower.server import CLASH, Arrival


class Claims:
    """Who claimed which partition in a round."""

    def __init__(self) -> None:
        self._round = -1
        self._nodes: dict[str, set[str]] = defaultdict(set)

    def take(self, auditor: Auditor, arrival: Arrival) -> Arrival:
        """Read a client's claim, and note one that cannot be shown."""
        partition, refused = partition_of(arrival.metrics.get(PARTITION))
        if refused:
            auditor.note(
                "partition_refused", round=arrival.round, client=arrival.client, said=refused
            )
        return replace(arrival, partition=partition)

    def settle(self, auditor: Auditor, arrivals: Sequence[Arrival]) -> list[Arrival]:
        """Flag the clients that claim the same partition in a round, and note each of them."""
        for arrival in arrivals:
            if arrival.round != self._round:
                self._round = arrival.round
                self._nodes.clear()
            if arrival.partition is not None:
                self._nodes[arrival.partition].add(arrival.client)
        return [self._settled(auditor, arrival) for arrival in arrivals]

    def _settled(self, auditor: Auditor, arrival: Arrival) -> Arrival:
        nodes = self._nodes[arrival.partition] if arrival.partition is not None else set()
        if len(nodes) < 2:
            return arrival
        auditor.note(
            CLASH,
            round=arrival.round,
            client=arrival.client,
            partition=arrival.partition,
            clients=sorted(nodes)[:8],
        )
        return replace(arrival, flags=(*arrival.flags, CLASH))


__all__ = ["Claims"]
