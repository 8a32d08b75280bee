"""Count what became of the updates that clients audited themselves, round by round."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from labelleak.records.record import Record
from labelleak.records.rounds import client_of, is_federated
from labelleak.report import wording

# The first that a client's audit recorded of an update names its fate: a defended update is
# recorded twice, as it was ("defended") and as it left ("sent").
ACTIONS = ("blocked", "defended", "warned", "sent")
_VERBS = {"blocked": "withheld", "defended": "defended"}


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


def say_policy(counts: Sequence[ActionCounts]) -> str:
    """Say what clients' policies did to the updates that a page's figures speak of; else nothing.

    Figures are of updates as they were before the policy, whether or not they left.

    >>> say_policy([ActionCounts(None, ("block",), {"blocked": 3, "sent": 1})])
    'The policy block withheld 3 of 4 updates; the figures are of all of them, as they were before'
    """
    if not counts:
        return ""
    together = counts[0]
    total = sum(together.counts.values())
    did = [
        f"{verb} {'all ' if together.counts[a] == total else ''}{together.counts[a]}"
        for a, verb in _VERBS.items()
        if together.counts.get(a)
    ]
    if not did:
        return ""
    policies = f"polic{'y' if len(together.policies) == 1 else 'ies'}"
    of = "" if together.counts.get("blocked") == total else f" of {total}"
    return (
        f"The {policies} {wording.list_words(together.policies, 4)} {' and '.join(did)}{of} "
        f"{'update' if total == 1 else 'updates'}; the figures are of all of them, as they were "
        "before"
    )


def all_blocked(counts: Sequence[ActionCounts]) -> bool:
    """Return whether no update left its client."""
    return bool(counts) and {a for a, n in counts[0].counts.items() if n} == {"blocked"}


__all__ = [
    "ACTIONS",
    "ActionCounts",
    "all_blocked",
    "follow_actions",
    "say_action_counts",
    "say_policy",
]
