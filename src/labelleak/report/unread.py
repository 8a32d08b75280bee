"""Updates that no attack could read: what was shared says something, but nobody looked."""

from __future__ import annotations

from collections.abc import Sequence

from labelleak.records.columns import ABSENT
from labelleak.records.frame import RecordFrame
from labelleak.records.record import Record
from labelleak.records.rounds import is_round
from labelleak.report.wording import count, list_words

_MOST_NAMES = 4
# What decides beside the defense and adapters if an update can be read.
_BESIDE = ("model", "training_steps", "local_steps")
_Key = tuple[str, ...]


def find_unread(records: Sequence[Record]) -> tuple[str, ...]:
    """Name the conditions under which attacks were asked and none could read the update.

    Where nothing was asked but to guess, nothing is said.
    """
    frame = RecordFrame.of(records)
    if not any(frame.distinct("not_applicable")):
        return ()
    tried: dict[_Key, bool] = {}
    keys = ("round", "threat_model", "not_applicable", "lora", "defense", *_BESIDE)
    for number, held, left_out, lora, defense, *beside in frame.held_together(*keys):
        if not is_round(number):
            key = (defense, "" if lora is ABSENT else str(lora), *map(str, beside))
            reads, asked = held != "none", left_out is not ABSENT and bool(left_out)
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
