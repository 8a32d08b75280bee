"""Updates that no attack could read: what was shared says something, but nobody looked."""

from __future__ import annotations

from collections.abc import Sequence

from labelleak.records.record import Record
from labelleak.records.rounds import is_federated
from labelleak.report.wording import count, list_words

_MOST_NAMES = 4
# What decides beside the defense and adapters if an update can be read.
_BESIDE = ("model", "training_steps", "local_steps")
_Key = tuple[str, ...]


def find_unread(records: Sequence[Record]) -> tuple[str, ...]:
    """Name the conditions under which attacks were asked and none could read the update.

    Where nothing was asked but to guess, nothing is said.
    """
    if not any(row.extra.get("not_applicable") for row in records):
        return ()
    tried: dict[_Key, bool] = {}
    for row in records:
        if not is_federated(row):
            beside = tuple(str(getattr(row, name)) for name in _BESIDE)
            key = (row.defense, str(row.extra.get("lora", "")), *beside)
            reads, asked = row.threat_model != "none", bool(row.extra.get("not_applicable"))
            if reads or asked:
                tried[key] = tried.get(key, False) or reads
    # What is the same in all is not named.
    varies = [len({key[2 + at] for key in tried}) > 1 for at in range(len(_BESIDE))]
    names = (_name(key, varies) for key, read in tried.items() if not read)
    return tuple(dict.fromkeys(names))


def _name(key: _Key, varies: Sequence[bool]) -> str:
    defense, lora, *beside = key
    adapters = f"lora {lora}" if lora else ""
    said = [
        f"{name.replace('_', ' ')} {value}"
        for name, value, told in zip(_BESIDE, beside, varies, strict=True)
        if told
    ]
    own = [part for part in (adapters, "" if defense == "none" else defense) if part]
    return " and ".join([*(own or ["none"]), *said])


def say_unread(conditions: Sequence[str]) -> str:
    """Say that updates could not be read, which is no proof; nothing where all could.

    >>> say_unread(["withhold:head"])[:57]
    'No attack could read the update of 1 case (withhold:head)'
    """
    if not conditions:
        return ""
    cases = f"{count(len(conditions), 'case')} ({list_words(conditions, _MOST_NAMES)})"
    return (
        f"No attack could read the update of {cases}, so nothing is known of what it tells: that "
        "is no sign that it is safe."
    )


__all__ = ["find_unread", "say_unread"]
