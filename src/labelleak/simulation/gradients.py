"""The true shared head gradient of batches by autograd: what the head table is held to."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from labelleak.attacks.many_clients import SampleGradients
from labelleak.core.head_table import HeadTable
from labelleak.core.knowledge import LabelledData
from labelleak.core.local_steps import as_seen
from labelleak.core.observation import Observation
from labelleak.core.rest import LazyGradients
from labelleak.core.task import labels_each
from labelleak.core.update import SharedTensors
from labelleak.core.white_box import WhiteBox

# Numbers of a batch's samples beyond which a backward pass is quicker than their sum.
_SUMMED = 2**23


def autograd_gradients(
    model: WhiteBox, data: LabelledData, batches: np.ndarray, *, seed: int = 0, full: bool = False
) -> Observation:
    """Differentiate the mean cross-entropy of each batch with respect to the head.

    This is the definition of the shared gradient; it holds for every model and mode.

    Args:
        model: the client's model.
        data: where the batches' samples lie.
        batches: ``T x B`` indices into the data.
        seed: seed of dropout and the like; batch t uses seed + t.
        full: keep the gradients of all other parameters too.

    Returns:
        An observation of T trials with N = B samples each.
    """
    shared = shared_gradients(model, data, batches, seed=seed, full=full)
    size = batches.shape[1] * labels_each(data.labels, model.task)
    return as_seen(shared, model, size, trials=len(batches), full=full)


def shared_gradients(
    model: WhiteBox, data: LabelledData, batches: np.ndarray, *, seed: int = 0, full: bool = False
) -> SharedTensors:
    """Return the gradients of `autograd_gradients` as clients share them, the head last."""
    prefix = f"{model.head}." if model.head else ""
    names = (f"{prefix}weight", f"{prefix}bias")
    rest = [name for name in model.trained if name not in names] if full else []
    wanted = {n: model.trained[n] for n in (*rest, *names) if n in model.trained}
    if not wanted:  # the head is frozen, and nothing else is asked for
        return SharedTensors({}, model.head)
    rows = []
    for number, batch in enumerate(torch.from_numpy(batches)):
        seen = model.run(data.inputs[batch], seed=seed + number, grad=True)
        loss = F.cross_entropy(seen.outputs, data.labels[batch])
        # A second head that this loss does not rest on has no gradient.
        rows.append(torch.autograd.grad(loss, list(wanted.values()), materialize_grads=True))
    stacked = (torch.stack(parts) for parts in zip(*rows, strict=True))
    return SharedTensors(dict(zip(wanted, stacked, strict=True)), model.head)


def later_gradients(
    model: WhiteBox,
    data: LabelledData,
    batches: np.ndarray,
    samples: Callable[[], SampleGradients | None] = lambda: None,
) -> LazyGradients:
    """Return the gradients of ``T x B`` batches below the head, computed when one is read.

    Args:
        model: the client's model.
        data: where the batches' samples lie.
        batches: indices into the data.
        samples: gives the gradients of all samples, if they are held.
    """
    prefix = f"{model.head}." if model.head else ""
    head = {f"{prefix}weight", f"{prefix}bias"}
    names = tuple(name for name in model.trained if name not in head)

    def make() -> Mapping[str, Tensor]:
        small = batches.shape[1] * model.trained_entries <= _SUMMED
        held = samples() if small else None
        if held is not None and held.shapes.keys() >= set(names):
            found = held.of_batches(batches)
            return {name: found[name] for name in names}
        return autograd_gradients(model, data, batches, full=True).rest or {}

    return LazyGradients(names, make)


__all__ = ["HeadTable", "autograd_gradients", "later_gradients"]
