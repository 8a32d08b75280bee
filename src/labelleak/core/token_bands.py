"""How many of a text's common and rare words an answer names; special tokens apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labelleak.core.counts import Floats, Ints
from labelleak.records.text import BANDS, COMMON, RARE

_SPECIAL = re.compile(r"\[[A-Z]+\d*\]|<\|.*\|>|</?s>|<(eos|bos|pad|unk|mask)>", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class TokenBands:
    """Which band each token is in, by its share of the attacker's own text.

    Attributes:
        band: place in `BANDS`, K numbers.

    >>> bands = TokenBands.of(np.array([0.5, 0.4999, 0.0001, 0.00001]), ["[UNK]", "the", "a", "b"])
    >>> [BANDS[place] for place in bands.band]
    ['special', 'common', 'middle', 'rare']
    >>> bands.score(np.array([1, 2, 0, 1]), np.array([1, 1, 1, 1]))["rare_once"]
    [1, 1, 0]
    """

    band: Ints

    @classmethod
    def of(cls, shares: Floats, names: Sequence[str]) -> TokenBands:
        """Sort tokens by their share and their name."""
        band = np.where(shares >= COMMON, 0, np.where(shares >= RARE, 1, 2))
        band[[place for place, name in enumerate(names) if _SPECIAL.fullmatch(name)]] = 3
        return cls(band)

    def score(self, guess: Ints, truth: Ints) -> dict[str, Any]:
        """Return the keys of a record that say how many words of each band were named."""
        right, size = np.minimum(guess, truth), len(BANDS)
        rare = self.band == BANDS.index("rare")
        once, named = rare & (truth == 1), guess > 0
        there = truth > 0
        both, listed = int((named & there).sum()), int(named.sum()) + int(there.sum())
        return {
            "band_labels": np.bincount(self.band, truth, size).astype(int).tolist(),
            "band_named": np.bincount(self.band, right, size).astype(int).tolist(),
            "rare_once": [
                int(once.sum()),
                int((once & named).sum()),
                int((rare & named & ~there).sum()),
            ],
            "presence_f1": round(2 * both / listed, 6),
        }


__all__ = ["TokenBands"]
