"""Tell losses at the logits whose rows do not sum to zero: sigmoids and squared errors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labelleak.core.logit_rows import LogitRows

# Entries that two unknowns and a label of each are told from.
_FEWEST = 6


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows that took part, in float64, and how far rounding may have moved them."""

    z: Tensor
    p: Tensor
    dz: Tensor
    tolerance: float
    least: float

    @property
    def classes(self) -> int:
        """How many outputs a row has."""
        return self.dz.shape[1]


def _sigmoid(rows: Rows) -> LogitRows | None:
    """Tell binary cross-entropy with a target of 0 or 1 for each class."""
    chance = rows.z.sigmoid()
    apart = chance - (rows.dz < 0).double()
    return _one_scale(rows, apart, "bce")


def _smoothed_sigmoid(rows: Rows) -> LogitRows | None:
    """Tell binary cross-entropy whose targets are e/2 and 1 - e/2: ``s (p - y) + s e (y - 1/2)``.

    Where labels are known, s and s e follow from least squares; where these are known, a label is
    there if ``s p`` exceeds the gradient by more than s/2. Both are done in turn.
    """
    chance, dz = rows.z.sigmoid().flatten(), rows.dz.flatten()
    if len(dz) < _FEWEST:
        return None
    there = dz < 0
    for _ in range(8):
        columns = torch.stack((chance - there.double(), there.double() - 0.5))
        products = columns @ columns.T
        if not float(torch.linalg.det(products)) > 0:
            return None
        scale, share = torch.linalg.solve(products, columns @ dz).tolist()
        better = scale * chance - dz > scale / 2
        if torch.equal(better, there):
            break
        there = better
    left = (dz - scale * columns[0] - share * columns[1]).abs().max()
    fits = scale > 0 and 0 < share < scale and left <= rows.tolerance * scale + rows.least
    return LogitRows("bce", None, certain=True) if bool(fits) else None


def _weighed_sigmoid(rows: Rows) -> LogitRows | None:
    """Tell binary cross-entropy whose labels weigh differently, those that are there apart."""
    there = rows.dz < 0
    apart = rows.z.sigmoid() - there.double()
    spare = 0
    for group in (there, ~there):
        own = torch.where(group, apart, 0.0)
        scales = (own * rows.dz).sum(0) / own.square().sum(0).clamp_min(1e-300)
        left = (torch.where(group, rows.dz, 0.0) - scales * own).abs()
        if bool((left > rows.tolerance * scales + rows.least).any()):
            return None
        spare += int((group.sum(0) - 1).clamp_min(0).sum())
    return LogitRows("bce", None, certain=spare >= rows.classes) if spare else None


def _squares(rows: Rows) -> LogitRows | None:
    """Tell squared errors from one-hot targets."""
    labels = (rows.z - rows.dz / _slope(rows)).argmax(1)
    here = torch.zeros_like(rows.z).scatter_(1, labels[:, None], 1.0)
    return _one_scale(rows, rows.z - here, "mse")


def _slope(rows: Rows) -> float:
    ratio = rows.dz / rows.z.where(rows.z.abs() > 1e-6, torch.full_like(rows.z, torch.nan))
    return float(ratio.nanmedian()) or 1.0


def _one_scale(rows: Rows, apart: Tensor, loss: str) -> LogitRows | None:
    return None if fitted(rows, apart) is None else LogitRows(loss, None, certain=True)


def fitted(rows: Rows, apart: Tensor) -> float | None:
    """Return the scale at which errors explain all rows, if there is one."""
    scale = float((apart * rows.dz).sum() / (apart**2).sum().clamp_min(1e-300))
    fits = (rows.dz - scale * apart).abs().max() <= rows.tolerance * scale + rows.least
    return scale if bool(fits) and scale > 0 else None


def read_other(rows: Rows) -> LogitRows:
    """Read rows as the first of these losses that explains them; unknown if none does."""
    readers = (_sigmoid, _squares, _weighed_sigmoid, _smoothed_sigmoid)
    return next(filter(None, (read(rows) for read in readers)), LogitRows("unknown", None))


__all__ = ["Rows", "fitted", "read_other"]
