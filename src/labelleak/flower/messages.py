"""Read what labelleak needs from Flower's messages, without changing them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from math import prod
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message
from torch import Tensor

from labelleak.errors import BadInput
from labelleak.flower.claims import controls_named, lr_said

# Flower's old interface packs a list of arrays under numbers, and marks an empty one so.
EMPTY = "_empty"
MOST_DIGITS = 10
# Under which a strategy of Flower sends the model, if it is not told otherwise.
MODEL = "arrays"
# How Flower calls what numpy packed, and how that begins.
_NUMPY, _VERSION_1 = "numpy.ndarray", b"\x93NUMPY\x01\x00"


class Arrays(Mapping[str, Tensor]):
    """An array record as it was when read, decoded name by name when asked.

    Nothing done to these tensors reaches the message, nor does what is done to the message reach
    them: its bytes are shared, but cannot change. Most attacks ask for the head alone.
    """

    def __init__(self, record: ArrayRecord) -> None:
        self._packed = {
            name: (a.dtype, a.shape, a.stype, a.data) for name, a in record.items() if name != EMPTY
        }
        self._decoded: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._decoded:
            self._decoded[name] = torch.from_numpy(_decode(*self._packed[name]))
        return self._decoded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._packed

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


def _decode(dtype: str, rows: tuple[int, ...], stype: str, data: bytes) -> np.ndarray:
    """Return what Flower's own decoding does, each layout's header read once in a process."""
    if stype == _NUMPY and data[:8] == _VERSION_1:
        start = 10 + int.from_bytes(data[8:10], "little")
        layout = _layout(data[8:start])
        if layout is not None:
            kind, shape = layout
            held = prod(shape)
            if 0 < held * kind.itemsize <= len(data) - start:
                return np.frombuffer(data, kind, held, start).reshape(shape).copy()
    return np.asarray(Array(dtype, rows, stype, data).numpy())


@lru_cache(maxsize=1024)
def _layout(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...]] | None:
    """Read numpy's header; None for what is not plain rows of numbers, or no header at all."""
    try:
        shape, by_columns, kind = np.lib.format.read_array_header_1_0(BytesIO(header))
    except ValueError:
        return None
    return None if by_columns or kind.hasobject else (kind, shape)


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


def model_record(message: Message) -> ArrayRecord:
    """Return the array record of the model, beside which only control variates may stand.

    Raises:
        BadInput: if it cannot be told from others.
    """
    records = message.content.array_records if message.has_content() else {}
    beside = [name for name in records if name != MODEL]
    if MODEL in records and all(controls_named([name]) for name in beside):
        return records[MODEL]
    return only_record(message)[1]


@dataclass(frozen=True, eq=False)
class Sent:
    """What the server sent, as it was before anything could take it apart.

    Attributes:
        round: the server's round.
        arrays: the weights; None where they cannot be told.
        lr: the learning rate in the configuration.
        controls: whether control variates came along.
    """

    round: int
    arrays: Arrays | None
    lr: float | None
    controls: bool

    @classmethod
    def of(cls, message: Message, lr_key: str, copies: dict[int, Arrays] | None = None) -> Sent:
        """Read a message.

        Args:
            message: of the server.
            lr_key: name of the learning rate in its configuration.
            copies: arrays by the identity of the record that they were read from, which messages
                may share.
        """
        lr, controls = lr_said(settings_of(message), lr_key), controls_named(names_in(message))
        try:
            record = model_record(message)
        except BadInput:
            return cls(round_of(message), None, lr, controls)
        arrays = Arrays(record) if copies is None else copies.setdefault(id(record), Arrays(record))
        return cls(round_of(message), arrays, lr, controls)


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


def settings_of(message: Message) -> list[Mapping[str, Any]]:
    """Return the records of a message's configuration."""
    return list(message.content.config_records.values()) if message.has_content() else []


def names_in(message: Message) -> Iterator[str]:
    """Name everything that a message carries."""
    if message.has_content():
        for key, record in message.content.items():
            yield key
            yield from record


def client_of(context: Context) -> str:
    """Name a client by its node, as the transport knows it."""
    return str(context.node_id)


__all__ = [
    "Arrays",
    "Sent",
    "client_of",
    "is_train",
    "metrics_of",
    "model_record",
    "names_in",
    "only_record",
    "round_of",
    "settings_of",
]
