"""Cry of wolf: how often ordinary right updates are called impossible, or are repaired.

Run ``python tests/controls/wolf.py 300 [FIRST]`` (``make wolf``).
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from controls.ordinary import draw_client
from labelleak.core.limits import check_limits
from labelleak.core.scale_fit import fit_scale
from labelleak.errors import NotApplicable
from labelleak.records.states import State


def cries(seeds: range) -> tuple[list[str], Counter[str]]:
    """Return the clients that were called impossible or repaired, and the states of the others."""
    wrong, states = [], Counter()
    for seed in seeds:
        client = draw_client(seed)
        found = check_limits(client.seen, client.training)
        wrong += [
            f"impossible {what}, {float(found.times):.3g} times: {client.made}"
            for what in ("scale", "sign")
            if getattr(found, what).any()
        ]
        try:
            fit = fit_scale(client.seen, client.known)
        except NotApplicable:
            states["no fit"] += 1
            continue
        states[f"fit {fit.state}"] += 1
        if fit.repair is not None:
            wrong.append(f"repaired by {fit.repair:g} (fit {fit}): {client.made}")
        elif fit.state is State.failed and "none" in client.made and "smoothing 0.0" in client.made:
            states["plain update called unlikely"] += 1
    return wrong, states


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    number, first = [*given, 300, 0][:2] if len(given) != 1 else (given[0], 0)
    wrong, states = cries(range(first, first + number))
    print(*wrong, sep="\n")
    print(f"{number} right updates: {len(wrong)} impossible or repaired;", dict(states))
    sys.exit(bool(wrong))
