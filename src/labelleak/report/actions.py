"""Count what became of the updates that clients audited themselves, round by round."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from labelleak.records.record import Record
from labelleak.records.rounds import client_of, is_federated
from labelleak.report import wording

# The first that a client's audit recorded of an update names its fate: a defended update is
# recorded twice, as it was ("defended") and as it left ("sent").
ACTIONS = ("blocked", "defended", "warned", "sent")


@dataclass(frozen=True)
class ActionCounts:
    """What became of the updates of one round, or of all.

    Attributes:
        number: the round; None for all rounds together.
        policies: the policies that decided.
        counts: updates by action, each update once.
    """

    number: int | None
    policies: tuple[str, ...]
    counts: Mapping[str, int]


def follow_actions(records: Iterable[Record]) -> list[ActionCounts]:
    """Count updates by action: all rounds first, then each; none without a client's audit.

    >>> follow_actions([])
    []
    """
    found: dict[tuple[int, str, str], set[str]] = defaultdict(set)
    policies: dict[int, set[str]] = defaultdict(set)
    for row in records:
        if is_federated(row) and row.extra.get("action") in ACTIONS:
            number = int(row.extra["round"])
            policy = str(row.extra.get("policy", "not named"))
            found[number, client_of(row), policy].add(str(row.extra["action"]))
            policies[number].add(policy)
    rounds: dict[int, Counter[str]] = defaultdict(Counter)
    for (number, _, _), actions in found.items():
        rounds[number][next(action for action in ACTIONS if action in actions)] += 1
    if not rounds:
        return []
    named = tuple(sorted(set().union(*policies.values())))
    together = ActionCounts(None, named, sum(rounds.values(), Counter()))
    each = [ActionCounts(t, tuple(sorted(policies[t])), rounds[t]) for t in sorted(rounds)]
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


__all__ = ["ACTIONS", "ActionCounts", "follow_actions", "say_action_counts"]
