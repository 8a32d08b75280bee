"""The rules of LLG's public code, kept only to reproduce its figures beside the right ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelleak.core.lazy import torch
from labelleak.core.update import Memory, Scope, SharedTensors
from labelleak.defenses.clipping import scale_to
from labelleak.defenses.composition import Part
from labelleak.defenses.facts import POOLED
from labelleak.defenses.noise import Noisy, add_noise, gaussian
from labelleak.defenses.text import above_zero, at_least_zero, share


@dataclass(frozen=True)
class HistoricalCompression(Part):
    """Zero the k-th parameter tensor where class k's row sum is small (not gradient compression).

    Classes are ranked by the size of their row sums of the head's weight gradient; where class k
    lies below the quantile, the k-th tensor of the model is wiped, whatever it holds. So with
    enough classes the head's whole weight is lost in about a quantile's share of all updates,
    and in the others most of what tells labels stays. Use `Pruning` or `TopK` instead.

    Edge cases: tensors beyond the K-th are never wiped; an update without a head weight is left
    alone. The public code adds back residuals by a test that does not save the head's weight; that
    part is left out.

    Attributes:
        quantile: share of classes (and so of tensors) that count as small, in [0, 1].
    """

    quantile: float

    name = "historical_compression"
    example = "historical_compression:0.8"
    leaves_open = (
        (
            "It wipes whole tensors by their place, the head in most updates; where the head "
            "comes through, all of it does."
        ),
    )
    drops_zeros = True
    scope = Scope.UPDATE
    uses_head = True

    def __post_init__(self) -> None:
        share(self.quantile, "the quantile")

    @property
    def is_off(self) -> bool:
        """Whether no class counts as small."""
        return self.quantile == 0

    def apply(
        self, update: SharedTensors, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[SharedTensors, Memory | None]:
        """Wipe tensors by the rank of the class at their place; nothing is kept."""
        weight = update.tensors.get(update.head_weight)
        if self.is_off or weight is None:
            return update, memory
        sizes = weight.detach().double().sum(dim=-1).abs()
        small = sizes < torch.quantile(sizes, self.quantile, dim=1, keepdim=True)
        wiped = {
            name: tensor.masked_fill(small[:, k].view(-1, *[1] * (tensor.dim() - 1)), 0.0)
            for k, (name, tensor) in enumerate(update.floats.items())
            if k < small.shape[1]
        }
        return update.replaced(wiped), memory


@dataclass(frozen=True)
class HistoricalDP(Noisy):
    """Clip each tensor of the mean gradient and add noise that does not know the bound (not DP).

    The bound holds for the mean over the batch, not for a sample, and tensor by tensor; the noise
    multiplier is sigma over the bound and is multiplied by it again, so each entry's noise is
    sigma for every bound. No epsilon follows for a sample. Use `DPSGD` instead.

    Attributes:
        bound: largest L2 norm of a tensor; inf for none.
        sigma: standard deviation of the noise, in the units of what is shared.
    """

    bound: float
    sigma: float = 0.1

    name = "historical_dp"
    example = "historical_dp:0.5:0.2"
    leaves_open = (
        (
            "It is not differentially private: its noise is not measured against what one sample "
            "can change."
        ),
        POOLED,
    )
    scope = Scope.LAYER

    def __post_init__(self) -> None:
        above_zero(self.bound, "the bound")
        at_least_zero(self.sigma, "sigma")

    @property
    def is_off(self) -> bool:
        """Whether nothing is bounded and no noise added."""
        return self.bound == float("inf") and self.sigma == 0

    @property
    def root_mean_square(self) -> float:
        """Sigma."""
        return self.sigma

    def apply(
        self, update: SharedTensors, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[SharedTensors, Memory | None]:
        """Clip tensor by tensor, then add the noise; nothing is kept."""
        clipped = update
        if self.bound < float("inf"):
            for name, tensor in update.floats.items():
                clipped = clipped.replaced(scale_to({name: tensor}, self.bound))
        if not self.sigma:
            return clipped, memory
        return add_noise(clipped, rng, gaussian(self.sigma)), memory
