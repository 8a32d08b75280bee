"""One update under attack: what its report says, once everything about it is settled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from labelleak.audits.answers import UpdateReport
from labelleak.audits.standing import Settled
from labelleak.audits.update_notes import as_told
from labelleak.core.assumptions import Flag, check_update, not_checked
from labelleak.core.batch_size import BatchSize
from labelleak.core.battery import Battery
from labelleak.core.head import HeadFinding
from labelleak.core.observation import Observation
from labelleak.core.own_labels import check_labels
from labelleak.core.priors import free_guess
from labelleak.core.rest import LazyGradients
from labelleak.core.score import Truth
from labelleak.core.update import ReceivedUpdate


@dataclass(frozen=True, eq=False)
class UpdateCase:
    """One update under attack, ready to be answered."""

    update: ReceivedUpdate
    settled: Settled
    head: HeadFinding
    size: BatchSize | None
    battery: Battery
    told_doubts: Mapping[str, str]

    def report(
        self, truth: Truth | None, *, not_applicable: Mapping[str, str], **about: Any
    ) -> UpdateReport:
        """Let every attack answer, scored where the truth is known."""
        seen, battery = self.settled.observation, self.battery
        guess, asr_free = _free(battery, seen)
        one, real = _as_trial(seen), None if truth is None else truth[None]
        answers = tuple(battery.answer(one, real))
        return UpdateReport(
            answers=answers,
            not_applicable={**not_applicable, **battery.unread},
            head=self.head.name,
            head_found=self.head.how,
            head_evidence=self.head.evidence,
            head_rivals=self.head.rivals,
            num_classes=seen.problems if seen.problems > 1 else seen.num_classes,
            num_samples=seen.num_samples,
            made=self.update.training,
            noted_head=self.update.head,
            task=str(self.update.task),
            free_guess=guess,
            asr_free=asr_free,
            checked=self._checked(
                (*battery.flags, *check_update(seen, battery.known), *_against(one, real, battery))
            ),
            scale=self.settled.scale,
            sign=self.settled.sign,
            source=self.update.source,
            estimated=self.size,
            told_doubts=self.told_doubts,
            truth=truth,
            **about,
        )

    def _checked(self, flags: Sequence[Flag]) -> dict[str, dict[str, Any]]:
        """Say of each assumption whether it failed, by what figure, and what is known of it."""
        found = [as_told(flag, self.update) for flag in (*flags, *not_checked(flags))]
        found.sort(key=lambda flag: bool(flag.raised.any()))  # what failed in one look, failed
        return {
            flag.name: {
                "failed": bool(flag.raised.any()),
                "figure": _figure(flag),
                "state": str(flag.state),
            }
            for flag in found
        }


def _against(one: Observation, truth: Truth | None, battery: Battery) -> Iterator[Flag]:
    """Hold the update against the labels that were told, if any were."""
    return iter(()) if truth is None else check_labels(one, truth.counts, battery.known)


def _free(battery: Battery, seen: Observation) -> tuple[tuple[int, ...] | None, float | None]:
    """Return the best guess without the update and what it scores, where N is known."""
    if seen.num_samples is None:
        return None, None
    counts, asr_free = free_guess(
        battery.known.prior, seen.num_samples * seen.problems, seen.num_classes
    )
    return tuple(counts.tolist()), asr_free


def _figure(flag: Flag) -> float | None:
    figure = float(np.max(flag.figure))
    return float(f"{figure:.4g}") if np.isfinite(figure) else None


def _as_trial(seen: Observation) -> Observation:
    """Return a lone update a trial dimension of one."""
    rest = seen.rest
    later = None
    if rest is not None:
        later = LazyGradients(tuple(rest), lambda: {n: rest[n][None] for n in rest})
    return replace(
        seen,
        weight=None if seen.weight is None else seen.weight[None],
        bias=None if seen.bias is None else seen.bias[None],
        rest=later,
    )


__all__ = ["UpdateCase"]
