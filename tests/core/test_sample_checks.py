"""Ranks are read off inner products of few rows as they are off the matrix itself."""

import numpy as np
import pytest
import torch

from labelleak.core import sample_checks
from labelleak.core.directions import (
    all_axes,
    evened,
    inner_products,
    is_worth,
    leading_axes,
    lefts,
    squared_lengths,
)
from labelleak.core.observation import Observation
from labelleak.core.sample_checks import Ranks


def rank(samples, rows, columns, weakest, seed=0):
    made = torch.Generator().manual_seed(seed)
    strength = torch.logspace(0, weakest, samples, dtype=torch.float64)
    errors = torch.randn(rows, samples, generator=made, dtype=torch.float64)
    errors = errors - errors.mean(dim=0)  # as a softmax's, they sum to 0
    return errors, (errors * strength) @ torch.randn(samples, columns, generator=made).double()


@pytest.mark.parametrize("shape", [(10, 500), (500, 10), (7, 7), (60, 90), (90, 60)])
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e9])
def test_singular_values_are_those_of_the_matrix(shape, size):
    _, matrix = rank(4, *shape, -3.5)
    found = torch.stack([matrix * size, torch.zeros(shape).double()])
    even = evened(found, found.abs().amax(dim=(1, 2)))
    inner = inner_products(even)
    wanted = torch.linalg.svdvals(found)
    ways = [all_axes(inner, 4)]
    if is_worth(inner, 4):
        *leading, rest = leading_axes(inner, 4)
        ways.append(leading)
        assert float(rest.max()) < 1e-10
    assert len(ways) == 1 + (min(shape) == 60)
    for powers, axes in ways:
        sizes = powers.sqrt() * found.abs().amax(dim=(1, 2))[:, None]
        assert torch.allclose(sizes / wanted[0, 0], wanted / wanted[0, 0], atol=1e-7)
        kept = lefts(even, axes)[0]  # the weakest of four is 1e-3.5 of the first
        assert torch.allclose(kept.T @ kept, torch.eye(4).double(), atol=1e-9)
        left = found[0] - kept @ (kept.T @ found[0])
        assert float(left.norm()) < 1e-6 * float(found[0].norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_lengths_of_rows_and_columns_are_those_of_the_matrix(shape, size, dtype):
    matrix = (rank(4, *shape, -1.0)[1][None] * size).to(dtype)
    even = evened(matrix, matrix.abs().double().amax(dim=(1, 2)))
    rows, columns = squared_lengths(even, inner_products(even))
    wide = matrix.double()
    scale = float((even / wide).abs().amax())
    for found, dim in ((rows, -1), (columns, -2)):
        assert np.allclose(np.sqrt(found), wide.norm(dim=dim) * scale, rtol=1e-9, atol=0)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_ranks_in_single_precision_are_those_of_any_size(size):
    errors, weight = rank(4, 30, 50, -0.5)
    told = {"num_samples": 4}
    one, other = (
        Ranks.of(Observation.from_gradient((weight * by).float(), errors.sum(dim=1) / 64, **told))
        for by in (1 / 64, size)
    )
    assert float(one.shown) == float(other.shown) == 4
    assert float(one.apart) == pytest.approx(float(other.apart), abs=1e-6)


@pytest.mark.parametrize("samples", [1, 3, 6])
def test_as_many_samples_are_shown_as_there_are(samples):
    errors, weight = rank(samples, 10, 64, -0.2)
    seen = Observation.from_gradient(weight / 64, errors.sum(dim=1) / 64, num_samples=samples)
    found = Ranks.of(seen)
    assert float(found.least) == samples
    assert float(found.shown) == samples


def updates(rows, columns, told):
    """Make updates of all kinds: of fewer and more samples than told, noised, faint, of nothing."""
    weights, biases = [], []
    for place, (samples, weakest, noise) in enumerate(
        [
            *((told, -0.3, 0.0), (told - 1, -0.3, 0.0), (told + 1, -0.3, 0.0)),
            *((told + 4, -0.3, 0.0), (3 * told, -0.3, 0.0), (told, -3.6, 0.0), (told, -4.4, 0.0)),
            *((told, -1.0, 1e-6), (told, -1.0, 1e-4), (told, -1.0, 0.05), (1, 0.0, 0.0)),
        ]
    ):
        errors, weight = rank(samples, rows, columns, weakest, seed=place)
        made = torch.Generator().manual_seed(place)
        weights.append(weight + noise * torch.randn(weight.shape, generator=made).double())
        biases.append(errors.sum(dim=1) if place % 3 else torch.randn(rows, generator=made))
        biases[-1] = biases[-1].double() - biases[-1].mean()
    weights.append(torch.zeros(rows, columns).double())
    biases.append(torch.zeros(rows).double())
    return torch.stack(weights) / 64, torch.stack(biases) / 64


@pytest.mark.parametrize("shape", [(40, 70), (70, 40), (24, 30), (9, 60)])
def test_many_updates_show_the_ranks_that_each_shows_by_its_singular_values(shape, monkeypatch):
    weights, biases = updates(*shape, 6)
    found = Ranks.of(Observation.from_gradient(weights, biases, num_samples=6))
    monkeypatch.setattr(sample_checks, "is_worth", lambda *_: False)
    monkeypatch.setattr(sample_checks, "all_axes", by_svd(weights))
    for place, pair in enumerate(zip(weights, biases, strict=True)):
        one = Ranks.of(Observation.from_gradient(*pair, num_samples=6))
        assert float(one.least) == found.least[place]
        assert float(one.shown) == found.shown[place]
        assert float(one.apart) == pytest.approx(found.apart[place], abs=1e-5)
        assert float(one.apart) < 1e-3 or float(one.apart) == pytest.approx(found.apart[place])
    assert len({*found.shown}) > 3
    assert (found.apart > 0.01).any()


def by_svd(weights):
    """Take axes from the singular values of the matrix whose inner products are asked about."""

    def axes(inner, number):
        products = inner_products(evened(weights, weights.abs().amax(dim=(1, 2))))
        own = (products - inner).abs().amax(dim=(1, 2)).argmin()
        matrix = weights[own : own + 1]
        scale = matrix.abs().amax().clamp_min(1e-300)
        ways, sizes, back = torch.linalg.svd(matrix / scale, full_matrices=False)
        few = matrix.shape[-2] > matrix.shape[-1]
        return sizes.square(), (back.mT if few else ways)[..., :number]

    return axes


def test_trials_in_blocks_and_of_several_dimensions_are_each_as_alone(monkeypatch):
    weights, biases = updates(30, 50, 5)
    found = Ranks.of(Observation.from_gradient(weights, biases, num_samples=5))
    monkeypatch.setattr(sample_checks, "_BLOCK", 1)
    shaped = [part.reshape(3, 4, *part.shape[1:]) for part in (weights, biases)]
    again = Ranks.of(Observation.from_gradient(*shaped, num_samples=5))
    for name in ("least", "shown", "apart"):
        one, other = getattr(found, name), getattr(again, name)
        assert other.shape == (3, 4)
        assert np.allclose(one, other.ravel(), atol=1e-9)


def test_of_noise_no_axes_are_found_but_all_singular_values(monkeypatch):
    made = torch.Generator().manual_seed(0)
    weights, biases = (torch.randn(9, 40, *width, generator=made).double() for width in ((70,), ()))
    asked, looked = [], sample_checks.all_axes
    monkeypatch.setattr(
        sample_checks, "all_axes", lambda *given: asked.append(len(given[0])) or looked(*given)
    )
    noise = Ranks.of(Observation.from_gradient(weights, biases, num_samples=6))
    assert not asked
    assert (noise.apart == 0).all()
    errors, weight = rank(6, 40, 70, -0.3)
    weights[4], biases[4] = weight, errors.sum(dim=1)  # one among them is of as many as told
    weights[5], biases[5] = rank(6, 40, 70, -3.7)[1], biases[5] - biases[5].mean()
    found = Ranks.of(Observation.from_gradient(weights, biases, num_samples=6))
    assert sum(asked) <= 2
    assert found.shown.tolist() == [np.inf] * 4 + [6, 6] + [np.inf] * 3
    assert (found.apart > 0.01).tolist() == [False] * 5 + [True] + [False] * 3


def test_where_more_is_left_than_anybody_asks_for_nothing_is_looked_for():
    inner = torch.eye(60).double()[None].repeat(3, 1, 1)
    powers, _, rest = leading_axes(inner, 4, 0.1)
    assert not powers.any()
    assert (rest > 0.1 * 60).all()
    assert leading_axes(inner, 4)[0].any()


def test_a_bias_that_a_span_seems_to_leave_is_held_against_the_axes_themselves(monkeypatch):
    errors, weight = rank(6, 40, 70, -0.3)
    seen = Observation.from_gradient(weight / 64, errors.sum(dim=1) / 64, num_samples=6)
    assert float(Ranks.of(seen).apart) < 1e-6
    leading, turn = sample_checks.leading_axes, torch.linalg.qr(torch.randn(40, 40).double())[0]

    def missed(*given):
        powers, axes, rest = leading(*given)
        return powers, turn @ axes, rest

    monkeypatch.setattr(sample_checks, "leading_axes", missed)
    assert float(Ranks.of(seen).apart) < 1e-6
    monkeypatch.setattr(sample_checks, "_LITTLE", 2.0)
    assert float(Ranks.of(seen).apart) > 0.1
