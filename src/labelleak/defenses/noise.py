"""Additive noise: Gaussian, Laplace and exponential, on everything or on the head alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar
from zlib import crc32

import numpy as np

from labelleak.core.lazy import Tensor, torch
from labelleak.core.update import Memory, Scope, SharedTensors
from labelleak.defenses.composition import Part
from labelleak.defenses.facts import HEAD_ALONE, POOLED, SIGMAS, Kind, Ladders
from labelleak.defenses.text import at_least_zero

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def add_noise(
    update: SharedTensors,
    rng: np.random.Generator,
    draw: Draw,
    *,
    only: tuple[str, ...] | None = None,
) -> SharedTensors:
    """Add independent draws to every parameter, or to some alone.

    Each parameter has a stream of its own, named by it, so that the noise on the head is the same
    whether or not the rest of the model is at hand. It is drawn and added in float32 at least.
    """
    base = int(rng.integers(2**63))
    changed: dict[str, Tensor] = {}
    for name, tensor in update.floats.items():
        if only is None or name in only:
            own = np.random.default_rng([base, crc32(name.encode())])
            noise = torch.from_numpy(draw(own, tuple(tensor.shape)))
            wide = torch.promote_types(tensor.dtype, torch.float32)
            changed[name] = tensor.to(wide) + noise.to(tensor.device, wide)
    return update.replaced(changed)


def gaussian(sigma: float) -> Draw:
    """Return draws of N(0, sigma^2)."""
    return lambda rng, shape: sigma * rng.standard_normal(shape, dtype=np.float32)


def noise_room(root_mean_square: float, classes: int) -> float:
    """Return the L1 norm that noise on so many entries exceeds by chance only.

    The mean of a size is at most its root mean square, times ``sqrt(2 / pi)`` for Gaussian noise;
    six standard deviations of the sum come on top.
    """
    return root_mean_square * (classes + 6 * sqrt(classes))


class Noisy(Part):
    """Base of defenses that add noise to what they share."""

    @property
    def root_mean_square(self) -> float:
        """Of the noise on one entry."""
        raise NotImplementedError

    def value_bits(self, before: int) -> int:
        """Noise makes floats of whatever there was."""
        return max(before, 32) if self.root_mean_square else before

    def largest_after(
        self, largest: float, classes: int, *, batch_size: int = 1, unit: float = 1.0
    ) -> float:
        """Leave room for the noise."""
        return largest + noise_room(unit * self.root_mean_square, classes)


class _Noise(Noisy):
    scope = Scope.ENTRY
    kind = Kind.NOISE
    leaves_open: ClassVar[tuple[str, ...]] = (POOLED,)

    def _draw(self) -> Draw:
        raise NotImplementedError

    def _only(self, update: SharedTensors) -> tuple[str, ...] | None:
        """Name the parameters that it is added to; None for all."""
        return None

    def apply(
        self, update: SharedTensors, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[SharedTensors, Memory | None]:
        """Add the noise; nothing is kept."""
        if self.is_off:
            return update, memory
        return add_noise(update, rng, self._draw(), only=self._only(update)), memory


@dataclass(frozen=True)
class _NormalNoise(_Noise):
    """Noise of N(0, sigma^2)."""

    sigma: float

    def __post_init__(self) -> None:
        at_least_zero(self.sigma, "sigma")

    @property
    def is_off(self) -> bool:
        """Whether sigma is 0."""
        return self.sigma == 0

    @property
    def root_mean_square(self) -> float:
        """Sigma."""
        return self.sigma

    def _draw(self) -> Draw:
        return gaussian(self.sigma)


@dataclass(frozen=True)
class GaussianNoise(_NormalNoise):
    """Gaussian noise on every parameter.

    Private only after `Clipping`, which bounds what one update can change; see `account`.

    Attributes:
        sigma: standard deviation, in the units of what is shared (mean gradient or weights).

    >>> update = SharedTensors({"weight": torch.zeros(1, 2, 3)}, "")
    >>> sent, _ = GaussianNoise(0.1).apply(update, np.random.default_rng(0))
    >>> sent.tensors["weight"].shape
    torch.Size([1, 2, 3])
    """

    name = "gaussian"
    example = "gaussian:0.1"
    ladders: ClassVar[Ladders] = {
        "gaussian": tuple(f"gaussian:{s}" for s in SIGMAS),
        "clip|gaussian": tuple(f"clip:1|gaussian:{s}" for s in SIGMAS),
        "withhold|gaussian": tuple(f"withhold:head|gaussian:{s}" for s in SIGMAS),
    }


@dataclass(frozen=True)
class _ScaledNoise(_Noise):
    """Noise of a mean size."""

    scale: float

    def __post_init__(self) -> None:
        at_least_zero(self.scale, "scale")

    @property
    def is_off(self) -> bool:
        """Whether the scale is 0."""
        return self.scale == 0


@dataclass(frozen=True)
class LaplaceNoise(_ScaledNoise):
    """Laplace noise (two-sided exponential) on every parameter, of variance ``2 scale^2``.

    Attributes:
        scale: mean absolute value, in the units of what is shared.
    """

    name = "laplace"
    example = "laplace:0.1"
    ladders: ClassVar[Ladders] = {"laplace": tuple(f"laplace:{s}" for s in SIGMAS)}

    @property
    def root_mean_square(self) -> float:
        """Of a mean size of `scale`."""
        return sqrt(2) * self.scale

    def _draw(self) -> Draw:
        return lambda rng, shape: rng.laplace(scale=self.scale, size=shape)


@dataclass(frozen=True)
class ExponentialNoise(_ScaledNoise):
    """One-sided exponential noise on every parameter, of variance ``scale^2``.

    As it stands in LLG's public code it is never negative and has mean `scale`, a drift that
    every client shares and that training follows. Centred, its mean is 0.

    Attributes:
        scale: mean, in the units of what is shared.
        centred: subtract the mean.
    """

    centred: bool = False

    name = "exponential"
    example = "exponential:0.1:centred"

    @property
    def root_mean_square(self) -> float:
        """With its mean, unless that is taken off."""
        return self.scale if self.centred else sqrt(2) * self.scale

    def _draw(self) -> Draw:
        shift = self.scale if self.centred else 0.0
        return lambda rng, shape: rng.exponential(self.scale, size=shape) - shift


@dataclass(frozen=True)
class HeadNoise(_NormalNoise):
    """Gaussian noise on the head's weight and bias alone; the rest is shared in the clear.

    Never private: the rest of the gradient depends on the labels too.

    Attributes:
        sigma: standard deviation, in the units of what is shared.
    """

    name = "head_noise"
    example = "head_noise:0.1"
    leaves_open = (
        HEAD_ALONE,
        POOLED,
    )
    ladders: ClassVar[Ladders] = {"head_noise": tuple(f"head_noise:{s}" for s in SIGMAS)}
    uses_head = True

    def _only(self, update: SharedTensors) -> tuple[str, ...] | None:
        return update.head_weight, update.head_bias
