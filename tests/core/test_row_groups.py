"""Several softmaxes in one head are seen, and one is never taken for several."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labelleak.core.assumptions import check_update
from labelleak.core.knowledge import Knowledge
from labelleak.core.observation import Observation
from labelleak.core.row_groups import _consecutive, _interleaved, in_groups


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


def slow(seen, room):
    """Look through one trial's groupings one by one: the naive twin."""
    rows = len(seen)
    groupings = [np.arange(rows) % n for n in range(2, rows // 2 + 1) if rows % n == 0]
    allowed = 1e-5 * np.linalg.norm(seen, axis=0) + room * np.sqrt(rows)
    ends = [end for end in range(rows - 1) if (abs(seen[: end + 1].sum(0)) <= allowed).all()]
    groupings += [(np.arange(rows) > end).astype(int) for end in ends[:64]]
    whole = np.linalg.norm(seen, axis=0)
    for group in groupings:
        parts = [seen[group == one] for one in range(group.max() + 1)]
        sizes = np.array([np.linalg.norm(part, axis=0) for part in parts])
        left = np.array([abs(part.sum(0)) for part in parts])
        root = np.sqrt([len(part) for part in parts])[:, None]
        allowed = 1e-5 * sizes + room * root
        near = (left <= allowed).all() and (allowed <= 0.003 * whole).all()
        if near and (sizes >= 0.02 * whole).all(axis=1).sum() >= 2:
            return True
    return False


def test_many_trials_are_looked_at_as_each_is_one_by_one():
    rng = np.random.default_rng(0)
    trials, rows = [], 12
    for kind in range(60):
        seen = rng.standard_normal((rows, 3))
        parts = ([range(rows)], [range(5), range(5, rows)], [range(n, rows, 3) for n in range(3)])
        for part in parts[kind % 3]:
            seen[list(part)] -= seen[list(part)].mean(axis=0)
        apart = 1e-6 * (kind % 4) * rng.standard_normal()
        trials.append(seen * (1e-3 if kind % 5 else 1.0) + apart)
    seen = np.array(trials)
    room = np.where(np.arange(60) % 2, 0.0, 2e-6)
    together = _interleaved(seen, room) | _consecutive(seen, room)
    assert together.tolist() == [slow(*one) for one in zip(seen, room, strict=True)]
    assert 5 < together.sum() < 55
