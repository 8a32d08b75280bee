"""DP-SGD: the mean of gradients that are clipped sample by sample, with noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isinf
from typing import ClassVar

import numpy as np

from labelleak.core.knowledge import LabelledData
from labelleak.core.lazy import F, Tensor, nn, torch
from labelleak.core.seeding import torch_seeded
from labelleak.core.update import SharedTensors
from labelleak.core.white_box import WhiteBox
from labelleak.defenses.client import Gradients, trainable
from labelleak.defenses.facts import POOLED, Ladders, decades
from labelleak.defenses.noise import add_noise, gaussian, noise_room
from labelleak.defenses.text import above_zero, at_least_zero
from labelleak.defenses.training import TrainingDefense
from labelleak.errors import BadInput

# Bytes of per-sample gradients that are held at a time.
_CHUNK_BYTES = 128 * 2**20


@dataclass(frozen=True)
class DPSGD(TrainingDefense):
    """Clip each sample's gradient of the whole model, average, and add Gaussian noise.

    Abadi et al., CCS 2016: ``g = 1/B sum_k g_k min(1, C / |g_k|) + N(0, (sigma C / B)^2)``. Each
    sample's ``(p - e_y) h^T`` keeps its direction and gets its own weight; the noise hides it.

    Attributes:
        clip: C, largest L2 norm of a sample's gradient; inf only without noise.
        noise_multiplier: sigma, noise in units of C; 0 adds none, and nothing is private.

    Raises:
        BadInput: from `gradients`, for a model with batch normalisation.
    """

    clip: float
    noise_multiplier: float = 1.0

    name = "dpsgd"
    example = "dpsgd:0.1:1"
    leaves_open = (
        (
            "It bounds what one sample tells, not what the samples of a batch have in common: "
            "label counts may still show."
        ),
        POOLED,
    )
    ladders: ClassVar[Ladders] = {"dpsgd": tuple(f"dpsgd:1:{s}" for s in decades(-2, 2))}

    def __post_init__(self) -> None:
        above_zero(self.clip, "the clipping norm")
        at_least_zero(self.noise_multiplier, "the noise multiplier")
        if isinf(self.clip) and self.noise_multiplier:
            raise BadInput("noise in units of an infinite clipping norm has no size; bound it")

    @property
    def is_off(self) -> bool:
        """Whether nothing is clipped and no noise added."""
        return isinf(self.clip)

    def compute(
        self, model: WhiteBox, inputs: Tensor, targets: Tensor, *, full: bool, seed: int
    ) -> Gradients:
        """Average the clipped gradients of a batch; `finish` adds the noise."""
        names = set(trainable(model, full=full))
        total: Gradients = {}
        for gradients in sample_gradients(model, inputs, targets, seed=seed):
            weights = self.weights(_norms(gradients))
            for name in names:
                part = torch.tensordot(weights.to(gradients[name]), gradients[name], dims=1)
                total[name] = total[name] + part if name in total else part
        return {name: tensor / len(inputs) for name, tensor in total.items()}

    def weights(self, norms: Tensor) -> Tensor:
        """Return min(1, C / norm) for each sample."""
        return (self.clip / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_max(1.0)

    def alter_table(
        self, model: WhiteBox, data: LabelledData, inputs: Tensor, errors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weigh each sample's error by how much it is clipped."""
        targets = F.one_hot(data.labels, errors.shape[1]).to(torch.float32)
        weights = self.weights(sample_norms(model, data.inputs, targets))
        return inputs, errors * weights.to(errors)[:, None]

    def largest_after(
        self, largest: float, classes: int, *, batch_size: int = 1, unit: float = 1.0
    ) -> float:
        """Leave room for the noise, which is spread over the batch."""
        return largest + noise_room(self._deviation(batch_size), classes)

    def finish(
        self, update: SharedTensors, batch_size: int, rng: np.random.Generator
    ) -> SharedTensors:
        """Add the noise to the mean."""
        if not self.noise_multiplier:
            return update
        return add_noise(update, rng, gaussian(self._deviation(batch_size)))

    def _deviation(self, batch_size: int) -> float:
        return self.noise_multiplier * self.clip / batch_size if self.noise_multiplier else 0.0


def refuse_batch_norm(model: torch.nn.Module) -> None:
    """Refuse models whose samples have no gradient of their own.

    Raises:
        BadInput: naming the first layer of batch normalisation.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise BadInput(
                f"DP-SGD clips each sample's own gradient, but batch normalisation ({name!r}) "
                "mixes samples; replace it by group normalisation"
            )


def sample_gradients(
    model: WhiteBox, inputs: Tensor, targets: Tensor, *, seed: int = 0
) -> Iterator[Gradients]:
    """Return each sample's gradient of the whole model, in chunks, ``n x ...`` a parameter.

    Args:
        model: a model without batch normalisation.
        inputs: ``n x ...``.
        targets: target probabilities, ``n x K``.
        seed: seed of dropout and the like.
    """
    refuse_batch_norm(model.module)
    trained = trainable(model, full=True)
    parameters = {name: p.detach() for name, p in trained.items()}
    own = {id(p) for p in trained.values()}  # one that is tied has two names
    others = {name: p for name, p in model.module.named_parameters() if id(p) not in own}
    frozen = others | dict(model.module.named_buffers())

    def loss(trained: Gradients, one: Tensor, target: Tensor) -> Tensor:
        outputs = torch.func.functional_call(model.module, {**frozen, **trained}, (one[None],))
        return F.cross_entropy(outputs, target[None].to(outputs))

    of_each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0), randomness="different")
    if inputs.is_floating_point():
        inputs = inputs.to(model.head_weight)
    size = max(1, _CHUNK_BYTES // (4 * sum(p.numel() for p in parameters.values())))
    parts = zip(torch.split(inputs, size), torch.split(targets, size), strict=True)
    for number, (some, those) in enumerate(parts):
        with torch_seeded(seed + number):
            found = of_each(parameters, some, those)
        yield found


def sample_norms(model: WhiteBox, inputs: Tensor, targets: Tensor, *, seed: int = 0) -> Tensor:
    """Return the L2 norm of each sample's gradient of the whole model, n numbers in float64."""
    chunks = sample_gradients(model, inputs, targets, seed=seed)
    return torch.cat([_norms(chunk) for chunk in chunks])


def _norms(gradients: Gradients) -> Tensor:
    squares = [g.flatten(1).double().square().sum(dim=1) for g in gradients.values()]
    return torch.stack(squares).sum(dim=0).sqrt()


__all__ = ["DPSGD", "refuse_batch_norm", "sample_gradients", "sample_norms"]
