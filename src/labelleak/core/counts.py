"""Hand out N labels by scores of classes, one by one to the lowest; numpy, float64 throughout.

One rule of ties holds everywhere: of equal candidates the lower class index goes first. All
routines take leading trial dimensions ``*R``; each has a slow twin in ``tests/naive``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from labelleak.errors import BadInput

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

# Labels handed out up front stay this far (in steps) below the water level, so that rounding
# can never hand out one too many; the rest is settled by an exact comparison.
_MARGIN = 1e-6
# With this many classes per label it pays to look for the lowest classes first.
_MANY_CLASSES = 4
# One trial of so few classes is settled without numpy.
_FEW_CLASSES = 64


def extract_counts(row_sums: ArrayLike, impact: ArrayLike, offset: ArrayLike, total: int) -> Ints:
    """Hand out N labels by LLG's rule (Wainakh et al., PoPETs 2022; their P1 and P2).

    A class whose raw row sum is negative is present and gets one label (P1); if that would be
    more than N, the most negative N get one each. The offset is subtracted from every row sum and
    the impact m < 0 once for each label handed out. Then the class with the smallest value
    gets a label and rises by -m, until N labels are out (P2).

    The second stage picks the N' smallest of the terms ``g_i - s_i + k |m|``, so it is solved by
    a water level instead of N' searches: O(K log K) whatever N is.

    Args:
        row_sums: raw row sums g, ``*R x K``.
        impact: m, what one label adds to its row sum; shape ``*R x 1`` or scalar, at most 0.
            Zero is the limit from below: labels go evenly to the classes tied at the minimum.
        offset: s, what other classes' labels add; broadcasts to ``*R x K``.
        total: N, labels to hand out.

    Returns:
        Counts ``*R x K``, each row summing to N.

    Raises:
        BadInput: for NaN or infinite numbers, a positive impact, or N below 1.

    >>> extract_counts([-3.0, -1.0, 2.0, 2.0], -1.0, 0.0, 4)
    array([3, 1, 0, 0])
    """
    values, fall = finite(row_sums, "row sums"), -finite(impact, "impact")
    if fall.item() < 0 if fall.size == 1 else (fall < 0).any():
        raise BadInput("the impact of a label on its row sum must not be positive")
    check_total(total)
    own = finite(values - finite(offset, "offset"), "row sums less their offsets")
    return _hand_out(values, own, values < 0, fall, total)


def extract_by_own_impact(row_sums: Floats, share: float, total: int) -> tuple[Ints, bool]:
    """Extract as `extract_counts` does, with an impact that the negative row sums give.

    The impact is a share of their sum, ``m = share * sum of the negative g_i``; offsets are 0.

    Args:
        row_sums: raw row sums g, ``*R x K``, known to be finite.
        share: above 0.
        total: N, at least 1.

    Returns:
        Counts ``*R x K``, and whether the impact is negative in every trial: it is 0 where
        no row sum is negative, and labels go evenly to the classes tied at the minimum then.

    Raises:
        BadInput: where the sum of the negative ones overflows.

    >>> extract_by_own_impact(np.array([-3.0, -1.0, 2.0, 2.0]), 0.25, 4)
    (array([3, 1, 0, 0]), True)
    """
    present = row_sums < 0
    if row_sums.ndim == 1:
        (places,) = present.nonzero()
        if places.size >= total:  # signs hand out all labels, whatever the impact
            return _lowest(row_sums, places, total), True
    impact = share * np.minimum(row_sums, 0.0).sum(axis=-1, keepdims=True)
    step = -finite(impact, "impact")
    counts = _hand_out(row_sums, row_sums, present, step, total)
    return counts, bool(step.all())


def _hand_out(values: Floats, own: Floats, present: Flags, step: Floats, total: int) -> Ints:
    """Do what `extract_counts` does with what it has checked.

    Args:
        values: g, of which only order and signs count.
        own: them less their offsets.
        present: which of them are negative.
        step: the impact's size.
        total: N.
    """
    if step.size == 1 and values.ndim and values.size == values.shape[-1] == own.size:
        height = abs(step.item())
        counts = _extract_one(values.ravel(), own.ravel(), present.ravel(), height, total)
        return counts.reshape(values.shape)
    if (present.sum(axis=-1) > total).any():
        present &= smallest(values, total)
    rest = total - present.sum(axis=-1, keepdims=True)
    if not rest.any():
        return present.astype(np.int64)
    rise = np.broadcast_to(step, (*values.shape[:-1], 1))
    return present + fill(own + present * rise, rise, rest)


def fill(values: ArrayLike, step: ArrayLike, total: ArrayLike) -> Ints:
    """Hand out labels one by one to the class with the smallest value, which then rises by step.

    Args:
        values: start values, ``*R x K``.
        step: how much a label raises its class, ``*R x 1`` or scalar, at least 0; at 0 the
            labels go evenly to the classes tied at the minimum.
        total: labels to hand out per trial, ``*R x 1`` or scalar.

    Returns:
        Counts ``*R x K``, each row summing to its total.

    >>> fill([0.0, 0.5, 5.0], 1.0, 3)
    array([2, 1, 0])
    """
    start = finite(values, "values")
    shape = (*start.shape[:-1], 1)
    rise = np.abs(np.broadcast_to(finite(step, "step"), shape))  # a step of -0 is one of 0
    labels = np.broadcast_to(np.asarray(total, dtype=np.int64), shape)
    if labels.size == 1 and start.size and labels.item() > 0:
        return _fill_one(start.ravel(), rise.item(), labels.item()).reshape(start.shape)
    if start.shape[-1] > _MANY_CLASSES * max(int(labels.max(initial=0)), 1):
        return _fill_lowest(start, rise, labels)
    return _fill_all(start, rise, labels)


def smallest(values: Floats, number: ArrayLike) -> Flags:
    """Mark the `number` smallest entries along the last axis; of equals, the first ones.

    Args:
        values: ``*R x M``.
        number: how many to mark per row, scalar or ``*R x 1``; at most M are marked.

    >>> smallest(np.array([3.0, 1.0, 1.0, 1.0]), 2)
    array([False,  True,  True, False])
    """
    if values.ndim == 1:
        return _smallest_of_one(values, int(np.asarray(number).item()))
    wanted = np.broadcast_to(np.asarray(number, dtype=np.int64), (*values.shape[:-1], 1))
    wanted = np.minimum(wanted, values.shape[-1])
    last = np.maximum(wanted - 1, 0)
    if last.size and (last == last.flat[0]).all():
        place = int(last.flat[0])
        threshold = np.partition(values, place, axis=-1)[..., place : place + 1]
    else:
        threshold = np.take_along_axis(np.sort(values, axis=-1), last, axis=-1)
    below = values < threshold
    tied = values == threshold
    room = wanted - below.sum(axis=-1, keepdims=True)
    return np.where(wanted > 0, below | (tied & (np.cumsum(tied, axis=-1) <= room)), False)


def _smallest_of_one(values: Floats, number: int) -> Flags:
    """Do what `smallest` does for one row, in fewer steps."""
    wanted = min(number, values.size)
    if wanted < 1:
        return np.zeros(values.shape, dtype=np.bool_)
    threshold = np.partition(values, wanted - 1)[wanted - 1]
    found = np.asarray(values < threshold)
    tied = np.flatnonzero(values == threshold)
    found[tied[: wanted - np.count_nonzero(found)]] = True
    return found


def _fill_lowest(values: Floats, step: Floats, total: Ints) -> Ints:
    """Fill where classes far outnumber labels: only the N lowest classes can get one."""
    counts = np.zeros(values.shape, dtype=np.int64)
    most = int(total.max(initial=0))
    if most:
        # In the order of the classes, as ties go to the lower index.
        lowest = smallest(values, most).nonzero()[-1].reshape(*values.shape[:-1], most)
        own = np.take_along_axis(values, lowest, axis=-1)
        np.put_along_axis(counts, lowest, _fill_all(own, step, total), axis=-1)
    return counts


def _fill_all(values: Floats, step: Floats, total: Ints) -> Ints:
    """Fill by a water level over all classes."""
    height = values - values.min(axis=-1, keepdims=True)
    # In units of one step; a class higher than `total` steps can never get one.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        steps_high = np.where(height > 0, height / step, 0.0)
    steps_high = np.minimum(steps_high, total + 1.0)
    level = _water_level(steps_high, total)
    sure = np.floor(np.maximum(level - _MARGIN - steps_high, 0.0)).astype(np.int64)
    left = total - sure.sum(axis=-1, keepdims=True)
    # At most two more labels per class can be missing; settle them by their exact height.
    unit = np.where(step > 0, step, 1.0)
    start = np.where(step > 0, height, steps_high)
    candidates = start[..., None] + (sure[..., None] + np.arange(2)) * unit[..., None]
    flat = candidates.reshape(*values.shape[:-1], -1)
    missing = smallest(flat, left).reshape(candidates.shape).sum(axis=-1)
    return np.asarray(sure + missing, dtype=np.int64)


def _extract_one(values: Floats, own: Floats, present: Flags, step: float, total: int) -> Ints:
    """Extract for one trial, a row."""
    if values.size <= _FEW_CLASSES:
        return _extract_few(values.tolist(), own.tolist(), step, total)
    (places,) = present.nonzero()
    rest = total - places.size
    if rest <= 0:  # signs hand out all labels
        return _lowest(values, places, total)
    return present + _fill_one(finite(own + present * step, "row sums"), step, rest)


def _lowest(values: Floats, places: Ints, total: int) -> Ints:
    """Name the `total` lowest values once each, which are among so many at least."""
    among = values[places]
    among.partition(total - 1)
    found: Flags = values <= among[total - 1]
    if np.count_nonzero(found) > total:  # equals at the end
        found = _smallest_of_one(values, total)
    return found.astype(np.int64)


def _fill_one(values: Floats, step: float, total: int) -> Ints:
    """Fill for one trial: only the N lowest classes can get a label."""
    if total >= values.size:
        return _fill_all(values, np.array([step]), np.array([total]))
    counts = np.zeros(values.size, dtype=np.int64)
    lowest = (values <= np.partition(values, total - 1)[total - 1]).nonzero()[0]
    own = values[lowest]
    if own.size <= _FEW_CLASSES:
        counts[lowest] = _fill_few(own.tolist(), step, total)
    else:
        counts[lowest] = _fill_all(own, np.array([step]), np.array([total]))
    return counts


def _extract_few(raw: list[float], own: list[float], step: float, total: int) -> Ints:
    """Extract for one trial of few classes, where calls of numpy take longer than numbers."""
    present = sorted((place for place, g in enumerate(raw) if g < 0), key=raw.__getitem__)[:total]
    for place in present:
        own[place] += step
    counts = _fill_few(own, step, total - len(present))
    for place in present:
        counts[place] += 1
    return np.array(counts, dtype=np.int64)


def _fill_few(values: list[float], step: float, total: int) -> list[int]:
    """Do what `_fill_all` does for one trial, in the same arithmetic."""
    lowest = min(values)
    start = [value - lowest for value in values]
    steps_high = [
        min(high / step if step else math.inf, total + 1.0) if high else 0.0 for high in start
    ]
    if not step:
        start = steps_high
    below, level = 0.0, 0.0
    for wet, high in enumerate(sorted(steps_high), start=1):
        if wet > 1 and (wet * high - (below + high)) >= total:
            break
        below += high
        level = (total + below) / wet
    sure = [math.floor(max(level - _MARGIN - high, 0.0)) for high in steps_high]
    unit = step or 1.0
    more = sorted(
        (start[place] + (number + extra) * unit, place)
        for place, number in enumerate(sure)
        for extra in (0, 1)
    )
    for _, place in more[: total - sum(sure)]:
        sure[place] += 1
    return sure


def _water_level(heights: Floats, labels: Ints) -> Floats:
    """Find W with sum_i max(W - t_i, 0) = number of labels; heights t start at 0."""
    ranked = np.sort(heights, axis=-1)
    summed = np.cumsum(ranked, axis=-1)
    places = np.arange(1, heights.shape[-1] + 1)
    # Water needed to reach the j-th lowest class; it grows with j.
    needed = places * ranked - summed
    wet = np.maximum((needed < labels).sum(axis=-1, keepdims=True), 1)
    return np.asarray((labels + np.take_along_axis(summed, wet - 1, axis=-1)) / wet)


def finite(values: ArrayLike, name: str) -> Floats:
    """Return numbers in float64.

    Raises:
        BadInput: if one is NaN or infinite, saying what they are.

    >>> finite([1, 2], "row sums")
    array([1., 2.])
    """
    array = np.asarray(values, dtype=np.float64)
    if np.count_nonzero(np.isfinite(array)) != array.size:  # in half the time of `all`
        raise BadInput(f"the {name} hold NaN or infinite numbers; no counts can be read from them")
    return array


def check_total(total: int) -> None:
    """Refuse a number of samples below 1.

    Raises:
        BadInput: if it is.
    """
    if total < 1:
        raise BadInput(f"the number of samples must be at least 1, not {total}")


__all__ = [
    "Flags",
    "Floats",
    "Ints",
    "check_total",
    "extract_by_own_impact",
    "extract_counts",
    "fill",
    "finite",
    "smallest",
]
