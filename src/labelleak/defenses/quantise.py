"""Sending values coarsely: signs, QSGD, k bits, half precision."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, log2
from typing import ClassVar
from zlib import crc32

import numpy as np

from labelleak.core.lazy import Tensor, torch
from labelleak.core.update import Scope
from labelleak.defenses.facts import Kind, Ladders
from labelleak.defenses.feedback import Compression
from labelleak.errors import BadInput

# Levels on either side of zero whose names are shorter than a float32.
_MOST_LEVELS = 2**30 - 1


def _over_trials(values: Tensor, like: Tensor) -> Tensor:
    """Shape one number a trial so that it broadcasts."""
    return values.view(-1, *[1] * (like.dim() - 1))


class _Coarse(Compression):
    kind = Kind.COARSE
    scope = Scope.LAYER


@dataclass(frozen=True)
class SignSGD(_Coarse):
    """Share the sign of every entry (Bernstein et al., ICML 2018); zeros stay zeros.

    Attributes:
        scaled: multiply the signs by each tensor's mean size, as error feedback wants it
            (Karimireddy et al., ICML 2019).
        feedback: keep the error for the next round.

    >>> tensors = {"weight": torch.tensor([[[3.0, -1.0, 0.0]]])}
    >>> SignSGD().compress(tensors, np.random.default_rng(0))["weight"].tolist()
    [[[1.0, -1.0, 0.0]]]
    """

    scaled: bool = False
    feedback: bool = False

    name = "sign"
    example = "sign:scaled"
    ladders: ClassVar[Ladders] = {"sign": ("sign:scaled",)}

    def __post_init__(self) -> None:
        if self.feedback and not self.scaled:
            raise BadInput("sign with feedback needs scaled signs; write sign:scaled:feedback")

    @property
    def scope(self) -> Scope:  # type: ignore[override]
        """Each entry alone, or each tensor for its scale."""
        return Scope.LAYER if self.scaled else Scope.ENTRY

    def coded_bits(self, before: int) -> int:
        """One bit."""
        return 1

    def largest_factor(self, classes: int) -> float:
        """Signs have no scale; times the mean size they keep it."""
        return 1.0 if self.scaled else inf

    def compress(self, tensors: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        """Take signs, scaled if asked to."""
        signs = {name: t.sign() for name, t in tensors.items()}
        if not self.scaled:
            return signs
        sizes = {name: t.abs().flatten(1).mean(dim=1) for name, t in tensors.items()}
        return {name: t * _over_trials(sizes[name], t) for name, t in signs.items()}


@dataclass(frozen=True)
class QSGD(_Coarse):
    """Round each entry at random to one of a few levels of its tensor's norm, without bias.

    Alistarh et al., NeurIPS 2017: with s levels, ``|v_i| s / |v|`` is rounded up or down with
    chances that make the expectation right. The squared error is on average at most
    ``min(n / s^2, sqrt(n) / s) |v|^2`` for a tensor of n entries.

    Attributes:
        levels: s, at least 1.
        feedback: keep the error for the next round.
    """

    levels: int
    feedback: bool = False

    name = "qsgd"
    example = "qsgd:4"
    ladders: ClassVar[Ladders] = {"qsgd": tuple(f"qsgd:{2**power}" for power in range(8, -1, -1))}

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= _MOST_LEVELS:
            raise BadInput(
                f"qsgd takes 1 to {_MOST_LEVELS} levels, not {self.levels}; with more a value "
                "would take as many bits as a float"
            )

    def coded_bits(self, before: int) -> int:
        """Whole bits for the values -s .. s; the paper's Elias code takes fewer on average."""
        return ceil(log2(2 * self.levels + 1))

    def largest_factor(self, classes: int) -> float:
        """Each entry may go up by a step of the tensor's norm, which is at most its L1 norm."""
        return 1 + classes / self.levels

    def compress(self, tensors: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        """Round at random, each tensor with a stream of its own."""
        base = int(rng.integers(2**63))
        return {
            name: self._round(tensor, np.random.default_rng([base, crc32(name.encode())]))
            for name, tensor in tensors.items()
        }

    def _round(self, tensor: Tensor, rng: np.random.Generator) -> Tensor:
        wide = tensor.double()
        norm = _over_trials(wide.flatten(1).norm(dim=1), wide)
        steps = self.levels * wide.abs() / norm.clamp_min(torch.finfo(torch.float64).tiny)
        chance = torch.from_numpy(rng.random(tuple(tensor.shape))).to(tensor.device)
        rounded = steps.floor() + (chance < steps - steps.floor())
        return (wide.sign() * norm * rounded / self.levels).to(tensor.dtype)


@dataclass(frozen=True)
class Quantisation(_Coarse):
    """Round each entry to the nearest of evenly spaced values, as many as b bits can name.

    The values are ``-m .. m`` in steps of ``m / (2^(b-1) - 1)``, m the tensor's largest size; no
    entry is off by more than half a step.

    Attributes:
        bits: b, from 2 on; 32 sends floats as they are.
        feedback: keep the error for the next round.
    """

    bits: int
    feedback: bool = False

    name = "bits"
    example = "bits:4"
    ladders: ClassVar[Ladders] = {"bits": tuple(f"bits:{bits}" for bits in (16, 8, 6, 4, 3, 2))}

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 32:
            raise BadInput(f"bits must lie between 2 and 32 (off), not {self.bits}; see sign for 1")

    @property
    def is_off(self) -> bool:
        """Whether floats are sent as they are."""
        return self.bits == 32

    def coded_bits(self, before: int) -> int:
        """The bits, and no more than before."""
        return min(before, self.bits)

    def largest_factor(self, classes: int) -> float:
        """An entry above half a step goes up to a whole one."""
        return 2.0

    def compress(self, tensors: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        """Round to the nearest level."""
        steps = 2 ** (self.bits - 1) - 1
        sent = {}
        for name, tensor in tensors.items():
            wide = tensor.double()
            unit = _over_trials(wide.abs().flatten(1).amax(dim=1) / steps, wide)
            unit = unit.clamp_min(torch.finfo(torch.float64).tiny)
            sent[name] = ((wide / unit).round() * unit).to(tensor.dtype)
        return sent


@dataclass(frozen=True)
class HalfPrecision(_Coarse):
    """Share float16 values: about three digits, nothing below 6e-8, nothing above 65504.

    The values come back in the type that they had.

    Attributes:
        feedback: keep the error for the next round.
    """

    feedback: bool = False

    name = "float16"
    drops_zeros = False
    scope = Scope.ENTRY

    def coded_bits(self, before: int) -> int:
        """16 bits, and no more than before."""
        return min(before, 16)

    def compress(self, tensors: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        """Round through float16; what is too large becomes its largest value."""
        most = torch.finfo(torch.float16).max
        return {name: t.clamp(-most, most).half().to(t.dtype) for name, t in tensors.items()}
