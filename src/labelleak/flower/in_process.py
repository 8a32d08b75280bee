"""A whole federation in one process: no Ray, no SuperLink; for tests and for trying things out."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from labelleak.flower.events import LOG

CLIENT_FAILED = 2


class InProcessGrid(Grid):
    """A Grid that calls the ClientApp of each node, mods and all, when a message is pushed.

    Args:
        app: the clients' app.
        num_nodes: how many nodes; node i + 1 holds partition i.
        run_config: what every client finds in its context.
    """

    def __init__(
        self, app: ClientApp, num_nodes: int, run_config: Mapping[str, Any] | None = None
    ) -> None:
        _pose_as_task()
        self._app = app
        self._contexts = {
            place + 1: Context(
                run_id=1,
                node_id=place + 1,
                node_config={"partition-id": place, "num-partitions": num_nodes},
                state=RecordDict(),
                run_config=dict(run_config or {}),
            )
            for place in range(num_nodes)
        }
        self._replies: dict[str, Message] = {}
        self._run = _empty_run()

    def context_of(self, node_id: int) -> Context:
        """Return a node's context, which lasts from round to round."""
        return self._contexts[node_id]

    def set_run(self, run: Any) -> None:
        """Keep a run."""
        self._run = run

    @property
    def run(self) -> Any:
        """The run; Flower's old workflows read its number."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return every node."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the clients at once, and keep their replies."""
        numbers = []
        for message in messages:
            number = uuid.uuid4().hex
            message.metadata.__dict__["_message_id"] = number  # a SuperLink would set it
            self._replies[number] = self._call(message)
            numbers.append(number)
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand the replies over."""
        return [self._replies.pop(one) for one in message_ids if one in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Run the clients and hand their replies over."""
        return self.pull_messages(self.push_messages(messages))

    def _call(self, message: Message) -> Message:
        # A copy stands for the wire: strategies share records between messages, mods take
        # them apart.
        own = copy.deepcopy(message)
        try:
            return self._app(own, self._contexts[message.metadata.dst_node_id])
        except Exception as error:  # noqa: BLE001
            LOG.exception("client %s failed", message.metadata.dst_node_id)
            failure = Error(code=CLIENT_FAILED, reason=f"{type(error).__name__}: {error}")
            return Message(failure, reply_to=message)


def _empty_run() -> Any:
    """Make a run; the class moved between Flower's minor releases."""
    try:
        home = import_module("flwr.supercore.run")
    except ImportError:
        home = import_module("flwr.common.typing")
    return home.Run.create_empty(run_id=1)


def _pose_as_task() -> None:
    """Let messages be made outside a task; newer Flower asks who makes them."""
    try:
        identity = import_module("flwr.supercore.task_identity").TaskIdentity
    except ImportError:
        return
    if identity._run_id is None:
        identity.run_id, identity.node_id, identity.task_id = 1, 1 << 32, 1


__all__ = ["InProcessGrid"]
