"""Flower's own defenses: that ours do what Flower's code does, and what is proved of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from labelleak.core.update import SharedTensors
from labelleak.defenses import AdaptiveClipping, LocalDP, ServerClipping, parse_defense
from labelleak.defenses.accounting import account, gaussian_epsilon


def update(rows):
    return SharedTensors({"weight": torch.tensor(rows)[:, None, :]}, "")


def apply(defense, given, memory=None):
    return defense.apply(given, np.random.default_rng(0), memory)


def test_local_dp_is_accounted_by_its_noise_and_not_by_its_name():
    part = LocalDP(norm=2.0, sensitivity=1.0, epsilon=5.0)
    found = account(parse_defense(part.label), rounds=3)
    assert found.epsilon == pytest.approx(gaussian_epsilon(part.sigma / 2.0, 1e-5, 3))
    assert found.epsilon > 3 * 5.0, "half the sensitivity that the norm allows"
    assert "epsilon 5 at delta 1e-05" in found.sentence
    clipped = account(parse_defense("clip:0.5|local_dp:2:1:5"))
    assert clipped.epsilon == pytest.approx(gaussian_epsilon(part.sigma / 0.5, 1e-5))
    assert account(parse_defense("local_dp:1:0:5")).epsilon is None


def test_the_bound_runs_away_from_what_was_wanted():
    clip, memory, norms = AdaptiveClipping(1.0, 0.5, 0.2), None, []
    for _ in range(3):
        sent, memory = apply(clip, update([[3.0, 4.0], [0.3, 0.4]]), memory)
        norms.append(sent.norms().tolist())
    assert [one[0] for one in norms] == pytest.approx([1.0, np.exp(-0.1), np.exp(-0.2)])
    assert [one[1] for one in norms] == pytest.approx([0.5] * 3)
    assert memory.residual["bound"][1] == pytest.approx(np.exp(0.3))


def test_clipping_at_the_server_changes_what_it_uses_and_not_what_it_saw():
    part, given = ServerClipping(1.0), update([[3.0, 4.0]])
    seen, memory = apply(part, given)
    assert torch.equal(seen.tensors["weight"], given.tensors["weight"])
    assert memory is None
    used, _ = part.on_update(given, np.random.default_rng(0))
    assert used.norms().tolist() == pytest.approx([1.0])


@pytest.mark.parametrize("text", ["adaptive_clip:1", "clip:1|server_clip:1", "server_clip:1"])
def test_clipping_that_adapts_proves_nothing(text):
    assert account(parse_defense(text)).epsilon is None
    assert account(parse_defense("adaptive_clip:1|gaussian:1")).epsilon is None
