"""Read the weights of classes off the rows of a softmax cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labelleak.core.logit_rows import LogitRows


def read_class_weights(
    readings: Sequence[LogitRows], classes: int, tolerance: float
) -> tuple[float, ...] | None:
    """Read them off all passes; None where rows of a class disagree, or targets are smoothed.

    Args:
        readings: of the passes, with labels and scales.
        classes: K.
        tolerance: how far two readings of one weight may be apart.

    Returns:
        One a class, of mean 1 over those that have labels; 1 for the others, whose weight no update
        of these labels depends on.
    """
    found = torch.full((classes,), torch.nan, dtype=torch.float64)
    for reading in readings:
        own = _of_pass(reading, classes, tolerance)
        if own is None:
            return None
        ratio = (own / found)[~(own / found).isnan()]
        if len(ratio):
            own = own / ratio.median()
        if _apart(ratio, tolerance) or (not len(ratio) and not found.isnan().all()):
            return None
        found = torch.where(found.isnan(), own, found)
    found = (found / found.nanmean()).nan_to_num(1.0)
    return tuple(float(f"{weight:.6g}") for weight in found.tolist())


def _of_pass(reading: LogitRows, classes: int, tolerance: float) -> Tensor | None:
    """Return the scale of each class in one pass; NaN where it has no label."""
    labels, scales = reading.labels, reading.scales
    if labels is None or scales is None or labels.dim() > 1 or reading.smoothing:
        return None
    counts = torch.bincount(labels.cpu(), minlength=classes)
    sums = torch.zeros(classes, dtype=torch.float64)
    own = sums.index_add_(0, labels.cpu(), scales.double().cpu()) / counts
    each = scales.double().cpu() / own[labels.cpu()]
    return None if _apart(each, tolerance) else own


def _apart(ratios: Tensor, tolerance: float) -> bool:
    return bool(len(ratios)) and bool((ratios / ratios.median() - 1).abs().max() > tolerance)


__all__ = ["read_class_weights"]
