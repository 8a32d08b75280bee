"""Updates of one cell of an audit, with what lies behind them and what may be known of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from labelleak.core.counts import Ints
from labelleak.core.observation import Observation
from labelleak.core.priors import Prior
from labelleak.core.score import Truth
from labelleak.core.token_bands import TokenBands
from labelleak.core.training import FullTraining
from labelleak.simulation.aggregates import score_clients


@dataclass(frozen=True, eq=False)
class CellUpdates:
    """Updates of one cell, what really lay behind them, and what may be known of them.

    Attributes:
        observation: what the attacker sees, one trial a row.
        truth: the label counts of every trial, all clients together.
        each: the label counts of every single client, ``T x n x K``.
        alone: how one client's counts are distributed before the update is seen.
        prior: how the attackers take these counts to be distributed before the update is seen.
        real: how they are.
        training: how each client trained.
        common: the keys of the record that say how the updates came about.
        extra: the same beyond the contract.
        bands: of texts, which tokens are common and which rare.
    """

    observation: Observation
    truth: Truth
    each: Truth
    alone: Prior
    prior: Prior
    real: Prior
    training: FullTraining
    common: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)
    bands: TokenBands | None = None

    def parts(self, trials: Sequence[int]) -> Iterator[tuple[Sequence[int], CellUpdates]]:
        """Yield the trials with as many labels each: all, but for maps with pixels that have none.

        The contract's `num_samples` stays that of all pixels, so that these trials are one cell;
        how many have a label stands under `labelled`.

        Args:
            trials: their numbers.
        """
        totals, seen = self.truth.counts.sum(axis=1), self.observation
        size = (seen.num_samples or 0) * seen.problems
        if all(total == size for total in totals.tolist()):
            yield trials, self
            return
        for at, total in enumerate(totals.tolist()):
            one = slice(at, at + 1)
            weight, bias = (None if t is None else t[one] for t in (seen.weight, seen.bias))
            yield (
                trials[one],
                replace(
                    self,
                    observation=replace(
                        seen, weight=weight, bias=bias, rest=None, num_samples=total
                    ),
                    truth=self.truth[one],
                    each=self.each[one],
                    extra={**self.extra, "labelled": total},
                ),
            )

    def score_beside(self, counts: Ints) -> list[dict[str, Any]]:
        """Score guesses of pooled counts beyond the contract, trial by trial.

        Args:
            counts: guessed counts, ``T x K``.

        Returns:
            For each trial, of several clients the mean over them of ASR and of the free guess'
            ASR; of texts what is said of common and rare words.
        """
        clients = self._score_clients(counts)
        if self.bands is None:
            return clients
        words = [self.bands.score(*pair) for pair in zip(counts, self.truth.counts, strict=True)]
        return [a | b for a, b in zip(words, clients or [{}] * len(words), strict=True)]

    def _score_clients(self, counts: Ints) -> list[dict[str, Any]]:
        """Score against each client; nothing where one is all, of whom the pooled score speaks."""
        if self.each.counts.shape[1] == 1:
            return []
        found = [
            score_clients(guess, Truth(truth), self.alone)
            for guess, truth in zip(counts, self.each.counts, strict=True)
        ]
        return [
            {
                "asr_client": round(float(one.asr.mean()), 6),
                "asr_client_free": round(float(one.asr_free.mean()), 6),
            }
            for one in found
        ]


__all__ = ["CellUpdates"]
