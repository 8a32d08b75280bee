"""What records say of a defense beside its leak: what is proved of it, and what may surprise."""

from __future__ import annotations

from math import isfinite
from typing import Any

from labelleak.defenses import Chain, remarks
from labelleak.defenses.accounting import account

DELTA = 1e-5


def describe_defense(
    chain: Chain,
    *,
    rounds: int = 1,
    local_steps: int = 1,
    delta: float = DELTA,
    entries: int | None = None,
) -> dict[str, Any]:
    """Return the extra keys of records under a defense; none where there is no defense.

    Epsilon is recomputed from the defense itself (`account`). For DP-SGD no gain from sampling
    is counted, since how a client samples is not known here.

    Args:
        chain: the defense.
        rounds: updates that a client shares.
        local_steps: steps of a client in each.
        delta: in (0, 1).
        entries: parameters of the model, where they are known.

    >>> from labelleak.defenses import parse_defense
    >>> found = describe_defense(parse_defense("clip:1|gaussian:1|topk:1"))
    >>> found["epsilon"], found["epsilon_protects"], found["defense_off"]
    (4.37718, 'update', ['topk:1'])
    """
    if not chain.links:
        return {}
    proved = account(chain, rounds=rounds, delta=delta, local_steps=local_steps, entries=entries)
    known = proved.epsilon is not None and isfinite(proved.epsilon)
    found: dict[str, Any] = {
        "epsilon": float(f"{proved.epsilon:.6g}") if known else None,
        "epsilon_method": proved.method,
        "epsilon_delta": proved.delta,
        "epsilon_rounds": rounds,
        "epsilon_protects": proved.protects,
        "privacy": proved.sentence,
    }
    off = [part.label for part in chain.links if part.is_off]
    said = list(remarks(chain))
    return {
        **found,
        **({"defense_off": off} if off else {}),
        **({"defense_remarks": said} if said else {}),
    }


__all__ = ["DELTA", "describe_defense"]
