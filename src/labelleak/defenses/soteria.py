"""Soteria: hiding the representation that feeds the head from the head's own gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from labelleak.core.knowledge import LabelledData
from labelleak.core.lazy import F, Tensor, nn, torch
from labelleak.core.update import SharedTensors
from labelleak.core.white_box import WhiteBox
from labelleak.defenses.client import Gradients, plain_gradient
from labelleak.defenses.facts import HEAD_ALONE
from labelleak.defenses.text import share
from labelleak.defenses.training import TrainingDefense
from labelleak.errors import BadInput

# Samples that are differentiated together: more are no faster.
_SLICE = 128


@dataclass(frozen=True)
class Soteria(TrainingDefense):
    """Prune, sample by sample, the head inputs that tell most about the input.

    Sun et al., CVPR 2021: entry r_i of a sample's representation is scored
    ``|r_i| / |d r_i / d x|`` and the share that scores highest is set to 0 when the head's
    weight gradient is formed, ``mean_k (p_k - e_y) r'_k^T``. Predictions, the bias gradient and all
    other layers stay. It was made against reconstruction of inputs: each sample still adds its
    label's negative row, only with fewer entries.

    Assumes that no layer mixes samples and that the head's outputs are the model's.

    Attributes:
        share: share of head inputs that is pruned in each sample, in [0, 1); above 0 at least one.

    Raises:
        BadInput: from `gradients`, for models that mix samples or take whole numbers.
    """

    share: float

    name = "soteria"
    example = "soteria:0.5"
    leaves_open = (HEAD_ALONE,)
    uses_head = True
    is_costly: ClassVar[bool] = True

    def __post_init__(self) -> None:
        share(self.share, "the pruned share")
        if self.share == 1:
            raise BadInput("pruning the whole representation leaves no gradient; go below 1")

    @property
    def is_off(self) -> bool:
        """Whether nothing is pruned."""
        return self.share == 0

    def kept(self, model: WhiteBox, inputs: Tensor) -> Tensor:
        """Mark the head inputs that stay, ``n x D``."""
        scores = representation_scores(model, inputs)
        number = 0 if self.is_off else max(1, round(self.share * scores.shape[1]))
        picks = scores.topk(number, dim=1).indices
        return torch.ones_like(scores, dtype=torch.bool).scatter_(1, picks, False)

    def compute(
        self, model: WhiteBox, inputs: Tensor, targets: Tensor, *, full: bool, seed: int
    ) -> Gradients:
        """Form the head's weight gradient from the pruned representation."""
        _refuse_words(inputs)
        found = plain_gradient(model, inputs, targets, full=full, seed=seed)
        seen = model.run(inputs, seed=seed)
        errors = seen.probabilities - targets.to(seen.probabilities)
        pruned = seen.inputs * self.kept(model, inputs)
        return {**found, SharedTensors({}, model.head).head_weight: errors.T @ pruned / len(inputs)}

    def alter_table(
        self, model: WhiteBox, data: LabelledData, inputs: Tensor, errors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Prune each sample's head inputs once and for all."""
        return inputs * self.kept(model, data.inputs), errors


def representation_scores(model: WhiteBox, inputs: Tensor) -> Tensor:
    """Score each head input of each sample by ``|r_i| / |d r_i / d x|``; 0 where both vanish.

    Raises:
        BadInput: if the model mixes samples, or its inputs are no real numbers.
    """
    _refuse_words(inputs)
    if not model.is_per_sample(inputs):
        raise BadInput("soteria needs a model that passes each sample alone; use `mode` eval")
    inputs = inputs.to(model.head_weight)

    return torch.cat([_score(model, part) for part in torch.split(inputs, _SLICE)])


def _refuse_words(inputs: Tensor) -> None:
    if not inputs.is_floating_point():
        raise BadInput("soteria differentiates by the inputs; these are whole numbers")


def _score(model: WhiteBox, inputs: Tensor) -> Tensor:
    """Score a slice by one backward pass for each head input, over all samples at once.

    No layer mixes samples, so the slope of the sum over samples holds every sample's own. One
    pass's activations and one slope are held, whatever the width of the head.
    """
    with torch.enable_grad():
        inputs = inputs.detach().clone().requires_grad_()
        values = _head_input(model, inputs)
        steep = torch.stack([_steepness(one, inputs) for one in values.unbind(dim=1)], dim=1)
    values = values.detach()
    return F.relu(values.abs() / steep.clamp_min(1e-12) * (values != 0))


def _steepness(feature: Tensor, inputs: Tensor) -> Tensor:
    slope: Tensor = torch.autograd.grad(feature.sum(), inputs, retain_graph=True)[0]
    length: Tensor = torch.linalg.vector_norm(slope.flatten(1), dim=1)
    return length


def _head_input(model: WhiteBox, inputs: Tensor) -> Tensor:
    caught: list[Tensor] = []

    def catch(_: nn.Module, args: tuple[Any, ...]) -> None:
        caught.append(args[0])

    hook = model.head_layer.register_forward_pre_hook(catch)
    try:
        torch.func.functional_call(model.module, _frozen(model.module), (inputs,))
    finally:
        hook.remove()
    return caught[0]


def _frozen(module: nn.Module) -> dict[str, Tensor]:
    """Parameters that no graph reaches: slopes are wanted by the inputs alone."""
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


__all__ = ["Soteria", "representation_scores"]
