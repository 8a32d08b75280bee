"""Nearest mixtures against a general solver, and where there is none to find."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from labelleak.core.mixtures import mixture_shares


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.integers(1, 12))
def test_shares_are_the_nearest_mixture(seed, classes, dimensions):
    rng = np.random.default_rng(seed)
    columns, g = rng.standard_normal((classes, dimensions)), rng.standard_normal(dimensions)
    shares = mixture_shares(columns @ columns.T, columns @ g, g @ g)
    assert (shares >= 0).all()
    assert shares.sum() == pytest.approx(1)

    def misfit(x):
        return float(np.square(x @ columns - g).sum())

    slow = minimize(
        misfit,
        np.full(classes, 1 / classes),
        method="SLSQP",
        bounds=[(0, 1)] * classes,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
        options={"maxiter": 500, "ftol": 1e-12},
    )
    assert misfit(shares) <= slow.fun + 1e-6


def test_shares_of_columns_that_are_all_alike_are_even():
    same = np.ones((3, 3))
    assert np.allclose(mixture_shares(same, np.ones(3), np.asarray(1.0)), 1 / 3)


def test_nnls_that_gives_up_is_answered_all_the_same(monkeypatch):
    def give_up(*_):
        raise RuntimeError

    monkeypatch.setattr(scipy.optimize, "nnls", give_up)
    shares = mixture_shares(np.eye(3), np.array([0.6, 0.3, 0.1]), np.asarray(0.46))
    assert np.allclose(shares, [0.6, 0.3, 0.1])
