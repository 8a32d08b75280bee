"""Convolutions of maps of a few pixels, computed as the one matrix that they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
    laid = lay_out(input.shape[1:], weight.shape, stride, padding, dilation)
    if laid is None:
        return None
    matrix = spread_kernel(weight, replace(laid, places=laid.places.to(weight)))
    passed = F.linear(input.flatten(1), matrix).reshape(len(input), len(weight), *laid.left)
    # Where torch chooses precision by itself, products may come in another than a bias has.
    return passed if bias is None else passed + bias.to(passed.dtype)[:, None, None]


@dataclass(frozen=True, eq=False)
class Laid:
    """How a convolution is laid out as a matrix.

    Attributes:
        places: which entry of a kernel meets which pixel for which output, ``k x (P' P)``.
        left: height and width of what it gives.
    """

    places: Tensor
    left: _Pair


def lay_out(
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
) -> Laid | None:
    """Lay out a convolution, or give None where a matrix is no help.

    Args:
        shape: of one input, channels first.
        kernel: shape of its weight.
        stride: as `torch.nn.functional.conv2d` takes them all.
        padding: zeros around the input.
        dilation: how far entries of the kernel lie apart.
    """
    outside, inside, *window = kernel
    size = _pair(shape[1:])
    steps, edges, apart = (_pair(one) for one in (stride, padding, dilation))
    left = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(size, edges, apart, window, steps, strict=True)
    )
    entries = inside * outside * prod(size) * prod(left)
    if shape[0] != inside or min(left) < 1 or entries > _MOST_ENTRIES:
        return None
    return Laid(_places(size, _pair(window), steps, edges, apart), _pair(left))


def spread_kernel(weight: Tensor, laid: Laid) -> Tensor:
    """Return a convolution's matrix, ``(outside P') x (inside P)``."""
    outside, inside = weight.shape[:2]
    spread = weight.reshape(outside * inside, -1) @ laid.places
    across = spread.reshape(outside, inside, prod(laid.left), -1).transpose(1, 2)
    return across.reshape(outside * prod(laid.left), -1)


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


__all__ = ["Laid", "SmallMaps", "lay_out", "pass_small", "spread_kernel"]
