"""Maps that a model resizes after its head, as FCN and DeepLab do to the size of their images."""

from __future__ import annotations

from dataclasses import dataclass

from labelleak.core.lazy import F, Tensor, torch

# By dimensions of a map: torch's ways to resize, the usual ones first.
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
_PLAIN = ("nearest", "nearest-exact", "area")


@dataclass(frozen=True)
class Resizing:
    """One of torch's ways to resize maps: linear in their values, so it passes through a head.

    A 1x1 convolution and a resizing go either way round, `resize(W h + b) = W resize(h) + b`, since
    the shares of a resized value sum to one. So the rows behind the resized logits are the resized
    inputs of the head.

    Attributes:
        mode: as `torch.nn.functional.interpolate` has it.
        corners: its `align_corners`.
    """

    mode: str
    corners: bool | None = None

    def __call__(self, maps: Tensor, size: tuple[int, ...]) -> Tensor:
        """Return maps of that size, images x channels x positions."""
        found: Tensor = F.interpolate(maps, size, mode=self.mode, align_corners=self.corners)
        return found


def usual_resizing(axes: int) -> Resizing:
    """Return how maps of so many dimensions are resized where nobody says how.

    >>> usual_resizing(2)
    Resizing(mode='bilinear', corners=False)
    """
    return Resizing(_LINEAR[axes], corners=False)


def find_resizing(maps: Tensor, resized: Tensor) -> Resizing | None:
    """Return the way in which maps were resized; None where it is none of torch's.

    >>> find_resizing(torch.eye(3)[None, None], torch.eye(3)[None, None].repeat_interleave(2, -1))
    Resizing(mode='nearest', corners=None)
    """
    axes = maps.dim() - 2
    if maps.shape[:2] != resized.shape[:2] or resized.dim() != maps.dim() or axes not in _LINEAR:
        return None
    linear = (_LINEAR[axes], *(("bicubic",) if axes == 2 else ()))
    ways = [Resizing(mode, corners) for mode in linear for corners in (False, True)]
    size, values = tuple(resized.shape[2:]), maps.detach()
    slack = 1e-4 * float(values.abs().max())
    for way in (*ways, *map(Resizing, _PLAIN)):
        if torch.allclose(way(values, size), resized.detach(), rtol=0.0, atol=slack):
            return way
    return None


__all__ = ["Resizing", "find_resizing", "usual_resizing"]
