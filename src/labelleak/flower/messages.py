"""Read what labelleak needs from Flower's messages, without changing them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message
from torch import Tensor

from labelleak.errors import BadInput

# Flower's old interface packs a list of arrays under numbers, and marks an empty one so.
EMPTY = "_empty"
MOST_DIGITS = 10
NUM_EXAMPLES = ("num-examples", "num_examples")


class Arrays(Mapping[str, Tensor]):
    """An array record as it was when read, decoded name by name when asked.

    Nothing done to these tensors reaches the message, nor does what is done to the message reach
    them: its bytes are shared, but cannot change. Most attacks ask for the head alone.
    """

    def __init__(self, record: ArrayRecord) -> None:
        self._packed = {name: copy.copy(a) for name, a in record.items() if name != EMPTY}
        self._decoded: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._decoded:
            self._decoded[name] = torch.from_numpy(self._packed[name].numpy())
        return self._decoded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._packed

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


def only_record(message: Message) -> tuple[str, ArrayRecord]:
    """Return a message's array record and its key.

    Raises:
        BadInput: if there is not exactly one, so that none can be called the model.
    """
    records = list(message.content.array_records.items()) if message.has_content() else []
    if len(records) != 1:
        raise BadInput(
            f"the message holds {len(records)} array records; a model travels in exactly one"
        )
    return records[0]


def is_train(message: Message) -> bool:
    """Return whether a message belongs to training."""
    return message.metadata.message_type.split(".")[0] == "train"


def round_of(message: Message) -> int:
    """Return the server's round: from the configuration that came along, or the group; else 0."""
    if message.has_content():
        for record in message.content.config_records.values():
            number = record.get("server-round", record.get("server_round"))
            if isinstance(number, int):
                return number
    group = message.metadata.group_id
    return int(group) if group.isdecimal() and len(group) < MOST_DIGITS else 0


def metrics_of(message: Message) -> dict[str, Any]:
    """Join a reply's metrics; the old interface spreads them over several records."""
    joined: dict[str, Any] = {}
    for record in message.content.metric_records.values():
        joined.update(record)
    for name, settings in message.content.config_records.items():
        if name.startswith("fitres"):
            joined.update(settings)
    return joined


def num_examples(metrics: Mapping[str, Any]) -> int | None:
    """Return the number of examples that a reply says it was trained on, if it does.

    A client may say anything; what is not a finite number of at least 1 counts as unsaid.
    """
    for name in NUM_EXAMPLES:
        said = metrics.get(name)
        if isinstance(said, (int, float)) and 1 <= said < math.inf:
            return int(said)
    return None


def client_of(context: Context) -> str:
    """Name a client by its partition where it has one, else by its node."""
    return str(context.node_config.get("partition-id", context.node_id))


__all__ = [
    "Arrays",
    "client_of",
    "is_train",
    "metrics_of",
    "num_examples",
    "only_record",
    "round_of",
]
