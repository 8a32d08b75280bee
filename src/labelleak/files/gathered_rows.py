"""Gather the rows behind one step of a layer, and what they tell of loss and scale."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from labelleak.core.logit_gradients import LogitRows
from labelleak.core.white_box import patches, transposed
from labelleak.files.optimiser_steps import CLOSE, StepOptions
from labelleak.files.sigmoid_weights import SigmoidWeights, read_weights

# Rounding of a half precision gradient, relative.
COARSE = 0.03


@dataclass
class GatheredRows:
    """The rows of the backward passes since the layer's last step.

    Attributes:
        one_logit: whether the layer has one output, which a sigmoid reads.
        by_call: first reading of each call of the layer; a second pass adds no rows.
        readings: of every pass.
        gradient: sums over rows of the loss's gradient, by parameter.
        coarse: whether logits or their gradient came in half precision.
        accumulated: whether a pass was added to the parameters' ``.grad``.
        evaluations: passes over these rows inside one step of the optimiser (closures).
    """

    one_logit: bool = False
    by_call: dict[int, LogitRows] = field(default_factory=dict)
    readings: list[LogitRows] = field(default_factory=list)
    gradient: dict[str, Tensor] = field(default_factory=dict)
    coarse: bool = False
    accumulated: bool = False
    evaluations: int = 1

    @property
    def pushes(self) -> bool:
        """Whether the rows' gradient is not all zero, as it is where the head's inputs are."""
        return any(bool(value.any()) for value in self.gradient.values())

    @property
    def rows(self) -> int | None:
        """How many rows took part; None where rounding hides it."""
        counts = [reading.rows for reading in self.by_call.values()]
        return None if None in counts else sum(n for n in counts if n is not None)

    @property
    def loss(self) -> str:
        """The kind of loss, where all passes agree."""
        kinds = {reading.loss for reading in self.readings}
        return kinds.pop() if len(kinds) == 1 else "unknown"

    @property
    def certain(self) -> bool:
        """Whether nothing but the loss that was read gives rows like these."""
        return bool(self.readings) and all(reading.certain for reading in self.readings)

    @property
    def scale(self) -> float | None:
        """The loss over the mean loss: 1 for a mean, N for a sum."""
        if self.rows is None or not self.certain:
            return None
        weights = self.weights
        if weights is not None:
            near = _near(weights.scale, self.rows, COARSE if self.coarse else 1e-4)
            return weights.scale if near is None else near
        sums = [None if r.scales is None else float(r.scales.sum()) for r in self.readings]
        known = [s for s in sums if s is not None]
        if not known or len(known) < len(sums) or not sum(known):
            return None
        near = _near(sum(known), self.rows, COARSE if self.coarse else 1e-4)
        return sum(known) if near is None else near

    @property
    def weights(self) -> SigmoidWeights | None:
        """The weights of labels, of a binary cross-entropy that shows them."""
        if not self.readings or not (self.one_logit or self.loss == "bce"):
            return None
        return read_weights(self.readings, 3 * COARSE if self.coarse else 1e-3)

    @property
    def rough(self) -> bool:
        """Whether the scale was read off half precision, and is none that is expected."""
        if not self.coarse or self.scale is None or self.rows is None:
            return False
        return _near(self.scale, self.rows, COARSE) is None

    @property
    def tolerance(self) -> float:
        """How far two readings of one gradient may be apart."""
        return 2 * COARSE if self.coarse else CLOSE

    @property
    def weighted(self) -> bool:
        """Whether rows of one pass weigh differently: class weights, or weights of their own."""
        if self.weights is not None:
            return False
        scales = [reading.scales for reading in self.readings if reading.scales is not None]
        close_by = 3 * COARSE if self.coarse else 1e-3
        return any(float(s.max() - s.min()) > close_by * float(s.abs().max()) for s in scales)


@dataclass(frozen=True, eq=False)
class Step:
    """One change of the layer's parameters.

    Attributes:
        gathered: the rows behind it.
        options: what the optimiser says, by parameter; empty where a hand made the step.
        optimiser: its name, or None for a hand.
        used_over_mean: the gradient that moved the layer over that of the mean loss; None where
            the two do not go together.
        lr: learning rate, said or (by hand) measured.
        doubts: what does not fit.
        taken: False for a gradient that moved nothing.
    """

    gathered: GatheredRows
    options: dict[str, StepOptions]
    optimiser: str | None
    used_over_mean: float | None
    lr: float | None
    doubts: tuple[str, ...]
    taken: bool = True


def outputs_of(layer: nn.Module) -> int:
    """Return how many outputs a linear layer or a convolution has.

    >>> outputs_of(nn.ConvTranspose2d(5, 3, 2))
    3
    """
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.shape[int(isinstance(layer, transposed()))]


def parameter_gradients(layer: nn.Module, inputs: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Return the gradient of a layer's weight and bias, summed over rows in float32 at least.

    Args:
        layer: a linear layer or a convolution.
        inputs: what it was given.
        gradient: of the loss, by its outputs, classes last.
    """
    wide = torch.promote_types(gradient.dtype, torch.float32)
    flat = gradient.reshape(-1, gradient.shape[-1]).to(wide)
    if isinstance(layer, transposed()):
        sums = {"weight": _of_transposed(layer, inputs.to(wide), gradient.movedim(-1, 1).to(wide))}
        return sums if layer.bias is None else {**sums, "bias": flat.sum(0)}
    rows = inputs if isinstance(layer, nn.Linear) else patches(layer, inputs)
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    pushed = flat.T @ rows.reshape(-1, rows.shape[-1]).to(wide)
    sums = {"weight": pushed.reshape(weight.shape)}
    return sums if bias is None else {**sums, "bias": flat.sum(0)}


def _of_transposed(layer: nn.Module, inputs: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of a transposed convolution's kernel."""
    how = [getattr(layer, n) for n in ("stride", "padding", "dilation", "output_padding")]
    weight = layer.weight
    assert isinstance(weight, Tensor)
    found = torch.ops.aten.convolution_backward(
        gradient, inputs, weight.detach().to(inputs.dtype), None, *how[:3], True, how[3], 1,
        [False, True, False],
    )  # fmt: skip
    pushed: Tensor = found[1]
    return pushed


def _near(scale: float, rows: int, tolerance: float) -> float | None:
    """Take a measured scale as the mean's or the sum's, times a power of two, if it is near it."""
    sign, size = math.copysign(1.0, scale), abs(scale)
    for whole in (1.0, float(rows)):
        power = 2.0 ** round(math.log2(size / whole))
        if abs(size / (whole * power) - 1) < tolerance:
            return sign * whole * power
    return None


__all__ = ["GatheredRows", "Step", "outputs_of", "parameter_gradients"]
