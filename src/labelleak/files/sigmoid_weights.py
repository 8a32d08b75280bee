"""Read the weights of labels, and of those that are there, off the rows of sigmoids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labelleak.core.logit_rows import LogitRows


@dataclass(frozen=True, eq=False)
class SigmoidWeights:
    """How a binary cross-entropy weighs its labels.

    Attributes:
        classes: weight of each label, of mean 1.
        positives: how much more each weighs where it is there.
        scale: the loss without them over the mean loss.
    """

    classes: Tensor
    positives: Tensor
    scale: float

    @property
    def plain(self) -> bool:
        """Whether all weigh alike."""
        return bool((self.classes == 1).all() and (self.positives == 1).all())


def read_weights(readings: Sequence[LogitRows], tolerance: float) -> SigmoidWeights | None:
    """Read them off all passes; None where these disagree.

    Args:
        readings: of one or several sigmoids, with labels and scales.
        tolerance: how far two readings of one weight may be apart.
    """
    found = []
    for reading in readings:
        if reading.labels is None or reading.scales is None:
            return None
        found.append(_of_pass(reading.labels, reading.scales))
    absent = torch.stack([one for one, _ in found])  # passes x labels; NaN where none is there
    present = torch.stack([one for _, one in found])
    # A label that everybody has weighs as the others do; one that nobody has shows no weight, and
    # its gradient hangs on none.
    own = torch.where(absent.isnan(), absent.nanmedian(1, keepdim=True).values, absent)
    if own.isnan().any():
        return None
    ratios = present / own
    positives = ratios.nanmean(0)
    known = positives[~positives.isnan()]
    alike = len(known) and _agree(known, known.median(), tolerance)
    positives = positives.nan_to_num(float(known.median()) if alike else 1.0)
    classes = own / own.mean(1, keepdim=True)
    shared = classes.mean(0)
    if not (_agree(ratios, positives, tolerance) and _agree(classes, shared, tolerance)):
        return None
    sizes = torch.tensor(
        [len(reading.labels) for reading in readings if reading.labels is not None]
    )
    scale = float((sizes[:, None] * own).sum())
    return SigmoidWeights(_whole(shared, tolerance), _whole(positives, tolerance), scale)


def _of_pass(labels: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean scale of each label where it is not there, and where it is."""
    there = labels.reshape(len(labels), -1).double()
    each = scales.reshape(there.shape).double()
    return tuple((each * part).sum(0) / part.sum(0) for part in (1 - there, there))  # type: ignore[return-value]


def _agree(values: Tensor, mean: Tensor, tolerance: float) -> bool:
    apart = (values - mean).abs() / mean.abs()
    return not bool((apart.nan_to_num(0.0) > tolerance).any())


def _whole(values: Tensor, tolerance: float) -> Tensor:
    """Take weights that are 1 but for rounding as 1."""
    return torch.where((values - 1).abs() <= tolerance, torch.ones_like(values), values)


__all__ = ["SigmoidWeights", "read_weights"]
