"""The gradient that a client computes, with what training-time defenses change about it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import ClassVar

import numpy as np

from labelleak.core.knowledge import LabelledData
from labelleak.core.lazy import F, Tensor, torch
from labelleak.core.update import SharedTensors
from labelleak.core.white_box import WhiteBox
from labelleak.errors import BadInput

Gradients = dict[str, Tensor]


class TrainingChange:
    """What a training-time defense may change; the defaults change nothing.

    Attributes:
        is_costly: whether altering the table takes long for each sample, so that only samples in
            use are altered, and imitations keep them. What is altered then draws nothing.
    """

    is_costly: ClassVar[bool] = False

    def change_batch(
        self, inputs: Tensor, targets: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Exchange inputs ``B x ...`` and target probabilities ``B x K``."""
        return inputs, targets

    def during(self, model: WhiteBox, rng: np.random.Generator) -> AbstractContextManager[object]:
        """Change the model's forward pass for as long as the context lasts."""
        return nullcontext()

    def compute(
        self, model: WhiteBox, inputs: Tensor, targets: Tensor, *, full: bool, seed: int
    ) -> Gradients | None:
        """Compute the batch's gradient in another way, or give None to leave it as it is."""
        return None

    def alter_table(
        self, model: WhiteBox, data: LabelledData, inputs: Tensor, errors: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Change head inputs h and errors p - e_y of each sample; None where no table is exact."""
        return None

    def finish(
        self, update: SharedTensors, batch_size: int, rng: np.random.Generator
    ) -> SharedTensors:
        """Change the finished mean gradients."""
        return update


def trainable(model: WhiteBox, *, full: bool) -> Gradients:
    """Return the trained parameters by name: all of them, or the head's."""
    prefix = f"{model.head}." if model.head else ""
    head = {f"{prefix}weight", f"{prefix}bias"}
    return {name: parameter for name, parameter in model.trained.items() if full or name in head}


def plain_gradient(
    model: WhiteBox, inputs: Tensor, targets: Tensor, *, full: bool, seed: int
) -> Gradients:
    """Differentiate the mean cross-entropy with target probabilities, for one batch."""
    wanted = trainable(model, full=full)
    if not wanted:  # the head is frozen
        return {}
    seen = model.run(inputs, seed=seed, grad=True)
    loss = F.cross_entropy(seen.outputs, targets.to(seen.outputs))
    found = torch.autograd.grad(loss, list(wanted.values()), materialize_grads=True)
    return dict(zip(wanted, found, strict=True))


def batch_gradients(
    model: WhiteBox,
    batches: Sequence[LabelledData],
    changes: Sequence[TrainingChange],
    rng: np.random.Generator,
    *,
    full: bool,
) -> SharedTensors:
    """Compute the mean gradient of each batch (all of one size), changed as asked for.

    Args:
        model: the client's model.
        batches: R batches.
        changes: training-time defenses, in order.
        rng: source of all randomness; what precedes `finish` draws from a child of it.
        full: keep every parameter's gradient, not the head's alone.
    """
    child = rng.spawn(1)[0]
    rows = [_one(model, batch, changes, child, full) for batch in batches]
    update = SharedTensors(
        {name: torch.stack([r[name] for r in rows]) for name in rows[0]}, model.head
    )
    for change in changes:
        update = change.finish(update, len(batches[0]), rng)
    return update


def _one(
    model: WhiteBox,
    batch: LabelledData,
    changes: Sequence[TrainingChange],
    rng: np.random.Generator,
    full: bool,
) -> Gradients:
    inputs = batch.inputs
    held = batch.labels >= 0
    targets = F.one_hot(batch.labels.clamp_min(0), model.form.choices).movedim(-1, 1)
    targets = targets.to(torch.float32)
    if not bool(held.all()):
        if changes:
            raise BadInput("a defense that changes training takes no pixels without a label")
        targets = targets * (held / held.float().mean())[:, None]  # the mean is over the others
    for change in changes:
        inputs, targets = change.change_batch(inputs, targets, rng)
    seed = int(rng.integers(2**31))
    with ExitStack() as contexts:
        for change in changes:
            contexts.enter_context(change.during(model, rng))
        for change in changes:
            found = change.compute(model, inputs, targets, full=full, seed=seed)
            if found is not None:
                return found
        return plain_gradient(model, inputs, targets, full=full, seed=seed)


__all__ = ["Gradients", "TrainingChange", "batch_gradients", "plain_gradient", "trainable"]
