"""Sums, extremes and zeros of a head's gradient, all found in one pass over blocks of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, is_dataclass
from math import prod
from typing import Any, TypeVar

import numpy as np

from labelleak.core.counts import Floats
from labelleak.core.lazy import Tensor, torch

Measure = TypeVar("Measure")

# Entries of a block, which stays in the cache while all is found in it.
BLOCK = 2**19
# Heads of so few entries, in rows so wide, are quicker summed by numpy, whose calls take less to
# begin; and how many entries it is given at once.
_FEW, _WIDE, _AT_ONCE = 2**13, 32, 2**15
# Sizes whose squares fit in single precision.
_SMALLEST, _LARGEST = 1e-15, 1e15


@dataclass(frozen=True, eq=False)
class HeadSums:
    """What one pass over a weight gradient of ``*R x K x D`` tells, in float64.

    Attributes:
        rows: sums over the head's inputs, ``*R x K``.
        columns: sums over the classes, ``*R x D``.
        lowest: each row's least entry, ``*R x K``.
        highest: each row's greatest entry, ``*R x K``.
        square: sum of the squared entries, ``*R``.
        absolute: sum of the entries' sizes, ``*R``.
        live: columns with an entry that is not 0, ``*R``.
        zeroed: entries of these columns that are 0, ``*R``.
    """

    rows: Floats
    columns: Floats
    lowest: Floats
    highest: Floats
    square: Floats
    absolute: Floats
    live: Floats
    zeroed: Floats

    @property
    def largest(self) -> Floats:
        """The size of the largest entry, ``*R``."""
        return np.asarray(np.maximum(-self.lowest, self.highest).max(axis=-1))

    @classmethod
    def of(cls, weight: Tensor, before: Tensor | None = None) -> HeadSums:
        """Pass over a gradient, or over the movement from other weights of the same shape.

        Half precision is added up in single precision, a block at a time, and blocks in double; a
        small gradient in single or double precision is added up in double.

        >>> found = HeadSums.of(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
        >>> found.rows.tolist(), found.columns.tolist(), float(found.zeroed)
        ([-1.0, 3.0], [1.0, 1.0], 1.0)
        """
        if before is None and _is_few(weight):
            return _sums_of_few(weight.numpy(force=True))
        trials, (classes, width) = tuple(weight.shape[:-2]), weight.shape[-2:]
        end = weight.detach().reshape(-1, classes, width)
        start = None if before is None else before.detach().reshape(end.shape)
        number = len(end)
        rows, lowest, highest = np.empty((3, number, classes))
        columns, live = np.zeros((number, width)), np.zeros((number, width), dtype=bool)
        square, absolute, filled = np.zeros((3, number))
        passes = _Scratch()
        for place in _blocks(number, classes, width):
            own = place[0]
            block = passes.block(end, start, place)
            least, most = block.amin(-1), block.amax(-1)
            size = float(torch.maximum(-least, most).max())
            wide = block if _SMALLEST < size < _LARGEST else block.double()
            rows[place], lowest[place], highest[place] = (
                one.numpy() for one in (wide.sum(-1), least, most)
            )
            columns[own] += wide.sum(-2).numpy()
            square[own] += torch.linalg.vector_norm(wide, dim=(-2, -1)).double().square().numpy()
            sizes = passes.sizes(wide)
            absolute[own] += sizes.sum(-1).double().sum(-1).numpy()
            found, per_column = _nonzero(sizes)
            filled[own] += found
            live[own] |= per_column
        count = live.sum(axis=-1).astype(np.float64)
        return cls(
            rows, columns, lowest, highest, square, absolute, count, count * classes - filled
        ).shaped(trials)

    def scaled(self, factor: float) -> HeadSums:
        """Return the sums of the entries times a factor."""
        ends = self.lowest * factor, self.highest * factor
        lowest, highest = ends if factor > 0 else ends[::-1]
        return HeadSums(
            self.rows * factor,
            self.columns * factor,
            lowest,
            highest,
            self.square * factor**2,
            self.absolute * abs(factor),
            self.live,
            self.zeroed,
        )

    def shaped(self, trials: tuple[int, ...]) -> HeadSums:
        """Return the same under other trial dimensions."""
        named = ("rows", "columns", "lowest", "highest")
        shapes: dict[str, Any] = {name: (*trials, getattr(self, name).shape[-1]) for name in named}
        own = vars(self).items()
        return HeadSums(**{name: one.reshape(shapes.get(name, trials)) for name, one in own})


def _is_few(weight: Tensor) -> bool:
    """Tell a head that numpy is quicker with, by its own shape and not by who comes along."""
    few = weight.shape[-2:].numel() <= _FEW and weight.shape[-1] >= _WIDE
    return few and weight.dtype in (torch.float32, torch.float64)


def _sums_of_few(weight: Floats) -> HeadSums:
    """Do what `HeadSums.of` does, all of it in double precision and some trials at a time."""
    trials, shape = weight.shape[:-2], weight.shape[-2:]
    number, some = prod(trials), max(1, _AT_ONCE // prod(shape))
    if number <= some:
        return _sums_at_once(weight)
    flat = weight.reshape(-1, *shape)
    each = [vars(_sums_at_once(flat[at : at + some])) for at in range(0, number, some)]
    joined = {name: np.concatenate([one[name] for one in each]) for name in each[0]}
    return HeadSums(**joined).shaped(trials)


def _sums_at_once(weight: Floats) -> HeadSums:
    # Laid out row by row, so that the sums of a trial are the same alone and among others.
    wide = np.ascontiguousarray(weight, dtype=np.float64)
    entries = wide.reshape(*wide.shape[:-2], -1)
    filled = wide != 0
    live = filled.any(axis=-2).sum(axis=-1).astype(np.float64)
    with np.errstate(all="ignore"):  # what is no number is seen by those who ask
        found = (
            wide.sum(axis=-1),
            wide.sum(axis=-2),
            wide.min(axis=-1),
            wide.max(axis=-1),
            np.square(entries).sum(axis=-1),
            np.abs(entries).sum(axis=-1),
            live,
            live * wide.shape[-2] - filled.sum(axis=(-2, -1)),
        )
    return HeadSums(*map(np.asarray, found))


def _blocks(number: int, classes: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Cut trials and rows: many rows of one trial, or many small trials."""
    deep = max(1, BLOCK // max(width, 1))
    some = max(1, BLOCK // max(classes * width, 1)) if deep >= classes else 1
    for trial in range(0, number, some):
        for row in range(0, classes, deep):
            yield slice(trial, trial + some), slice(row, row + deep)


class _Scratch:
    """Room for one block at a time: memory that is new to the process costs more than its sums."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, torch.dtype], Tensor] = {}

    def room(self, name: str, like: Tensor, dtype: torch.dtype) -> Tensor:
        """Return memory of a tensor's shape, the same at each call."""
        held = self.held.get((name, dtype))
        if held is None or held.numel() < like.numel():
            held = self.held[name, dtype] = torch.empty(like.numel(), dtype=dtype)
        return held[: like.numel()].view(like.shape)

    def block(self, weight: Tensor, before: Tensor | None, place: tuple[slice, slice]) -> Tensor:
        """Return a block on the CPU, in single precision or in double where it came so."""
        block = weight[place]
        dtype = torch.float64 if block.dtype == torch.float64 else torch.float32
        if before is None and block.dtype == dtype and block.device.type == "cpu":
            return block
        wide = self.room("block", block, dtype).copy_(block)
        if before is None:
            return wide
        start = before[place]
        precise = torch.float64 if start.dtype == torch.float64 else torch.float32
        moved = self.room("before", start, precise).copy_(start)
        return wide.sub_(moved) if precise == dtype else wide.double() - moved

    def sizes(self, block: Tensor) -> Tensor:
        """Return the size of each entry."""
        return torch.abs(block, out=self.room("sizes", block, block.dtype))


def _nonzero(sizes: Tensor) -> tuple[Any, Any]:
    """Count each trial's entries that are not 0, and tell which columns have one."""
    if sizes.amin() > 0:
        return sizes[0].numel(), True
    filled = sizes.numpy() != 0  # a tenth of torch's time
    return [np.count_nonzero(one) for one in filled], filled.any(axis=-2)


def by_rows(weight: Tensor, measure: Callable[[Tensor], Tensor]) -> Floats:
    """Return a number of each row, found in float64 a block of rows at a time.

    >>> by_rows(torch.ones(3, 2), lambda rows: rows.sum(-1)).tolist()
    [2.0, 2.0, 2.0]
    """
    found = np.empty(tuple(weight.shape[:-1]))
    for rows, block in _wide_blocks(weight):
        found[..., rows] = measure(block).numpy()
    return found


def weighted_sum(weight: Tensor, shares: Floats) -> Tensor:
    """Return the sum of the rows times a number each, found in float64 a block of rows at a time.

    >>> weighted_sum(torch.ones(3, 2), np.array([1.0, 2.0, 0.5])).tolist()
    [3.5, 3.5]
    """
    found = torch.zeros(weight.shape[-1], dtype=torch.float64)
    for rows, block in _wide_blocks(weight):
        found += torch.from_numpy(shares[rows]) @ block
    return found


def _wide_blocks(weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of rows in float64, in memory that is used again for the next one.

    New memory for each would lie beside what is kept of the last one, and would grow to the size
    of them all.
    """
    rows = weight.shape[-2]
    deep = max(1, BLOCK * rows // max(weight.numel(), 1))
    shape = (*weight.shape[:-2], min(deep, rows), weight.shape[-1])
    room = torch.empty(shape, dtype=torch.float64)
    for start in range(0, rows, deep):
        block = weight.detach()[..., start : start + deep, :]
        yield slice(start, start + deep), room[..., : block.shape[-2], :].copy_(block)


def row_sums_of(weight: Tensor) -> Floats:
    """Return the row sums alone, ``*R x K``: half precision in blocks, added up in single.

    Half precision would lose the small rows; float32 sums pairwise and is enough. torch widens
    all that it is given before it sums; in one block that is the quickest.

    >>> row_sums_of(torch.ones(3, 2, dtype=torch.bfloat16)).tolist()
    [2.0, 2.0, 2.0]
    """
    if weight.dtype not in (torch.float16, torch.bfloat16):
        return _wide(weight.sum(-1))
    if weight.numel() <= BLOCK:
        return _wide(weight.sum(-1, dtype=torch.float32))
    rows = weight.detach().reshape(-1, weight.shape[-1])
    deep = max(1, BLOCK // rows.shape[1])
    # One buffer for all blocks: memory that is new to the process costs more than the sum.
    wide = torch.empty((min(deep, len(rows)), rows.shape[1]), device=rows.device)
    sums = torch.empty(len(rows), device=rows.device)
    for block, out in zip(torch.split(rows, deep), torch.split(sums, deep), strict=True):
        torch.sum(wide[: len(block)].copy_(block), -1, out=out)
    return _wide(sums.reshape(weight.shape[:-1]))


def _wide(sums: Tensor) -> Floats:
    """Return numbers of a kind that numpy has in float64; a few calls less than by torch."""
    wide: Floats = sums.numpy(force=True).astype(np.float64, copy=False)
    return wide


# Tensors that were measured while an update is attacked; held, so that none takes their place.
_Kept = dict[tuple[Any, ...], tuple[Any, Tensor, Tensor | None]]
_KEPT: ContextVar[_Kept | None] = ContextVar("kept", default=None)


@contextmanager
def shared_sums() -> Iterator[None]:
    """Measure each tensor once while this lasts; nobody may write to it meanwhile."""
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def sums_are_shared() -> bool:
    """Say whether others may ask for the sums of a tensor, so that one pass finds them all."""
    return _KEPT.get() is not None


def _key(weight: Tensor, before: Tensor | None) -> tuple[Any, ...]:
    return tuple(
        None if t is None else (t.data_ptr(), t.dtype, t.numel(), t.shape[-2:], t.stride()[-2:])
        for t in (weight, before)
    )


def sums_of(weight: Tensor, before: Tensor | None = None) -> HeadSums:
    """Return what `HeadSums.of` finds, once for each tensor within `shared_sums`."""
    kept = _KEPT.get()
    if kept is None:
        return HeadSums.of(weight, before)
    key = _key(weight, before)
    if key not in kept:
        kept[key] = HeadSums.of(weight, before), weight, before
    found: HeadSums = kept[key][0]
    return found.shaped(tuple(weight.shape[:-2]))


def locked(found: Measure) -> Measure:
    """Let nobody write to arrays, alone, in a tuple or a dataclass, that all who ask share.

    >>> locked((np.ones(2), "said"))[0].flags.writeable
    False
    """
    parts = found if isinstance(found, tuple) else (found,)
    for part in vars(found).values() if is_dataclass(found) else parts:
        if isinstance(part, np.ndarray):
            part.flags.writeable = False
    return found


def measured_once(weight: Tensor, measure: Callable[[Tensor], Measure]) -> Measure:
    """Return what a function finds in a tensor, once for each tensor within `shared_sums`.

    Arrays may not be written to then.
    """
    kept = _KEPT.get()
    if kept is None:
        return measure(weight)
    key = (measure, *_key(weight, None))
    if key not in kept:
        kept[key] = locked(measure(weight)), weight, None
    found: Measure = kept[key][0]
    return found


def share_scaled(weight: Tensor, before: Tensor, gradient: Tensor, factor: float) -> None:
    """Let a gradient, a movement times a factor, have the movement's sums where they are known."""
    kept = _KEPT.get()
    found = None if kept is None else kept.get(_key(weight, before))
    if kept is None or found is None:
        return
    sums: HeadSums = found[0].scaled(factor)
    if sums.largest.max() < _LARGEST:  # what overflows, or is no number, has to be seen itself
        kept[_key(gradient, None)] = sums, gradient, None


__all__ = [
    "BLOCK",
    "HeadSums",
    "by_rows",
    "locked",
    "measured_once",
    "row_sums_of",
    "share_scaled",
    "shared_sums",
    "sums_are_shared",
    "sums_of",
    "weighted_sum",
]
