"""The public code's rules: that they do what was found in them, and no more."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from labelleak.core.update import SharedTensors
from labelleak.defenses import HistoricalCompression, HistoricalDP


def make_update(trials=2000, tensors=8, classes=10):
    """Eight tensors, the head's weight the seventh, rows of random size that sum to zero."""
    generator = torch.Generator().manual_seed(0)
    named = {f"body{k}.weight": torch.ones(trials, 3, 3) for k in range(tensors - 2)}
    head = torch.randn(trials, classes, 5, generator=generator)
    named["head.weight"] = head - head.mean(dim=1, keepdim=True)
    named["head.bias"] = torch.ones(trials, classes)
    return SharedTensors(named, "head")


@pytest.mark.parametrize("quantile", [0.2, 0.4, 0.8])
def test_the_head_is_wiped_in_about_a_quantiles_share_of_updates(quantile):
    update = make_update()
    sent, _ = HistoricalCompression(quantile).apply(update, np.random.default_rng(0))
    wiped = (sent.tensors["head.weight"].flatten(1).abs().sum(dim=1) == 0).double().mean()
    assert float(wiped) == pytest.approx(quantile, abs=0.03)
    kept = sent.tensors["head.weight"].flatten(1).abs().sum(dim=1) > 0
    before = update.tensors["head.weight"]
    assert torch.equal(sent.tensors["head.weight"][kept], before[kept]), "all or nothing"


def test_the_rule_by_hand():
    weight = torch.tensor([[[9.0], [-1.0], [-8.0]]])
    ones = torch.ones(1, 3)
    named = {"a": ones, "head.weight": weight, "head.bias": ones, "z": ones}
    sent, _ = HistoricalCompression(0.5).apply(
        SharedTensors(named, "head"), np.random.default_rng(0)
    )
    left = [bool(tensor.any()) for tensor in sent.tensors.values()]
    assert left == [True, False, True, True], "class 1 is small, so the tensor at place 1 goes"


@pytest.mark.parametrize("bound", [1.0, 5.0, 10.0])
def test_the_noise_is_the_same_for_every_bound(bound):
    update = make_update(trials=300)
    rng = np.random.default_rng(1)
    clean, _ = HistoricalDP(bound, 0.0).apply(update, rng)
    noised, _ = HistoricalDP(bound, 0.1).apply(update, rng)
    added = noised.tensors["head.weight"] - clean.tensors["head.weight"]
    assert float(added.std()) == pytest.approx(0.1, rel=0.03)
    for name, tensor in clean.tensors.items():
        norms = tensor.flatten(1).norm(dim=1)
        whole = update.tensors[name].flatten(1).norm(dim=1)
        torch.testing.assert_close(norms, whole.clamp_max(bound))
