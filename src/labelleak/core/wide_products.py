"""Products of many gradients in double precision, whatever they came in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labelleak.core.lazy import Tensor, torch

# Entries that are widened at once, which stay in the cache.
_BLOCK = 2**18


def wide_product(parts: Sequence[Tensor], columns: Tensor) -> Tensor:
    """Multiply gradients that stand side by side by a matrix, in double precision.

    They are widened a few columns at a time: memory that is new to the process costs more than the
    products, and each number of the matrix is fetched once.

    Args:
        parts: ``T x P_1``, ``T x P_2``, ...
        columns: ``P x K`` in double precision, P the sum of all.

    >>> left, right = torch.ones(2, 3), torch.ones(2, 1)
    >>> wide_product([left, right], torch.ones(4, 1).double()).tolist()
    [[4.0], [4.0]]
    """
    matrix = columns.numpy()  # numpy takes four fifths of torch's time for these products
    found = np.zeros((len(parts[0]), columns.shape[1]))
    at = 0
    for part in parts:
        some = max(1, _BLOCK // max(1, len(part)))
        for own in torch.split(part, some, dim=1):
            found += own.double().numpy() @ matrix[at : at + own.shape[1]]
            at += own.shape[1]
    return torch.from_numpy(found)


__all__ = ["wide_product"]
