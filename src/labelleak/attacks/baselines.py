"""Guesses that need no update: random labels, and the best guess under the prior."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelleak.core.card import Card
from labelleak.core.head_sums import locked
from labelleak.core.interfaces import Attack, Estimate, Prepared, samples
from labelleak.core.knowledge import Knowledge
from labelleak.core.needs import Need
from labelleak.core.observation import Observation
from labelleak.core.priors import expected_shares, free_guess

# Random counts of more entries are drawn anew each time.
_MOST_KEPT = 2**16


@dataclass(frozen=True)
class RandomGuess(Attack):
    """Draw N labels uniformly; the random baseline of Wainakh et al. (PoPETs 2022)."""

    name = "random"
    needs = frozenset({Need.NUM_SAMPLES})
    cite = "Wainakh et al., PoPETs 2022 (baseline)"
    card = Card(
        "random guess",
        standard=True,
        plain="Guesses labels at random.",
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Keep a seed: what is drawn depends on N and the trials, not on earlier calls."""
        seed = int(rng.integers(2**63))

        last: dict[tuple[int, tuple[int, ...]], Estimate] = {}

        def answer(observation: Observation) -> Estimate:
            total, trials = samples(observation), observation.trials
            if (found := last.get((total, trials))) is not None:
                return found
            shares = np.full(num_classes, 1 / num_classes)
            counts = np.random.default_rng([seed, total]).multinomial(total, shares, size=trials)
            found = Estimate(*locked((counts, counts.astype(np.float64))))
            if counts.size <= _MOST_KEPT:
                last.clear()
                last[total, trials] = found
            return found

        return answer


@dataclass(frozen=True)
class FreeGuess(Attack):
    """Return the counts that maximise expected ASR under the prior, whatever the update says.

    This is the best data-free guess that every attack is measured against. Without a known
    prior it takes labels to be uniform. Ties go to the lower class index.
    """

    name = "free"
    needs = frozenset({Need.NUM_SAMPLES, Need.PRIOR})
    cite = "labelleak (expected-ASR optimum under the prior)"
    card = RandomGuess.card.renamed("free guess", "Gives the best guess that needs no update.")

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Keep the prior."""
        prior = known.prior

        def answer(observation: Observation) -> Estimate:
            size = samples(observation)
            counts, _ = free_guess(prior, size, num_classes)
            chances = expected_shares(prior, size, num_classes)
            shape = (*observation.trials, num_classes)
            return Estimate(np.broadcast_to(counts, shape), np.broadcast_to(chances, shape))

        return answer
