"""What the clients of a verdict's case share: gradients, defended or not, or trained weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from labelleak.core.interfaces import LabelledData
from labelleak.core.observation import Observation
from labelleak.core.white_box import WhiteBox
from labelleak.simulation.client import train_locally
from labelleak.simulation.gradients import HeadTable
from labelleak.studies.verdicts.cases import Case


def share_updates(
    model: WhiteBox,
    table: HeadTable,
    data: LabelledData,
    case: Case,
    drawn: np.ndarray,
    rng: np.random.Generator,
) -> Observation:
    """Let clients share what a case has them share: gradients, or weights after local training.

    Args:
        model: the model that the server sent.
        table: its head table of the data.
        data: what clients draw from.
        case: how they train and defend themselves.
        drawn: ``T x B`` indices into the data, the labels of each client's own samples.
        rng: source of noise, and of the order in which local steps take their samples.
    """
    if case.training is None:
        return defend_head(table.gradients(drawn), case.defense, rng)
    how, module = case.training, model.module
    steps = (len(drawn), how.local_steps, how.batch_size)
    if case.spread:  # step t gets every T-th label, and equal labels stand side by side
        ordered = np.swapaxes(drawn.reshape(steps[0], steps[2], steps[1]), 1, 2)
    else:
        passes = [rng.permuted(drawn, axis=1) for _ in range(case.epochs)]
        ordered = np.concatenate(passes, axis=1).reshape(steps)
    names = ("head.weight", "head.bias")
    after = [train_locally(module, data, rows, how) for rows in ordered]
    return Observation.from_update(
        module.state_dict(),
        {name: torch.stack([one[name] for one in after]) for name in names},
        head="head",
        # A plain case shows what an observer does who has not heard of the momentum.
        training=replace(how, momentum=0.0) if case.plain else how,
    )


def defend_head(observation: Observation, defense: str, rng: np.random.Generator) -> Observation:
    """Noise, prune or reduce to signs the head's gradient, each tensor and trial for itself."""
    kind, _, strength = defense.partition(":")
    change: dict[str, Callable[[Tensor], Tensor]] = {
        "none": lambda gradient: gradient,
        "noise": lambda gradient: gradient + float(strength) * _normal(gradient, rng),
        "prune": lambda gradient: _prune(gradient, float(strength)),
        "sign": torch.sign,
    }
    weight, bias = observation.weight, observation.bias
    return replace(
        observation,
        weight=None if weight is None else change[kind](weight),
        bias=None if bias is None else change[kind](bias),
    )


def _normal(like: Tensor, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(like.shape))).to(like.dtype)


def _prune(gradient: Tensor, share: float) -> Tensor:
    """Keep the entries of largest magnitude, at least one, and put the rest at 0."""
    flat = gradient.flatten(1)
    kept = max(1, round((1 - share) * flat.shape[1]))
    least = flat.abs().topk(kept, dim=1).values[:, -1:]
    return torch.where(flat.abs() >= least, flat, 0.0).reshape(gradient.shape)


__all__ = ["defend_head", "share_updates"]
