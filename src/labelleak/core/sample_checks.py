"""What a head gradient tells of the number of its samples, and of the signs of their inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelleak.core.counts import Floats
from labelleak.core.directions import (
    all_axes,
    all_powers,
    evened,
    inner_products,
    is_worth,
    leading_axes,
    lefts,
    squared_lengths,
)
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
# A share of the bias that lies apart from a span, below which it is as good as none.
_LITTLE = 1e-3
# Entries of the weights that are looked at together, which stay in the cache.
_BLOCK = 2**19
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
        classes, width = weight.shape[-2:]
        narrow = size < min(classes - 1, width)
        some = max(1, _BLOCK // (classes * width))
        weights, biases = weight.detach().reshape(-1, classes, width), bias.detach()
        biases = biases.reshape(-1, classes)
        largest = torch.from_numpy(observation.sums.largest.ravel())
        found = [
            _measured(weights[own], biases[own], largest[own], size=size if narrow else None)
            for own in (slice(at, at + some) for at in range(0, len(weights), some))
        ]
        share, most, apart = (np.concatenate(kind) for kind in zip(*found, strict=True))
        rank = _rank(share)
        clean, ends = is_clean(observation).ravel(), _ends(share, rank)
        sharp = clean & ends & (rank > 0) & (rank < most)
        figures = (
            np.where(clean, (share > _SURE).sum(axis=-1), 0.0),
            np.where(sharp, rank, np.inf),
            np.where(rank == size, ends * apart, 0.0),
        )
        return cls(*(figure.reshape(observation.trials) for figure in figures))


def _measured(
    weight: Tensor, bias: Tensor, largest: Tensor, *, size: int | None
) -> tuple[Floats, Floats, Floats]:
    """Measure the gradients of some trials, ``T x K x D``.

    Args:
        weight: of the head's weight.
        bias: of its bias.
        largest: the size of each trial's largest entry of the weight.
        size: N, if it is so small that the bias may lie apart from the directions of N samples.

    Returns:
        Singular values beside the largest, falling; the largest rank that the gradients' live
        classes and head inputs allow; and the share of the bias that is apart.
    """
    even, column = evened(weight, largest), bias.double().cpu()[..., None]
    inner = inner_products(even)
    rows, columns = squared_lengths(even, inner)
    # Classes that the model rules out add nothing, nor do head inputs that are never active.
    most = np.minimum(_live(rows) - 1, _live(columns))
    if size is None:
        return _shares(all_powers(inner)), most, np.zeros(len(even))
    powers, axes = _first_axes(inner, size)
    share, apart = _shares(powers), _apart(even, column, axes)
    if is_worth(inner, size):
        # A span is a chance one, and may miss by more: what it leaves is looked at with the axes.
        doubtful = (apart > _LITTLE) & (_rank(share) == size)
        if doubtful.any():
            exact = all_axes(inner[doubtful], size)[1]
            apart[doubtful] = _apart(even[doubtful], column[doubtful], exact)
    return share, most, apart


def _apart(even: Tensor, column: Tensor, axes: Tensor) -> Floats:
    """Return the share of each bias, ``T x K x 1``, that lies apart from the first axes."""
    kept = lefts(even, axes)
    left = column - kept @ (kept.mT @ column)
    size_of = torch.linalg.vector_norm  # Tensor.norm asks it, after much else
    parts = (size_of(one.flatten(-2), dim=-1).numpy() for one in (left, column))
    return ratio(*parts)


def _first_axes(inner: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and what spans the first axes: of a few directions where these say it all.

    Where they do not, as in noise, all eigenvalues are found. The axes are right where the rank is
    that of so many samples and ends at once, since nobody asks for them elsewhere.
    """
    if not is_worth(inner, size):
        return all_axes(inner, size)
    # What is left of the trace bounds the error of singular values beside the largest from below.
    powers, axes, rest = leading_axes(inner, size, _ROUNDING**2)
    unsettled = ~_is_settled(powers, rest)
    if unsettled.any():
        powers[unsettled] = all_powers(inner[unsettled])
    share = _shares(powers)
    rank = _rank(share)
    last, after = _at_end(share, rank)
    asked = (rank == size) & (after < _GAP * last) & unsettled
    if asked.any():
        powers[asked], axes[asked] = all_axes(inner[asked], size)
    return powers, axes


def _is_settled(powers: Tensor, rest: Tensor) -> np.ndarray:
    """Tell where singular values that may be larger by the root of a rest would say the same."""
    share = _shares(powers)
    error = (rest.sqrt() / powers[:, 0].sqrt().clamp_min(1e-300)).numpy()
    last, after = _at_end(share, _rank(share))
    # Values that were not looked for count as 0 here: none of them may come near a mark.
    sure = (np.abs(share - _ROUNDING) > error[:, None]).all(axis=-1)
    sure &= (np.abs(share - _SURE) > error[:, None]).all(axis=-1)
    return np.asarray(sure & ((after + error < _GAP * last) | (after >= _GAP * (last + error))))


def _shares(powers: Tensor) -> Floats:
    """Return singular values beside the largest from their squares."""
    sizes = powers.sqrt()
    return np.asarray((sizes / sizes[..., :1].clamp_min(1e-300)).numpy())


def _rank(share: Floats) -> np.ndarray:
    """Count the singular values that are more than rounding."""
    return np.asarray((share > _ROUNDING).sum(axis=-1))


def _live(squares: Floats) -> np.ndarray:
    """Count the rows, or columns, whose size is not small beside the largest, by their squares."""
    sizes = np.sqrt(squares)
    return np.asarray((sizes > _SURE * sizes.max(axis=-1, keepdims=True)).sum(axis=-1))


def _ends(share: Floats, rank: np.ndarray) -> np.ndarray:
    """Tell whether the singular values fall to rounding at once after the first few."""
    last, after = _at_end(share, rank)
    return np.asarray(after < _GAP * last)


def _at_end(share: Floats, rank: np.ndarray) -> tuple[Floats, Floats]:
    """Return the last singular value that counts, and the one after it."""
    trials = np.arange(len(share))
    padded = np.concatenate([np.ones((len(share), 1)), share, share[:, :1] * 0], axis=-1)
    return padded[trials, rank], padded[trials, rank + 1]


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
