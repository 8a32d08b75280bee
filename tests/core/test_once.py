"""Figures of an observation are worked out once, and none but the observation's own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from labelleak.core import entries, limits, row_groups
from labelleak.core.observation import Observation
from labelleak.core.once import once
from labelleak.core.training import LocalTraining


def seen(scale=1.0):
    errors = torch.tensor([[-0.6, 0.4, 0.2], [0.3, -0.5, 0.2]]) * scale
    return Observation(errors[:, :, None] * torch.tensor([1.0, 2.0]), errors, num_samples=4)


def test_a_figure_is_worked_out_once_and_cannot_be_written_to():
    asked = []

    @once
    def largest(observation):
        asked.append(1)
        return np.abs(observation.bias_gradient).max(axis=-1), "told"

    one, other = seen(), seen(2.0)
    assert largest(one) is largest(one)
    assert largest(other)[0] == pytest.approx(2 * largest(one)[0])
    assert len(asked) == 2
    with pytest.raises(ValueError, match="read-only"):
        largest(one)[0][0] = 1
    changed = replace(one, bias=2 * one.bias)
    assert largest(changed)[0] == pytest.approx(2 * largest(one)[0])


def test_checks_of_one_update_look_at_its_entries_once(monkeypatch):
    asked, plain = [], entries.distinct_share
    monkeypatch.setattr(entries, "distinct_share", lambda e: asked.append(1) or plain(e))
    observation = seen()
    first = limits.check_limits(observation)
    again = limits.check_limits(observation)
    assert len(asked) == 1
    assert (first.scale == again.scale).all()
    assert limits.is_clean(observation).all()
    noised = replace(observation, weight=observation.weight + torch.tensor([0.3, 0.1]))
    assert not limits.is_clean(noised).any()


def test_what_was_told_beside_is_held_by_the_very_object():
    asked = []

    @once
    def scaled(observation, factors):
        asked.append(factors)
        return factors[0] * observation.bias_gradient

    one, other, factors = seen(), seen(2.0), [2.0]
    assert scaled(one, factors) is scaled(one, factors)
    assert (scaled(other, factors) == 2 * scaled(one, factors)).all()
    assert (scaled(one, [3.0]) == 1.5 * scaled(one, factors)).all()
    assert scaled(one, [2.0]) is not scaled(one, factors)  # equal, and told by another
    assert len(asked) == 6


def test_limits_of_an_update_are_checked_once_and_anew_for_all_that_may_change(monkeypatch):
    asked, plain = [], limits.why_not_judged
    monkeypatch.setattr(limits, "why_not_judged", lambda *a: asked.append(1) or plain(*a))
    one = Observation.from_gradient(None, torch.tensor([-0.5, 0.25, 0.25]).double(), num_samples=4)
    told = LocalTraining(lr=0.1, local_steps=1)
    first = limits.check_limits(one, told)
    assert limits.check_limits(one, told) is first
    assert len(asked) == 1
    for part in (first.times, first.scale, first.sign, first.negative, first.needed):
        assert not (isinstance(part, np.ndarray) and part.flags.writeable)
    adam = limits.check_limits(one, LocalTraining(lr=0.1, local_steps=1, optimiser="adam"))
    assert "adam" in adam.why
    assert limits.check_limits(one, told).why == first.why
    large = limits.check_limits(replace(one, bias=32 * one.bias), told)
    assert large.scale.all()
    assert not first.scale.any()
    assert limits.check_limits(replace(one, largest=np.inf), told).why != first.why


def test_columns_are_mixed_alike_in_every_check_and_by_their_number():
    one = row_groups._mixture(7)
    assert row_groups._mixture(7) is one
    made = torch.Generator().manual_seed(0)
    drawn = torch.randn(7, 4, generator=made, dtype=torch.float64) / 7**0.5
    assert torch.equal(one.T, drawn)
    assert row_groups._mixture(8).shape == (4, 8)
    before = one.clone()
    for kind in (torch.float32, torch.float64):
        weight = torch.randn(6, 7, dtype=kind)
        assert not row_groups.in_groups(Observation(weight, weight.sum(1), num_samples=4))
    assert torch.equal(one, before)
