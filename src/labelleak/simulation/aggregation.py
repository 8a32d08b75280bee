"""How a server turns clients' weights into the next global model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from labelleak.errors import BadInput


def average_states(
    states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]
) -> dict[str, Tensor]:
    """Average state dicts, weighted; whole-number entries are rounded to the nearest.

    Sums run in float64, so the order of clients does not show. Batch norm's running
    statistics are averaged like parameters; its count of batches is the rounded mean.

    Args:
        states: state dicts of one model.
        weights: one positive number each, such as samples; they need not sum to 1.

    Raises:
        BadInput: if there are none, or states and weights differ in number.

    >>> average_states([{"a": torch.tensor([1.0])}, {"a": torch.tensor([4.0])}], [2, 1])
    {'a': tensor([2.])}
    """
    if not states or len(states) != len(weights) or min(weights) <= 0:
        raise BadInput("averaging needs at least one client, and one positive weight for each")
    total = float(sum(weights))
    mean = {}
    for name, first in states[0].items():
        if first.is_complex():
            raise BadInput(f"{name} is complex; only real weights can be averaged")
        terms = (
            state[name].double() * (weight / total)
            for state, weight in zip(states, weights, strict=True)
        )
        summed = torch.stack(list(terms)).sum(dim=0)
        whole = not first.is_floating_point()
        mean[name] = (summed.round() if whole else summed).to(first.dtype)
    return mean


def server_step(
    before: Mapping[str, Tensor],
    mean: Mapping[str, Tensor],
    velocity: Mapping[str, Tensor],
    *,
    trained: frozenset[str],
    lr: float = 1.0,
    momentum: float = 0.0,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Move the global model: FedAvg, or with server momentum FedAvgM (Hsu et al., 2019).

    With D = mean of the clients' weights less those sent, ``v <- momentum v + D`` and
    ``theta <- theta + lr v``. At lr 1 without momentum that is the mean itself. What is not
    trained (buffers) is set to the mean.

    Args:
        before: weights that were sent.
        mean: `average_states` of those that came back.
        velocity: v of the round before; empty in the first.
        trained: names of the parameters.
        lr: server learning rate.
        momentum: server momentum, in [0, 1).

    Returns:
        The next global weights, and v.
    """
    if lr == 1.0 and momentum == 0.0:
        return dict(mean), {}
    after, moved = dict(mean), {}
    for name in trained:
        step = mean[name] - before[name]
        moved[name] = momentum * velocity[name] + step if name in velocity else step
        after[name] = before[name] + lr * moved[name]
    return after, moved


__all__ = ["average_states", "server_step"]
