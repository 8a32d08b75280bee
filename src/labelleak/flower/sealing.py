"""Make of a reply what may leave a client that blocks: what was read of it, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from labelleak.errors import BadInput
from labelleak.flower.messages import Arrays, only_record

# Flower's code for a mod that could not let a message pass.
WITHHELD = 6
# What a reply may report beside its arrays where nothing else may leave.
MOST_VALUES, MOST_TEXT = 64, 1024
LARGEST = 2**63


@contextmanager
def keep_metadata(message: Message) -> Iterator[None]:
    """Return a message back the metadata that it came with, whatever was written there meanwhile.

    A reply takes over group, type, identities and times of what it answers, an error no less.
    """
    came = dict(vars(message.metadata))
    try:
        yield
    finally:
        now = vars(message.metadata)
        now.clear()
        now.update(came)


def seal(message: Message, reply: Message, before: Arrays | None) -> Message:
    """Build a reply anew, packed again from what can be read of it.

    So nothing rides along behind an array's end, in its description or in the reply's metadata,
    and whoever still holds the old reply can no longer change what leaves.

    Args:
        message: what is replied to.
        reply: the client's reply.
        before: the arrays that were sent; those of the reply must be like them. None lets no
            array leave.

    Raises:
        BadInput: for arrays that are not like those sent, and as `refuse_beside`.
    """
    content: RecordDict = reply.content
    refuse_beside(content)
    sealed = RecordDict()
    if before is not None:
        key, record = only_record(reply)
        after = Arrays(record)
        if list(before) != list(after):
            raise BadInput("the reply's arrays have other names than those that were sent")
        for name in before:
            sent, got = before[name], after[name]
            if (sent.shape, sent.dtype) != (got.shape, got.dtype):
                raise BadInput(f"{name} has not the shape and type in which it was sent")
        sealed[key] = ArrayRecord({name: Array(after[name].numpy()) for name in after})
    elif content.array_records:
        raise BadInput("an array may leave in the reply to training alone")
    for key, metrics in content.metric_records.items():
        sealed[key] = MetricRecord(dict(metrics))
    for key, settings in content.config_records.items():
        sealed[key] = ConfigRecord(dict(settings))
    return Message(sealed, reply_to=message)


def refuse_beside(content: RecordDict) -> None:
    """Refuse content that could carry an array elsewhere than in its array records.

    Raises:
        BadInput: if metrics or configuration hold a list, bytes, a number of more than 64 bits,
            more single values or more text than anybody reports of a round. Names are text, too.
    """
    values: list[tuple[str, object]] = []
    for metrics in content.metric_records.values():
        values += metrics.items()
    for settings in content.config_records.values():
        values += settings.items()
    for name, value in values:
        if isinstance(value, (list, bytes)):
            raise BadInput(f"{name[:60]!r} in the reply is a {type(value).__name__}, not one value")
        if isinstance(value, int) and abs(value) >= LARGEST:
            raise BadInput(f"{name[:60]!r} in the reply is a number of more than 64 bits")
    texts = [*content, *(name for name, _ in values), *(v for _, v in values if isinstance(v, str))]
    length = sum(map(len, texts))
    if len(values) > MOST_VALUES or length > MOST_TEXT:
        raise BadInput(
            f"the reply reports {len(values)} values and {length} characters beside its arrays; at "
            f"most {MOST_VALUES} and {MOST_TEXT} pass here"
        )


def withhold(message: Message) -> Message:
    """Make an error in place of a reply; it carries no content at all."""
    reason = "labelleak withheld the update by the client's policy"
    return Message(Error(code=WITHHELD, reason=reason), reply_to=message)


__all__ = ["keep_metadata", "refuse_beside", "seal", "withhold"]
