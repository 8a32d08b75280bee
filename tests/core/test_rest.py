"""Gradients that are computed when they are read."""

import pytest
import torch

from labelleak.core.rest import LazyGradients


def test_names_cost_nothing_and_values_one_computation():
    calls = []

    def make():
        calls.append(1)
        return {"a": torch.ones(2), "b": torch.zeros(3)}

    later = LazyGradients(("a", "b"), make)
    assert list(later) == ["a", "b"]
    assert len(later) == 2
    assert "c" not in later
    with pytest.raises(KeyError):
        later["c"]
    assert not calls
    assert torch.equal(later["a"], torch.ones(2))
    assert torch.equal(later["b"], torch.zeros(3))
    assert len(calls) == 1
