"""Figures of an observation are worked out once, and none but the observation's own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from labelleak.core import entries, limits
from labelleak.core.observation import Observation
from labelleak.core.once import once_each


def seen(scale=1.0):
    errors = torch.tensor([[-0.6, 0.4, 0.2], [0.3, -0.5, 0.2]]) * scale
    return Observation(errors[:, :, None] * torch.tensor([1.0, 2.0]), errors, num_samples=4)


def test_a_figure_is_worked_out_once_and_cannot_be_written_to():
    asked = []

    @once_each
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
