"""Count what became of the updates that clients audited themselves, round by round."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labelleak.records.record import Record
from labelleak.records.rounds import client_of, federated
from labelleak.report import wording

# The first that a client's audit recorded of an update names its fate: a defended update is
# recorded twice, as it was ("defended") and as it left ("sent").
ACTIONS = ("blocked", "defended", "warned", "sent")
# What is recorded of an update as it left its client.
LEFT = ("sent", "warned")
_VERBS = {"blocked": "withheld", "defended": "defended", "warned": "warned of"}


@dataclass(frozen=True)
class ActionCounts:
    """What became of the updates of one round, or of all.

    Attributes:
        number: the round; None for all rounds together.
        policies: the policies that decided.
        counts: updates by action, each update once.
        limits: the advantages above which they acted; empty where records do not say.
    """

    number: int | None
    policies: tuple[str, ...]
    counts: Mapping[str, int]
    limits: tuple[float, ...] = ()


def follow_actions(records: Iterable[Record]) -> list[ActionCounts]:
    """Count updates by action: all rounds first, then each; none without a client's audit.

    >>> follow_actions([])
    []
    """
    found: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    policies: dict[int, set[str]] = defaultdict(set)
    limits: dict[int, set[float]] = defaultdict(set)
    for row in federated(records):
        if row.extra.get("action") in ACTIONS:
            number = int(row.extra["round"])
            policy = str(row.extra.get("policy", "not named"))
            # Two runs in one folder each have a round 1 of a client 1.
            place = (number, client_of(row), policy, *map(row.extra.get, ("run", "limit")))
            found[place].add(str(row.extra["action"]))
            policies[number].add(policy)
            if "limit" in row.extra:
                limits[number].add(float(row.extra["limit"]))
    rounds: dict[int, Counter[str]] = defaultdict(Counter)
    for (number, *_), actions in found.items():
        rounds[number][next(action for action in ACTIONS if action in actions)] += 1
    if not rounds:
        return []

    def named(by_round: Mapping[int, set[Any]], numbers: Iterable[int]) -> tuple[Any, ...]:
        return tuple(sorted(set().union(*(by_round.get(t, set()) for t in numbers))))

    total = sum(rounds.values(), Counter[str]())
    together = ActionCounts(None, named(policies, rounds), total, named(limits, rounds))
    each = [
        ActionCounts(t, named(policies, [t]), rounds[t], named(limits, [t])) for t in sorted(rounds)
    ]
    return [together, *each]


def say_action_counts(action_counts: ActionCounts) -> str:
    """Return the counts in words, in the order in which an update is stopped least.

    >>> say_action_counts(ActionCounts(None, ("block",), {"blocked": 3, "sent": 1}))
    '4 updates audited by their clients: 1 sent, 3 blocked'
    """
    total = wording.count(sum(action_counts.counts.values()), "update")
    parts = [
        f"{action_counts.counts[a]} {a}" for a in reversed(ACTIONS) if action_counts.counts.get(a)
    ]
    return f"{total} audited by their clients: {', '.join(parts)}"


def say_policy(counts: Sequence[ActionCounts]) -> str:
    """Say what clients' policies did to the updates that a page's figures speak of; else nothing.

    Figures are of updates as they were before the policy, whether or not they left.

    >>> say_policy([ActionCounts(None, ("block",), {"blocked": 3, "sent": 1}, (0.2,))])
    'The policy block (above an advantage of 0.2) withheld 3 of 4 updates; the figures are of all \
of them, as they were before'
    """
    if not counts or set(counts[0].policies) <= {"record", "not named"}:
        return ""
    together = counts[0]
    total = sum(together.counts.values())
    many = {a: together.counts[a] for a in _VERBS if together.counts.get(a)}
    did = [f"{verb} {_share(many[a], total)}" for a, verb in _VERBS.items() if a in many]
    policies = f"polic{'y' if len(together.policies) == 1 else 'ies'}"
    at = " or ".join(f"{limit:g}" for limit in together.limits)
    said = (
        f"The {policies} {wording.list_words(together.policies, 4)}"
        f"{f' (above an advantage of {at})' if at else ''} "
    )
    updates = "update" if total == 1 else "updates"
    if not did:
        return f"{said}let {_share(total, total)} {updates} leave"
    of = "" if max(many.values()) == total else f" of {total}"
    told = "it, as it was" if total == 1 else "all of them, as they were"
    return f"{said}{' and '.join(did)}{of} {updates}; the figures are of {told} before"


def say_withheld(counts: Sequence[ActionCounts]) -> str:
    """Say how many updates clients withheld, to go on with a verb; nothing where none.

    >>> say_withheld([ActionCounts(None, ("block",), {"blocked": 3, "sent": 1})])
    '3 of 4 updates were withheld by their clients and'
    """
    together = counts[0].counts if counts else {}
    withheld, total = together.get("blocked", 0), sum(together.values())
    updates = "update was" if total == 1 else "updates were"
    return f"{withheld} of {total} {updates} withheld by their clients and" if withheld else ""


def _share(number: int, total: int) -> str:
    """Return how many of all, in words.

    >>> _share(1, 1), _share(3, 3), _share(2, 3)
    ('the only', 'all 3', '2')
    """
    return str(number) if number < total else "the only" if total == 1 else f"all {total}"


def all_blocked(counts: Sequence[ActionCounts]) -> bool:
    """Return whether no update left its client."""
    return bool(counts) and {a for a, n in counts[0].counts.items() if n} == {"blocked"}


__all__ = [
    "ACTIONS",
    "LEFT",
    "ActionCounts",
    "all_blocked",
    "follow_actions",
    "say_action_counts",
    "say_policy",
    "say_withheld",
]
