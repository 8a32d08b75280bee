"""Tell whether records that lie together are of one run, as every figure takes for granted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from labelleak.records.frame import RecordFrame
from labelleak.records.record import Record
from labelleak.records.rounds import client_of, federated

WHAT_TO_DO = "give each run a folder of its own, and judge one run's records"


def say_mixed(records: Iterable[Record]) -> str:
    """Say why records are not of one run of a federation, and what to do; nothing if they may be.

    Every update of a run is written once, on its client or at the server. Where one is there
    twice, updates are counted twice, and their intervals are too narrow. Without rounds there is
    no federation, and records of several audits may stand together.

    >>> say_mixed([])
    ''
    """
    rows = records if isinstance(records, RecordFrame) else list(records)
    own = federated(rows)
    if not own:
        return ""
    why = list(_reasons(own, audited=len(rows) - len(own)))
    return f"These records are not of one run: {'; '.join(why)}; {WHAT_TO_DO}" if why else ""


def _reasons(rows: list[Record], audited: int) -> Iterator[str]:
    if audited:
        yield "some are of an audit, others of a federation"
    runs = {str(row.extra["run"]) for row in rows if "run" in row.extra}
    if len(runs) > 1:
        yield f"Flower numbers {len(runs)} runs"
    written: dict[Any, set[Any]] = defaultdict(set)
    for row in rows:
        said, round_number = row.extra, row.extra["round"]
        if not round_number:  # nobody told the rounds, so nothing tells one from the next
            continue
        place = (round_number, client_of(row))
        for key in ("policy", "limit", "observer"):
            written[key, *place].add(said.get(key))
        # An update under `defend` is there as it was, and as it left.
        written["update_digest", *place, said.get("action")].add(said.get("update_digest"))
    twice = {key for key, found in written.items() if len(found - {None}) > 1}
    for key, words in _WORDS.items():
        first = min((place[1:3] for place in twice if place[0] == key), default=None)
        if first is not None:
            yield f"{words} (client {first[1]}, round {first[0]})"


_WORDS = {
    "policy": "one round of a client was decided by two policies",
    "limit": "one round of a client was held against two limits",
    "observer": "clients and server wrote of the same update",
    "update_digest": "one round of a client has several updates",
}

__all__ = ["WHAT_TO_DO", "say_mixed"]
