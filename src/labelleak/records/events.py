"""What a federation's auditors noted beside its records: audits and trainings that failed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from labelleak.errors import BadInput, few
from labelleak.records.reading import parse_json, read_lines

EVENTS = "events.jsonl"
_CLOSED = ("block", "defend")


@dataclass(frozen=True)
class Failures:
    """Audits and trainings that failed, as events count them; no record speaks of their updates.

    Attributes:
        audits: audits of an update that failed.
        withheld: how many of those updates were withheld for it; the others left.
        trainings: trainings of a client that failed.
        reason: what was said most often of the failed audits.
    """

    audits: int = 0
    withheld: int = 0
    trainings: int = 0
    reason: str = ""

    @property
    def left(self) -> int:
        """How many updates left their client without an audit."""
        return self.audits - self.withheld

    def __str__(self) -> str:
        """Say it in a sentence without its full stop; nothing where nothing failed.

        >>> print(Failures(3, 3, reason="the client reported no labels"))
        3 audits failed, and all 3 updates were withheld: the client reported no labels
        >>> print(Failures(1))
        1 audit failed, and its update left unaudited
        """
        parts = []
        if self.audits:
            parts.append(f"{self.audits} audit{'s' * (self.audits > 1)} failed, and {self._fate()}")
        if self.trainings:
            parts.append(f"the training of {self.trainings} replies failed")
        return f"{'; '.join(parts)}{f': {self.reason}' if self.reason else ''}"

    def _fate(self) -> str:
        if self.audits == 1:
            return f"its update {'was withheld' if self.withheld else 'left unaudited'}"
        if not self.left:
            return f"all {self.audits} updates were withheld"
        if not self.withheld:
            return f"all {self.audits} updates left unaudited"
        return f"{self.withheld} of the updates were withheld, {self.left} left unaudited"


def read_failures(folder: Path) -> Failures:
    """Count what failed, by the events in a folder; nothing where there are none.

    Lines that are no events are passed over: they are notes beside the records.

    Raises:
        BadInput: if the file is there and cannot be read.
    """
    if not (folder / EVENTS).is_file():
        return Failures()
    counts, reasons = Counter[str](), Counter[str]()
    for _, line in read_lines(folder / EVENTS, "events from "):
        try:
            row = parse_json(line)
        except BadInput:
            continue
        event = row.get("event") if isinstance(row, dict) else None
        if event == "reply_error":
            counts["trainings"] += 1
        elif event == "audit_failed":
            counts["audits"] += 1
            counts["withheld"] += row.get("policy") in _CLOSED
            reasons[str(row.get("reason", ""))] += 1
    said = reasons.most_common(1)[0][0] if reasons else ""
    name, _, rest = said.partition(": ")
    reason = _short(rest if name == "BadInput" and rest else said)
    return Failures(counts["audits"], counts["withheld"], counts["trainings"], reason)


def _short(text: str) -> str:
    return text if text.isprintable() and len(text) <= 300 else few([text])


def check_recorded(records: Path, *, waiting: bool = False) -> None:
    """Say why there are no records where a federation's events stand in their place.

    Args:
        records: the file that is to be read.
        waiting: whether it may yet come.

    Raises:
        BadInput: if the file is that of the events, or is not there, and events say that audits
            or trainings failed.
    """
    if records.name == EVENTS and records.is_file():
        said = str(read_failures(records.parent))
        raise BadInput(f"{EVENTS} holds events and no records{said and f': {said}'}")
    if not waiting and not records.exists() and (said := str(read_failures(records.parent))):
        raise BadInput(f"there are no records: {said}")


__all__ = ["EVENTS", "Failures", "check_recorded", "read_failures"]
