"""What was told of a client's training against what its file says of itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from labelleak.core.measured import Measured
from labelleak.core.training import LocalTraining

# Relative difference up to which two figures are one, as after a detour over float32.
_SAME = 1e-6


def contradictions(
    told: LocalTraining,
    noted: Sequence[LocalTraining],
    measured: Measured | None = None,
    num_samples: int | None = None,
) -> tuple[str, ...]:
    """Name each fact that was told in two ways, with both values; the first that was told wins.

    Args:
        told: what the user told.
        noted: what files, or a capture, say of themselves, in the order in which they are taken.
        measured: what a capture measured beside.
        num_samples: labels in all, as the user told.

    >>> contradictions(LocalTraining(lr=0.5), [LocalTraining(lr=0.05, batch_size=8)])
    ('the file says lr 0.05, 0.5 was told and taken',)
    """
    known, found = dict(told.known), []
    for note in noted:
        for name, value in note.known.items():
            taken = known.setdefault(name, value)
            if not _same(taken, value):
                who, did = (
                    ("the file", "told and taken") if name in told.known else ("a file", "taken")
                )
                found.append(f"{who} says {name} {_words(value)}, {_words(taken)} was {did}")
    seen = measured or Measured()
    own = num_samples or _total(LocalTraining(**known))
    theirs = seen.num_samples or next(filter(None, map(_total, noted)), None)
    if own and theirs and own != theirs and not found:
        found.append(f"the file says {theirs} labels in all, {own} were told and taken")
    factor, share = seen.gradient_scale, told.loss_share
    if factor is not None and share is not None and not _same(factor, share):
        found.append(
            f"the capture measured loss_share {factor:.6g}, which was taken, {share:.6g} was told"
        )
    return tuple(dict.fromkeys(found))


def _total(training: LocalTraining) -> int | None:
    """Return the labels in all, where they follow."""
    size, steps = training.batch_size, training.local_steps
    return None if size is None or steps is None else size * steps


def _same(one: Any, other: Any) -> bool:
    """Return whether two values say the same; no weights are weights of 1."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        most = max(len(one), len(other), 1)
        both = (
            value * most if len(value) == 1 else value or (1.0,) * most for value in (one, other)
        )
        first, second = both
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(one, bool | str) or isinstance(other, bool | str):
        return bool(one == other)
    return math.isclose(one, other, rel_tol=_SAME)


def _words(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{v:g}" for v in value) or "of equal ones"
    return f"{value:.6g}" if isinstance(value, float) else str(value).lower()


__all__ = ["contradictions"]
