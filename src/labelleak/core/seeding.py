"""Independent random streams from one seed, named by what they are for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from zlib import crc32

import numpy as np

from labelleak.core.lazy import torch
from labelleak.errors import BadInput


def stream(seed: int, *purpose: object) -> np.random.Generator:
    """Return the generator of a purpose: same seed and purpose, same numbers; else independent.

    So a trial's numbers do not depend on what ran before it, in this process or another.

    >>> stream(0, "batches", 3).random() == stream(0, "batches", 3).random()
    True
    >>> stream(0, "batches", 3).random() == stream(0, "model", 3).random()
    False
    """
    keys = [crc32(repr(part).encode()) for part in purpose]
    return np.random.default_rng([seed, *keys])


def whole_number(seed: int, *purpose: object) -> int:
    """Return a whole number below 2^31 for libraries that take a seed."""
    return int(stream(seed, *purpose).integers(2**31))


@contextmanager
def torch_seeded(seed: int) -> Iterator[None]:
    """Seed what torch draws inside the block, and give the state back that was there before.

    >>> before = torch.random.get_rng_state()
    >>> with torch_seeded(3):
    ...     _ = torch.rand(2)
    >>> torch.equal(before, torch.random.get_rng_state())
    True
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would also reseed accelerators, and those are not forked.
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Let torch and numpy's linear algebra use so many threads inside the block, and not after it.

    Sums over several threads differ in their last bits from run to run of another number, so what a
    seed is to repeat runs on one. None leaves the number as it is.

    Raises:
        BadInput: for a number below 1.

    >>> before = torch.get_num_threads()
    >>> with torch_threads(1):
    ...     torch.get_num_threads()
    1
    >>> torch.get_num_threads() == before
    True
    """
    before = torch.get_num_threads()
    if number is not None and number < 1:
        raise BadInput(f"threads must be at least 1, not {number}")
    if number is not None:
        torch.set_num_threads(number)
    try:
        with _limit(number):
            yield
    finally:
        torch.set_num_threads(before)


def use_threads(number: int) -> None:
    """Let torch and numpy's linear algebra use so many threads from now on, as a command does."""
    torch.set_num_threads(number)
    _limit(number)


def _limit(number: int | None) -> AbstractContextManager[Any]:
    """Limit the threads of linear algebra, from now on or for a block."""
    import scipy.linalg  # its library is another than numpy's, and only what is loaded is limited
    from threadpoolctl import threadpool_limits

    assert scipy.linalg
    limits: AbstractContextManager[Any] = threadpool_limits(number, user_api="blas")
    return limits
