"""Train the global model for a number of steps, and measure how accurate it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelleak.core.knowledge import LabelledData
from labelleak.core.optimisers import uncompiled
from labelleak.core.seeding import torch_seeded
from labelleak.core.small_maps import SmallMaps
from labelleak.core.task import Task
from labelleak.core.white_box import CHUNK
from labelleak.errors import BadInput
from labelleak.simulation.networks import Classifier
from labelleak.simulation.plain_steps import PlainSteps

# Places of each batch's samples, and the seed of its step.
_Batches = Iterable[tuple[Tensor, Any]]
_Steps = Callable[[_Batches], Tensor]
# Learning rate of AdamW on texts.
TEXT_LR = 0.003


@dataclass(frozen=True)
class Training:
    """How the global model is trained before the audit: SGD with momentum, of texts AdamW.

    Attributes:
        lr: learning rate.
        momentum: momentum of SGD, in [0, 1).
        batch_size: samples per step, drawn without replacement within a step.
        optimiser: sgd or adamw.
    """

    lr: float = 0.05
    momentum: float = 0.9
    batch_size: int = 64
    optimiser: Literal["sgd", "adamw"] = "sgd"

    def start(self, model: nn.Module) -> torch.optim.Optimizer:
        """Make the optimiser."""
        if self.optimiser == "adamw":
            return uncompiled(torch.optim.AdamW)(model.parameters(), lr=self.lr)
        make = uncompiled(torch.optim.SGD)
        return make(model.parameters(), lr=self.lr, momentum=self.momentum)


def train_in_stages(
    model: nn.Module,
    data: LabelledData,
    stages: Sequence[int],
    training: Training,
    *,
    rng: np.random.Generator,
) -> Iterator[int]:
    """Train a model in place and stop at each stage.

    Args:
        model: the model; left in train mode.
        data: what it learns from.
        stages: numbers of steps to stop at, in rising order; 0 stops before the first step.
        training: how to train.
        rng: source of the batches and of dropout.

    Yields:
        Each stage, when the model has taken that many steps.

    Raises:
        BadInput: if the loss becomes NaN or infinite.
    """
    size = min(training.batch_size, len(data))
    taken, loss = 0, torch.zeros(())
    for stage in sorted(stages):
        if stage and not taken:
            steps = _steps_of(model, data, training)
        model.train()
        if taken < stage:
            batches = (
                # Seeded step by step, so that stopping at a stage changes nothing after it.
                (torch.from_numpy(rng.choice(len(data), size, replace=False)), rng.integers(2**31))
                for _ in range(taken, stage)
            )
            loss, taken = steps(batches), stage
        if not torch.isfinite(loss):
            raise BadInput(f"training diverged (loss {loss.item()}); lower `train_lr`")
        yield stage


def _steps_of(model: nn.Module, data: LabelledData, training: Training) -> _Steps:
    """Return what takes a step for each batch and gives the last one's loss."""
    optimiser, small = training.start(model), SmallMaps.serves(model)

    def take(batches: _Batches) -> Tensor:
        # Asked anew at each stage: whoever had the model meanwhile may have changed it.
        # Of a network from outside nobody knows what else it does when it learns.
        if training.optimiser == "sgd" and type(model) is Classifier:
            plain = PlainSteps.of(model, data.inputs, data.labels, optimiser)
            if plain is not None:
                return take_plain(plain, batches)
        for picks, seed in batches:
            with torch_seeded(int(seed)), SmallMaps() if small else nullcontext():
                loss = F.cross_entropy(model(data.inputs[picks]), data.labels[picks])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
        return loss

    def take_plain(plain: PlainSteps, batches: _Batches) -> Tensor:
        for picks, _ in batches:
            plain.step(*(torch.index_select(part, 0, picks) for part in (data.inputs, data.labels)))
        plain.write()
        return plain.loss

    return take


def constant_accuracy(labels: Tensor, task: Task) -> float:
    """Return the share of labels that the best constant answer tells rightly.

    >>> constant_accuracy(torch.tensor([[0, 1], [0, 0], [1, 0], [0, 0]]), Task.multilabel)
    0.75
    """
    if task is Task.multilabel:
        shares = labels.double().mean(dim=0)
        return float(torch.maximum(shares, 1 - shares).mean())
    known = labels[labels >= 0]
    return float(torch.bincount(known).max()) / len(known)


def accuracy(model: nn.Module, data: LabelledData) -> float:
    """Return the share of labels that the model tells rightly, in eval mode."""
    return evaluate(model, data)[0]


def evaluate(model: nn.Module, data: LabelledData) -> tuple[float, float]:
    """Return the share of labels that the model tells rightly, and its mean loss, in eval mode."""
    training, right, loss = model.training, 0, 0.0
    # Of texts fewer, whose logits would fill memory.
    at_once = CHUNK if data.inputs.is_floating_point() else -(-CHUNK // data.inputs.shape[1])
    model.eval()
    with torch.no_grad():
        for inputs, labels in zip(
            torch.split(data.inputs, at_once), torch.split(data.labels, at_once), strict=True
        ):
            outputs = model(inputs)
            right += int((outputs.argmax(dim=1) == labels).sum())
            loss += float(F.cross_entropy(outputs, labels, reduction="sum"))
    model.train(training)
    number = int((data.labels >= 0).sum())
    return right / number, loss / number
