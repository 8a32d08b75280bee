"""What a head gradient tells of the number of its samples, and of the signs of their inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelleak.core.counts import Floats
from labelleak.core.entries import ratio
from labelleak.core.lazy import Tensor, torch
from labelleak.core.limits import is_clean
from labelleak.core.observation import Observation
from labelleak.records.states import State

# Singular values below this share of the largest are rounding; above the second, they are neither
# rounding nor noise that sums over classes do not show.
_ROUNDING, _SURE = 1e-4, 0.03
# A singular value this much smaller than the one before ends the samples' directions.
_GAP = 0.01
# Entries of a weight beyond which its rank is not looked at, which takes seconds then.
_LARGEST = 2**18
# Rows of the largest bias gradients that are looked at for one of an absent class.
_ROWS = 64


@dataclass(frozen=True, eq=False)
class Ranks:
    """What the rank of a weight gradient tells, trial by trial (``*R``).

    Attributes:
        least: samples that there are at least; 0 where noise or rounding may make the rank.
        shown: the rank where it ends sharply, and below what the shape allows; else infinite.
        apart: share of the bias gradient that is not of the samples behind the weight gradient,
            where these are all seen; else 0.
    """

    least: Floats
    shown: Floats
    apart: Floats

    @classmethod
    def of(cls, observation: Observation) -> Ranks | None:
        """Look at an update's rank; None where nothing is told by it, or nobody need ask.

        Each sample adds ``(p - y) h^T`` to the weight gradient and ``p - y`` to the bias gradient,
        so N samples give a rank of at most N, and the bias gradient lies among the columns.
        """
        size, weight, bias = observation.num_samples, observation.weight, observation.bias
        if size is None or weight is None or bias is None or observation.problems > 1:
            return None
        if weight.shape[-2:].numel() > _LARGEST or observation.scale is State.held:
            return None  # it takes long, or whoever made the update knows what it is of
        wide, column = weight.detach().double().cpu(), bias.detach().double().cpu()[..., None]
        size_of = torch.linalg.vector_norm  # Tensor.norm asks it, after much else
        ways, sizes = _singular(wide)
        share = (sizes / sizes[..., :1].clamp_min(1e-300)).numpy()
        # Classes that the model rules out add nothing, nor do head inputs that are never active.
        most = np.minimum(_live(size_of(wide, dim=-1)) - 1, _live(size_of(wide, dim=-2)))
        rank = (share > _ROUNDING).sum(axis=-1)
        clean = is_clean(observation)
        ends = _ends(share, rank)
        sharp = clean & ends & (rank > 0) & (rank < most)
        shown = np.where(sharp, rank, np.inf)
        least = np.where(clean, (share > _SURE).sum(axis=-1), 0.0)
        if size >= min(observation.num_classes - 1, weight.shape[-1]):
            return cls(least, shown, np.zeros(observation.trials))
        kept = ways[..., :size]
        left = column - kept @ (kept.mT @ column)
        apart = ratio(size_of(left.flatten(-2), dim=-1), size_of(column.flatten(-2), dim=-1))
        return cls(least, shown, np.where(rank == size, ends * apart, 0.0))


def _singular(wide: Tensor) -> tuple[Tensor, Tensor]:
    """Return the left singular vectors of matrices and their values, falling.

    Of few rows they are found through their inner products, in a tenth of the time; in double
    precision that errs by 1e-8 of the largest, far below what is asked of them here.
    """
    if wide.shape[-2] > wide.shape[-1]:
        ways, sizes, _ = torch.linalg.svd(wide, full_matrices=False)
        return ways, sizes
    scale = wide.abs().amax(dim=(-2, -1), keepdim=True).clamp_min(1e-300)
    even = wide / scale
    squares, ways = torch.linalg.eigh(even @ even.mT)
    sizes = squares.flip(-1).clamp_min(0).sqrt() * scale[..., 0]
    return ways.flip(-1), sizes


def _live(sizes: Tensor) -> np.ndarray:
    """Count the rows, or columns, whose size is not small beside the largest."""
    return np.asarray((sizes > _SURE * sizes.amax(dim=-1, keepdim=True)).sum(dim=-1).numpy())


def _ends(share: Floats, rank: np.ndarray) -> np.ndarray:
    """Tell whether the singular values fall to rounding at once after the first few."""
    padded = np.concatenate([np.ones((*share.shape[:-1], 1)), share, share[..., :1] * 0], axis=-1)
    last, after = (np.take_along_axis(padded, rank[..., None] + n, axis=-1)[..., 0] for n in (0, 1))
    return np.asarray(after < _GAP * last)


def negative_inputs(observation: Observation, needed: Floats) -> Floats | None:
    """Return the share of negative head inputs as a class that is absent shows it: dW_i / db_i.

    A class that is present mixes signs whatever the inputs are. Which class is absent is not known,
    so of the rows that may be, the one counts that looks least negative. Where more samples are
    needed than were told, no class need be absent, and the share is 0.

    Args:
        observation: the update.
        needed: samples that it needs at least.

    Returns:
        One share a trial; None where no class need be absent, or parts are missing.
    """
    size, classes = observation.num_samples, observation.num_classes // observation.problems
    if observation.weight is None or observation.bias is None or size is None or size >= classes:
        return None
    top = observation.bias.topk(min(_ROWS, observation.num_classes), dim=-1)
    place = top.indices[..., None].expand(*top.indices.shape, observation.weight.shape[-1])
    rows = observation.weight.gather(-2, place)
    reach = rows.abs().amax(dim=-1, keepdim=True)
    shares = (rows < -1e-4 * reach).double().mean(dim=-1)
    shares = torch.where(top.values > 0, shares, torch.ones_like(shares)).amin(dim=-1)
    return np.where(needed > size, 0.0, shares.detach().cpu().numpy())


__all__ = ["Ranks", "negative_inputs"]
