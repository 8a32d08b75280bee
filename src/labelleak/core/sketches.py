"""Short random projections of a layer's gradient, the same for whoever takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from zlib import crc32

import numpy as np

from labelleak.core.lazy import Tensor, torch

# Entries of gradients that are sketched together, which stay in the cache.
_BLOCK = 2**19


@dataclass(frozen=True, eq=False)
class Sketch:
    """A linear map from one parameter's gradient to at most r numbers.

    A gradient of r numbers or fewer is kept as it is. A larger one, seen as a matrix, takes the
    tensor sketch (Pham & Pagh, KDD 2013): entry (i, j) is added, with the sign s_i t_j, to the
    bucket ``(h_i + g_j) mod r``. Inner products of two sketches have those of the gradients as
    their mean, and vary by about ``2 / r`` of the squared lengths. Of an outer product it is the
    circular convolution of two short sketches, so it costs the sizes of both and not their product.

    Hashes are drawn from the parameter's name, its shape and r, so that an attacker's sketches and
    those of an update agree.

    Attributes:
        shape: of the gradient, as a matrix; one row an output.
        size: numbers that it is kept in.
        rows: h, the bucket of each row; None where the gradient is kept as it is.
        columns: g, of each column.
        row_signs: s.
        column_signs: t.
    """

    shape: tuple[int, int]
    size: int
    rows: Tensor | None = None
    columns: Tensor | None = None
    row_signs: Tensor | None = None
    column_signs: Tensor | None = None

    @classmethod
    def of(cls, name: str, shape: Sequence[int], most: int) -> Sketch:
        """Draw the sketch of a parameter.

        Args:
            name: of the parameter.
            shape: its shape.
            most: r.

        >>> Sketch.of("fc.weight", (3, 4), 100).size, Sketch.of("fc.weight", (30, 40), 100).size
        (12, 100)
        """
        height = shape[0] if shape else 1
        matrix = (height, prod(shape[1:]))
        if prod(matrix) <= most:
            return cls(matrix, prod(matrix))
        rng = np.random.default_rng([crc32(name.encode()), *matrix, most])
        buckets = [torch.from_numpy(rng.integers(most, size=length)) for length in matrix]
        signs = [torch.from_numpy(rng.choice([-1.0, 1.0], length)).float() for length in matrix]
        return cls(matrix, most, *buckets, *signs)

    def of_gradients(self, gradients: Tensor) -> Tensor:
        """Sketch ``T x ...`` gradients; the answer is ``T x size``."""
        flat = gradients.reshape(len(gradients), -1)
        if self.rows is None:
            return flat
        assert self.columns is not None
        assert self.row_signs is not None
        assert self.column_signs is not None
        places = (self.rows[:, None] + self.columns).remainder(self.size).flatten()
        signs = (self.row_signs[:, None] * self.column_signs).flatten().to(flat)
        found = flat.new_zeros(len(flat), self.size)
        some = max(1, _BLOCK // flat.shape[1])
        for sums, part in zip(torch.split(found, some), torch.split(flat, some), strict=True):
            sums.scatter_add_(1, places.expand(len(part), -1), part * signs)
        return found

    def of_products(self, signals: Tensor, inputs: Tensor) -> Tensor:
        """Sketch the gradients ``sum_p signals_p inputs_p^T`` of samples.

        Args:
            signals: ``n x P x outputs``, back-propagated to each of P positions.
            inputs: ``n x P x inputs``, what entered the layer there.
        """
        if self.rows is None or signals.shape[1] > 1:
            return self.of_gradients(torch.einsum("npo,npi->noi", signals, inputs))
        assert self.columns is not None
        assert self.row_signs is not None
        assert self.column_signs is not None
        left = self._short(signals[:, 0] * self.row_signs.to(signals), self.rows)
        right = self._short(inputs[:, 0] * self.column_signs.to(inputs), self.columns)
        product = torch.fft.rfft(left) * torch.fft.rfft(right)
        return torch.as_tensor(torch.fft.irfft(product, n=self.size))

    def _short(self, values: Tensor, places: Tensor) -> Tensor:
        return values.new_zeros(len(values), self.size).index_add_(1, places, values)


__all__ = ["Sketch"]
