"""Singular values of many matrices and their leading directions, through inner products of rows."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from labelleak.core.counts import Floats
from labelleak.core.lazy import Tensor, torch

# Directions that are looked for beyond those that are asked for.
_SPARE = 8
_EPS = 2.0**-52


def evened(weight: Tensor, largest: Tensor) -> Tensor:
    """Return ``T x K x D`` matrices in double precision, where products of entries do not overflow.

    Those that came in double are scaled by their largest entries, T numbers.
    """
    if weight.dtype != torch.float64:  # squares of all that single precision holds fit in double
        return weight.detach().cpu().double()
    return torch.as_tensor(weight.detach().cpu() / largest.clamp_min(1e-300)[:, None, None])


def inner_products(even: Tensor) -> Tensor:
    """Return inner products of rows of ``T x K x D``, or of columns where these are fewer.

    In double precision singular values that are found through them err by about 1e-8 of the
    largest; it takes a tenth of the time.
    """
    rows = even.numpy()
    if rows.shape[-2] > rows.shape[-1]:
        rows = rows.swapaxes(-1, -2)
    # Of a matrix with its own transpose numpy works out one half alone.
    return torch.from_numpy(rows @ rows.swapaxes(-1, -2))


def squared_lengths(even: Tensor, inner: Tensor) -> tuple[Floats, Floats]:
    """Return the squared lengths of rows and columns of matrices with these inner products."""
    of_rows = even.shape[-2] <= even.shape[-1]
    known, entries = np.einsum("tmm->tm", inner.numpy()), even.numpy()
    other = np.einsum("tkd,tkd->td" if of_rows else "tkd,tkd->tk", entries, entries)
    return (known, other) if of_rows else (other, known)


def all_axes(inner: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return all eigenvalues of inner products, falling, ``T x M``, and the first axes."""
    powers, axes = torch.linalg.eigh(inner)
    return powers.flip(-1).clamp_min(0), axes.flip(-1)[..., :number]


def all_powers(inner: Tensor) -> Tensor:
    """Return all eigenvalues of inner products, falling, ``T x M``."""
    found: Tensor = torch.linalg.eigvalsh(inner).flip(-1).clamp_min(0)
    return found


def is_worth(inner: Tensor, number: int) -> bool:
    """Tell whether the first few axes are quicker found alone."""
    return 2 * (number + _SPARE) <= inner.shape[-1]


def leading_axes(inner: Tensor, number: int, most: float = np.inf) -> tuple[Tensor, Tensor, Tensor]:
    """Find eigenvalues, and the span of the first axes, by a few random mixtures of the rows.

    With Q an orthonormal basis of that span, the eigenvalues of ``Q^T A Q`` are at most those of
    A, and what is left of the trace bounds by how much: of a matrix B with ``A = B^T B`` no
    singular value exceeds that of ``B Q`` by more than the root of the rest (Weyl's inequality).
    The first columns of Q are those of as many mixtures alone. They lie off the first axes by some
    hundred times the ratio of the eigenvalue that comes next to the last of these.

    Args:
        inner: A, ``T x M x M``, positive semi-definite.
        number: axes that are asked for.
        most: share of the trace; where more is left in every trial, nothing is looked for.

    Returns:
        Eigenvalues ``T x M``, falling, 0 after the few; those columns, ``T x M x number``; and the
        rest.
    """
    probes, rows = _probes(inner.shape[-1], number + _SPARE), inner.numpy()
    span, _ = torch.linalg.qr(torch.from_numpy(rows @ probes.numpy()))
    own = span.numpy()  # numpy takes half of torch's time for products of many small matrices
    within = torch.from_numpy(own.swapaxes(-1, -2) @ (rows @ own))
    trace, held = (one.diagonal(dim1=-2, dim2=-1).sum(dim=-1) for one in (inner, within))
    rest = (trace - held).clamp_min(0) + inner.shape[-1] * _EPS * trace
    values = inner.new_zeros(inner.shape[:-1])
    if not (rest > most * trace).all():
        values[:, : own.shape[-1]] = all_powers(within)
    return values, span[..., :number], rest


def lefts(even: Tensor, axes: Tensor) -> Tensor:
    """Return what spans the left singular directions, ``T x K x number``, orthonormal.

    Args:
        even: the matrices, ``T x K x D``.
        axes: what spans the first axes of their inner products, orthonormal.
    """
    if even.shape[-2] <= even.shape[-1]:
        return axes
    return torch.as_tensor(torch.linalg.qr(even @ axes)[0])


@lru_cache(maxsize=8)
def _probes(rows: int, number: int) -> Tensor:
    """Return the random mixtures, which are always alike; nobody writes to them."""
    made = torch.Generator().manual_seed(0)
    found: Tensor = torch.randn(rows, number, generator=made, dtype=torch.float64)
    return found


__all__ = [
    "all_axes",
    "all_powers",
    "evened",
    "inner_products",
    "is_worth",
    "leading_axes",
    "lefts",
    "squared_lengths",
]
