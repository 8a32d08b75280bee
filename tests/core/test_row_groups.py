"""Several softmaxes in one head are seen, and one is never taken for several."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labelleak.core.assumptions import check_update
from labelleak.core.knowledge import Knowledge
from labelleak.core.observation import Observation
from labelleak.core.row_groups import in_groups


def gradient(parts, *, seed=0, learnt=0, dtype=torch.float32, bias=True):
    """Return the head's gradient where each part of the rows has a softmax of its own."""
    torch.manual_seed(seed)
    rows = sum(len(part) for part in parts)
    model = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, rows, bias=bias)).to(dtype)
    places = 2 * torch.randn(12, 10, dtype=dtype)
    way = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(learnt + 1):
        kinds = torch.randint(0, 12, (64,))
        logits = model(places[kinds] + torch.randn(64, 10, dtype=dtype))
        way.zero_grad()
        sum(F.cross_entropy(logits[:, part], kinds % len(part)) for part in parts).backward()
        if _ < learnt:
            way.step()
    head = model[2]
    return head.weight.grad, head.bias.grad if bias else None


def seen(parts, **how):
    return Observation.from_gradient(*gradient(parts, **how), num_samples=64)


SEVERAL = {
    "tasks": [range(3), range(3, 8)],
    "equal tasks": [range(3), range(3, 6), range(6, 9)],
    "pairs": [range(2), range(2, 4)],
    "pixel shuffle": [range(i, 12, 4) for i in range(4)],
    "blocks": [range(6), range(6, 12)],
}


@pytest.mark.parametrize("parts", SEVERAL.values(), ids=SEVERAL)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("learnt", [0, 60])
def test_several_softmaxes_in_one_head_are_seen(parts, bias, learnt):
    found = seen(parts, bias=bias, learnt=learnt)
    assert bool(in_groups(found))
    raised = {flag.name for flag in check_update(found, Knowledge()) if flag.raised.any()}
    assert "several_softmaxes" in raised


@pytest.mark.parametrize("rows", [4, 6, 12])
@pytest.mark.parametrize("learnt", [0, 200])
def test_one_softmax_is_never_taken_for_several(rows, learnt):
    for seed in range(5):
        for dtype in (torch.float32, torch.float64):
            weight, bias = gradient([range(rows)], seed=seed, learnt=learnt, dtype=dtype)
            assert not in_groups(Observation.from_gradient(weight, bias))
            moved = [1 - (1 - 0.01 * part) for part in (weight, bias)]  # rounded as weights are
            assert not in_groups(Observation.from_gradient(*moved))


def test_noise_hides_groups_and_a_group_that_is_still_is_none():
    weight, bias = gradient(SEVERAL["tasks"])
    noisy = weight + 0.1 * weight.std() * torch.randn_like(weight)
    assert not in_groups(Observation.from_gradient(noisy, bias))
    weight, bias = gradient([range(3), range(3, 8)])
    still = [part.clone() for part in (weight, bias)]
    for part in still:
        part[3:] = 0
    assert not in_groups(Observation.from_gradient(*still))
    both = (torch.stack(parts) for parts in zip((weight, bias), still, strict=True))
    assert in_groups(Observation.from_gradient(*both)).tolist() == [True, False]
