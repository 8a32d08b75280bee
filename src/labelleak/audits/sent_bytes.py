"""How many bytes a client of an audit sends: its gradient, or how its weights moved."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from labelleak.core.update import SharedTensors
from labelleak.core.weights import buffer_names
from labelleak.core.white_box import WhiteBox
from labelleak.defenses import Chain, wire_bytes
from labelleak.simulation.defended import movement


def count_bytes(
    model: WhiteBox, update: SharedTensors, defense: Chain, rng: np.random.Generator
) -> float:
    """Count the bytes of an update after a defense, with the model's buffers as they are.

    Args:
        model: the model that was sent.
        update: the trained parameters' part, before the defense acts on the finished update.
        defense: what the client does.
        rng: source of the defense's noise.
    """
    state = model.module.state_dict()
    sent = dict(defense.apply(update, rng)[0].tensors)
    sent |= {name: state[name][None] for name in buffer_names(state, model.module)}
    return round(wire_bytes(defense, SharedTensors(sent, model.head, _fixed(model))), 1)


def dense_update(model: WhiteBox) -> SharedTensors:
    """Return an update without a zero in it, of the shape of the trained parameters."""
    ones = {name: torch.ones_like(value)[None] for name, value in model.trained.items()}
    return SharedTensors(ones, model.head)


def moved_update(model: WhiteBox, after: Mapping[str, torch.Tensor]) -> SharedTensors:
    """Return how the trained parameters moved from the model to a state dict."""
    fixed = _fixed(model)
    moved = movement(model.module.state_dict(), after, head=model.head)
    return SharedTensors({n: t for n, t in moved.tensors.items() if n not in fixed}, model.head)


def _fixed(model: WhiteBox) -> frozenset[str]:
    """Name what a state dict holds beside the trained parameters."""
    return frozenset(model.module.state_dict()) - model.trained.keys()


__all__ = ["count_bytes", "dense_update", "moved_update"]
