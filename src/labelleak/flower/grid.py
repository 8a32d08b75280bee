"""The honest-but-curious server: a Grid that audits each client's update as it arrives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from labelleak.flower.auditor import Auditor
from labelleak.flower.claims import controls_named
from labelleak.flower.messages import (
    Arrays,
    Sent,
    is_train,
    metrics_of,
    model_record,
    names_in,
    round_of,
)
from labelleak.flower.partitions import Claims
from labelleak.flower.server import CONTROL, Arrival, audit_at_server, log_failures


class Watch:
    """Pairs what was sent to each node with what it returned, and audits the pair.

    Attributes:
        auditor: what audits.
    """

    def __init__(self, auditor: Auditor) -> None:
        self.auditor = auditor
        self._sent: dict[int, Sent] = {}
        self._claims = Claims()

    def sent(self, messages: Iterable[Message]) -> None:
        """Keep the weights of training messages; clients that share a record share the copy."""
        copies: dict[int, Arrays] = {}
        for message in messages:
            if is_train(message) and message.has_content() and message.content.array_records:
                told = Sent.of(message, self.auditor.lr_key, copies)
                self._sent[message.metadata.dst_node_id] = told

    def returned(self, replies: Iterable[Message]) -> None:
        """Audit the replies to training messages."""
        found: list[Arrival] = []
        for reply in filter(is_train, replies):
            with log_failures(self.auditor, (round_of(reply), str(reply.metadata.src_node_id))):
                found += self._pair(reply)
        audit_at_server(self.auditor, self._claims.settle(self.auditor, found))

    def _pair(self, reply: Message) -> list[Arrival]:
        node = reply.metadata.src_node_id
        sent = self._sent.pop(node, None)
        server_round, client = round_of(reply) if sent is None else sent.round, str(node)
        if reply.has_error():
            reason = str(reply.error.reason)[:500]
            self.auditor.note("reply_error", round=server_round, client=client, reason=reason)
            return []
        metrics = metrics_of(reply)
        if sent is None or sent.arrays is None or not reply.content.array_records:
            self.auditor.note("no_update", round=server_round, client=client)
            return []
        controls = sent.controls or controls_named(names_in(reply))
        flags = (CONTROL,) if controls and self.auditor.control is None else ()
        arrival = Arrival(
            sent.arrays,
            lambda: Arrays(model_record(reply)),
            metrics,
            server_round,
            client,
            lr=sent.lr,
            flags=flags,
            run=reply.metadata.run_id,
        )
        return [self._claims.take(self.auditor, arrival)]


class ObservingGrid(Grid):
    """A Grid that behaves as the one inside, and audits every training reply that it hands on.

    Nothing is changed, and everything is read before a strategy gets it.
    """

    def __init__(self, grid: Grid, auditor: Auditor) -> None:
        self._grid = grid
        self._watch = Watch(auditor)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_grid":  # not yet there while being unpickled
            raise AttributeError(name)
        return getattr(self._grid, name)

    def set_run(self, run: Any) -> None:
        """Pass the run on."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """The run of the grid inside."""
        return self._grid.run

    def create_message(self, *args: Any, **options: Any) -> Message:
        """Let the grid inside make a message."""
        return self._grid.create_message(*args, **options)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes of the grid inside."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Any:
        """Return what the grid inside says of its nodes."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Note what is sent, and send it."""
        listed = list(messages)
        self._watch.sent(listed)
        return self._grid.push_messages(listed)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Fetch replies, and audit them."""
        replies = list(self._grid.pull_messages(message_ids))
        self._watch.returned(replies)
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send, receive, and audit what came back."""
        listed = list(messages)
        self._watch.sent(listed)
        replies = list(self._grid.send_and_receive(listed, timeout=timeout))
        self._watch.returned(replies)
        return replies


def observe(grid: Grid, auditor: Auditor) -> ObservingGrid:
    """Watch a federation from the server, whatever its strategy.

    Use it where the strategy is started:
    ``strategy.start(grid=labelleak.flower.observe(grid, auditor), ...)``. It sees each client's
    update as it arrived, before a server-side defense of Flower edits it. Under SecAgg+ use
    `AuditedLegacyStrategy`, since there a reply holds no weights.

    Args:
        grid: what the ServerApp was given.
        auditor: how to audit, and where to write.
    """
    return ObservingGrid(grid, auditor)


__all__ = ["ObservingGrid", "Watch", "observe"]
