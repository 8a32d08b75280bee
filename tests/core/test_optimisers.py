"""Optimisers without torch's outer layers take the steps of torch's own."""

from functools import partial

import pytest
import torch

from labelleak.core.optimisers import uncompiled


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        (torch.optim.Adam, {"weight_decay": 0.1}),
        (torch.optim.AdamW, {"fused": True}),
        (torch.optim.RMSprop, {"momentum": 0.5}),
        (torch.optim.LBFGS, {"line_search_fn": "strong_wolfe"}),
    ],
)
def test_steps_are_torchs_own_down_to_the_last_bit(kind, options):
    ends = []
    for make in (kind, uncompiled(kind)):
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 7))
        optimiser = make([weight], lr=0.1, **options)
        for _ in range(3):
            optimiser.step(partial(slope, optimiser, weight))
        assert isinstance(optimiser, kind)
        assert type(optimiser).__name__ == kind.__name__
        ends.append(weight.detach())
    assert torch.equal(*ends)
    assert not torch.equal(ends[0], torch.linspace(-1, 1, 7))


def slope(optimiser, weight):
    optimiser.zero_grad()
    with torch.enable_grad():
        loss = (weight**4).sum() + weight[0] * weight[1]
    torch.autograd.backward(loss)
    return loss


def test_a_pace_may_be_set_for_it():
    weight = torch.nn.Parameter(torch.ones(2))
    optimiser = uncompiled(torch.optim.AdamW)([weight], lr=0.1)
    pace = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=4)
    started = pace.get_last_lr()
    weight.grad = torch.ones(2)
    optimiser.step()
    pace.step()
    assert pace.get_last_lr() != started
