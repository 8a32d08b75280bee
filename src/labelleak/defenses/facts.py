"""What families of defenses share: their kinds, what they leave open, and strengths to try."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

# By name of a family, text forms that `labelleak tune` tries, the weakest first.
Ladders = Mapping[str, tuple[str, ...]]


class Kind(Enum):
    """What a defense does to an update, where an order of defenses may defeat itself."""

    SPARSE = "leaves entries out"
    COARSE = "rounds entries"
    NOISE = "adds noise"
    CLIP = "scales an update down"
    SERVER = "acts at the server, after the update was received"


POOLED = (
    "What leaks is measured for a single update: over many rounds of one client noise averages "
    "out, and an attacker who pools them gains more."
)
COMPRESSED = (
    "Compression adds no noise: what is sent still depends on the labels, and nothing is private "
    "in the sense of a proof."
)
HEAD_ALONE = (
    "It acts on the head alone; by itself it leaves the other layers in the clear, and their "
    "gradients depend on the labels too."
)
WITHHELD = (
    "By itself it leaves what is not withheld in the clear, and the gradient of any layer depends "
    "on the labels."
)
HELD_BACK = "What it holds back it sends later, which a single update does not show."
CLIP_ALONE = "Clipping alone scales an update and keeps its signs and ratios: it hides no label."

RUNGS_PER_DECADE = 4


def decades(low: int, high: int) -> list[str]:
    """Return strengths from 10^low to 10^high, evenly spaced on a logarithmic scale.

    >>> decades(0, 1)
    ['1', '1.78', '3.16', '5.62', '10']
    """
    rungs = range(low * RUNGS_PER_DECADE, high * RUNGS_PER_DECADE + 1)
    return [f"{10.0 ** (rung / RUNGS_PER_DECADE):.3g}" for rung in rungs]


# Standard deviations of noise, and shares of entries that are kept, the weakest first.
SIGMAS = decades(-3, 1)
KEPT = decades(-4, 0)[-2::-1]
