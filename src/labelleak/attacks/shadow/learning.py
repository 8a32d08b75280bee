"""When posteriors of counts are learnt: once each, and those that are expected together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from labelleak.attacks.shadow.posterior import CountPosterior, Lesson
from labelleak.core.knowledge import FitCache
from labelleak.errors import BadInput

# Posteriors that are learnt together; more save little and hold more examples.
_AT_ONCE = 4
# N from which on batches of one's own take so much memory that none is drawn before its time.
_LARGE = 10_000


def expected_with(
    total: int, expected: Sequence[int], is_learnt: Callable[[int], bool]
) -> list[int]:
    """Return N and what is best learnt with it: other N that are expected, and not yet learnt.

    One sample alone is left out, since its gradient mostly proves its label.

    >>> expected_with(8, (1, 8, 32, 128, 10**9), lambda number: number == 32)
    [8, 128]
    """
    told = dict.fromkeys(int(number) for number in expected)  # numpy's draw other numbers
    others = [n for n in told if 1 < n < _LARGE and n != total and not is_learnt(n)]
    return [total, *others[: _AT_ONCE - 1]]


def learn_once(
    cache: FitCache | None,
    attack: str,
    totals: Sequence[int],
    fingerprint: Callable[[int], str],
    lesson: Callable[[int], Lesson],
) -> dict[int, CountPosterior]:
    """Fit a posterior for each N, or take what was fitted under the same fingerprint before.

    Args:
        cache: where fits are kept for another time, if anywhere.
        attack: its name, for who is told that it learns.
        totals: every N.
        fingerprint: hashes all that the fit for an N depends on.
        lesson: makes what is learnt from.
    """
    if cache is None:
        return _learn(totals, lesson)
    keys = {total: fingerprint(total) for total in totals}
    found: dict[int, CountPosterior] = {}
    for total, key in keys.items():
        noted = cache.recall(f"{attack}: learning from batches of its own, N = {total}", key)
        if noted is not None:
            with suppress(BadInput):  # a note that is none is learnt anew
                found[total] = CountPosterior.unpack(noted, total)
    new = _learn([total for total in totals if total not in found], lesson)
    for total, learnt in new.items():
        cache.note(keys[total], learnt.pack())
    return found | new


def _learn(totals: Sequence[int], lesson: Callable[[int], Lesson]) -> dict[int, CountPosterior]:
    return dict(zip(totals, CountPosterior.fit_all(list(map(lesson, totals))), strict=True))


__all__ = ["expected_with", "learn_once"]
