"""Ranks are read off inner products of few rows as they are off the matrix itself."""

import pytest
import torch

from labelleak.core.observation import Observation
from labelleak.core.sample_checks import Ranks, _singular


def rank(samples, rows, columns, weakest, seed=0):
    made = torch.Generator().manual_seed(seed)
    strength = torch.logspace(0, weakest, samples, dtype=torch.float64)
    errors = torch.randn(rows, samples, generator=made, dtype=torch.float64)
    errors = errors - errors.mean(dim=0)  # as a softmax's, they sum to 0
    return errors, (errors * strength) @ torch.randn(samples, columns, generator=made).double()


@pytest.mark.parametrize("shape", [(10, 500), (500, 10), (7, 7)])
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e9])
def test_singular_values_are_those_of_the_matrix(shape, size):
    _, matrix = rank(4, *shape, -3.5)
    found = torch.stack([matrix * size, torch.zeros(shape).double()])
    ways, sizes = _singular(found)
    wanted = torch.linalg.svdvals(found)
    scale = wanted[0, 0]
    assert torch.allclose(sizes / scale, wanted / scale, atol=1e-7)
    assert (sizes[:, :-1] >= sizes[:, 1:]).all()
    kept = ways[0, :, :4]  # the weakest of four is 1e-3.5 of the first
    assert torch.allclose(kept.T @ kept, torch.eye(4).double(), atol=1e-9)
    left = found[0] - kept @ (kept.T @ found[0])
    assert float(left.norm()) < 1e-6 * float(found[0].norm())


@pytest.mark.parametrize("samples", [1, 3, 6])
def test_as_many_samples_are_shown_as_there_are(samples):
    errors, weight = rank(samples, 10, 64, -0.2)
    seen = Observation.from_gradient(weight / 64, errors.sum(dim=1) / 64, num_samples=samples)
    found = Ranks.of(seen)
    assert float(found.least) == samples
    assert float(found.shown) == samples
