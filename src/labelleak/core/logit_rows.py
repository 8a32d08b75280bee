"""What a backward pass tells of the rows of a loss, and how readings of several pieces join."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LogitRows:
    """What the gradient at the logits tells of the rows of one backward pass.

    Attributes:
        loss: cross_entropy, row_weighted (cross-entropy whose rows weigh differently within a
            class, as in a focal loss), bce, mse, softmax (rows sum to zero, but their targets
            cannot be told from their scale), or unknown.
        rows: rows that took part; None where rounding hides whether some did.
        labels: class of each row that took part, ``rows x K`` of 0 and 1 of several sigmoids; None
            where targets are soft or unknown.
        scales: weight of each such label's loss in the total; None where it cannot be told.
        smoothing: share of each label that is spread over all classes.
        certain: False where other targets and scales explain these rows as well.
        images: of maps, how many rows of each image took part; None where that is not known.
    """

    loss: str
    rows: int | None
    labels: Tensor | None = None
    scales: Tensor | None = None
    smoothing: float | None = None
    certain: bool = False
    images: tuple[int, ...] | None = None


def join_rows(chunks: list[LogitRows]) -> LogitRows:
    """Join the readings of several pieces of one gradient."""
    told = [chunk for chunk in chunks if chunk.rows != 0]
    if len(told) < 2:
        return told[0] if told else chunks[0]
    losses = {chunk.loss for chunk in told}
    rows = [chunk.rows for chunk in told]
    smoothings = [chunk.smoothing for chunk in told]
    even = None not in smoothings and max(smoothings) - min(smoothings) < 1e-3  # type: ignore[type-var,operator]
    return LogitRows(
        losses.pop() if len(losses) == 1 else "unknown",
        None if None in rows else sum(row for row in rows if row is not None),
        _cat([chunk.labels for chunk in told]),
        _cat([chunk.scales for chunk in told]) if even else None,
        smoothings[0] if even else None,
        all(chunk.certain for chunk in told),
    )


def _cat(parts: list[Tensor | None]) -> Tensor | None:
    held = [part for part in parts if part is not None]
    return torch.cat(held) if len(held) == len(parts) else None


__all__ = ["LogitRows", "join_rows"]
