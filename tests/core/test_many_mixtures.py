"""Mixtures of many vectors at once against scipy's, one by one; what is not certain is said."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelleak.attacks.inverse_confusions import Confusions
from labelleak.core import many_mixtures as pivoting
from labelleak.core.many_mixtures import TOGETHER, many_mixtures
from labelleak.core.mixtures import mixture_shares, shortest_mixture


def one_by_one(columns, vectors):
    """Let scipy solve each: the naive twin."""
    return np.array([shortest_mixture((columns - one).T) for one in vectors])


def seen(columns, vectors):
    return columns @ columns.T, vectors @ columns.T, np.square(vectors).sum(axis=-1)


def batches(rng, columns, trials, noise):
    """Make mixtures of a few of the columns, with noise."""
    classes = len(columns)
    shares = rng.multinomial(6, rng.dirichlet(np.full(classes, 0.5), size=trials)) / 6
    return shares @ columns + noise * rng.standard_normal((trials, columns.shape[1]))


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 30),
    st.sampled_from([0.0, 0.1, 1.0, 30.0]),
    st.sampled_from([1e-9, 1.0, 1e9]),
)
def test_many_at_once_are_as_scipy_has_them_one_by_one(seed, classes, noise, size):
    rng = np.random.default_rng(seed)
    columns = rng.standard_normal((classes, 3 * classes))
    vectors = batches(rng, columns, 12, noise)
    gram, onto, _ = seen(columns * size, vectors * size)
    shares, certain = many_mixtures(gram, onto)
    assert certain.all()
    assert (shares >= 0).all()
    assert np.allclose(shares.sum(axis=-1), 1)
    assert np.allclose(shares, one_by_one(columns, vectors), atol=1e-8)


def dependent(rng, kind):
    """Make columns of which more than one mixture may be nearest, or nearly so."""
    columns = rng.standard_normal((12, 40))
    if kind == "twins":
        columns[7] = columns[3]
    elif kind == "few dimensions":
        columns = columns[:, :5]
    elif kind == "one line":
        columns = np.outer(np.linspace(-1, 1, 12), columns[0])
    elif kind == "all alike":
        columns[:] = columns[0]
    elif kind == "nothing":
        columns[:] = 0
    elif kind == "nearly twins":
        columns[7] = columns[3] + 1e-7 * columns[7]
    elif kind == "in the hull of others":
        columns[7] = (columns[3] + columns[4]) / 2
    elif kind == "of all sizes":
        columns *= np.logspace(0, -7, 12)[:, None]
    return columns


KINDS = (
    *("twins", "few dimensions", "one line", "all alike", "nothing", "nearly twins"),
    *("in the hull of others", "of all sizes"),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_dependent_columns_are_left_to_scipy(kind, noise):
    rng = np.random.default_rng(0)
    columns = dependent(rng, kind)
    vectors = batches(rng, columns, 8, noise)
    gram, onto, size = seen(columns, vectors)
    shares, certain = many_mixtures(gram, onto)
    assert np.allclose(shares[certain], one_by_one(columns, vectors)[certain], atol=1e-8)
    if kind != "of all sizes":
        assert not certain.any()
    together = mixture_shares(gram, onto, size)
    alone = [mixture_shares(gram, *one) for one in zip(onto, size, strict=True)]
    assert np.allclose(together, alone, atol=1e-8)


def test_a_vector_that_lies_on_a_face_or_at_a_corner_is_met():
    columns = np.vstack([np.eye(4), -np.eye(4)])
    vectors = np.vstack([columns[:2], np.full((2, 4), 0.25), 5 * np.eye(4), np.zeros((1, 4))])
    lifted = columns @ columns.T + 1e-3 * np.eye(8)  # some mixtures alone: no twins
    shares, certain = many_mixtures(lifted, vectors @ columns.T)
    assert certain.all()
    roots = np.linalg.cholesky(lifted)
    onto = np.linalg.solve(roots, columns @ vectors.T).T
    assert np.allclose(shares, one_by_one(roots, onto), atol=1e-8)


def test_the_equations_prove_each_answer():
    rng = np.random.default_rng(3)
    columns = rng.standard_normal((50, 90))
    gram, onto, _ = seen(columns, batches(rng, columns, 40, 0.3))
    shares, certain = many_mixtures(gram, onto)
    slope = shares @ gram - onto
    level = (shares * slope).sum(axis=-1, keepdims=True)
    assert certain.all()
    assert (slope - level > -1e-9).all()
    assert np.abs((slope - level) * (shares > 0)).max() < 1e-9


def test_pivoting_that_comes_to_no_end_and_what_is_no_number_are_left_to_others(monkeypatch):
    rng = np.random.default_rng(1)
    columns = rng.standard_normal((20, 60))
    vectors = batches(rng, columns, 6, 1.0)
    gram, onto, size = seen(columns, vectors)
    onto[2] = np.nan
    assert many_mixtures(gram, onto)[1].tolist() == [True, True, False, True, True, True]
    assert not many_mixtures(np.full((20, 20), np.nan), onto)[1].any()
    gram, onto, size = seen(columns, vectors)
    monkeypatch.setattr(pivoting, "_MOST", 1)
    assert not many_mixtures(gram, onto)[1].any()
    assert np.allclose(mixture_shares(gram, onto, size), one_by_one(columns, vectors), atol=1e-8)


@pytest.mark.parametrize("classes", [1, 2, 10])
@pytest.mark.parametrize("times", [1e8, 1e12, 1e16, 1e30])
def test_vectors_far_longer_than_the_columns_are_answered_together_as_alone(classes, times):
    rng = np.random.default_rng(7)
    columns = rng.standard_normal((classes, 20))
    gram, onto, size = seen(columns, times * rng.standard_normal((9, 20)))
    together = mixture_shares(gram, onto, size)
    alone = [mixture_shares(gram, *one) for one in zip(onto, size, strict=True)]
    assert np.allclose(together.sum(axis=-1), 1)
    assert np.allclose(together, alone, atol=1e-8)


def test_single_exchanges_end_where_those_of_all_go_in_circles(monkeypatch):
    rng = np.random.default_rng(2)
    columns = rng.standard_normal((25, 30))
    vectors = batches(rng, columns, 30, 2.0)
    monkeypatch.setattr(pivoting, "_TRIES", -1)
    monkeypatch.setattr(pivoting, "_MOST", 10_000)
    shares, certain = many_mixtures(*seen(columns, vectors)[:2])
    assert certain.all()
    assert np.allclose(shares, one_by_one(columns, vectors), atol=1e-8)


def test_systems_that_are_solved_in_parts_give_the_same(monkeypatch):
    rng = np.random.default_rng(4)
    columns = rng.standard_normal((15, 40))
    gram, onto, _ = seen(columns, batches(rng, columns, 20, 1.0))
    whole, _ = many_mixtures(gram, onto)
    monkeypatch.setattr(pivoting, "_HELD", 1)
    assert np.allclose(many_mixtures(gram, onto)[0], whole, atol=1e-12)


def test_trial_dimensions_are_kept_and_few_are_solved_as_before():
    rng = np.random.default_rng(5)
    columns = rng.standard_normal((6, 20))
    vectors = batches(rng, columns, 12, 1.0).reshape(3, 4, 20)
    gram, onto, size = seen(columns, vectors)
    shares = mixture_shares(gram, onto, size)
    for place in np.ndindex(3, 4):
        assert np.allclose(mixture_shares(gram, onto[place], size[place]), shares[place], atol=1e-8)
    few = mixture_shares(gram, onto[0, : TOGETHER - 1], size[0, : TOGETHER - 1])
    assert np.allclose(few, shares[0, : TOGETHER - 1], atol=1e-8)


@pytest.mark.parametrize("twins", [False, True])
def test_confusions_solve_many_signals_as_each(twins):
    rng = np.random.default_rng(6)
    rows = rng.dirichlet(np.full(9, 0.3), size=9) - np.eye(9)
    if twins:  # two classes leave the same
        rows[4] = rows[5]
    confusions = Confusions.of(rows)
    signals = rng.multinomial(4, np.full(9, 1 / 9), size=20) / 4 @ rows
    signals += 0.05 * rng.standard_normal(signals.shape)
    assert (confusions.plain_shares(signals) < -1e-7).any(axis=-1).sum() > TOGETHER
    each = [confusions.shares(one) for one in signals]
    assert np.allclose(confusions.shares(signals), each, atol=1e-8)
    assert np.allclose(confusions.shares(signals.reshape(4, 5, 9)).reshape(20, 9), each, atol=1e-8)


@pytest.mark.parametrize("classes", [3, 8, 31])
@pytest.mark.parametrize("noise", [0.0, 0.2, 3.0])
def test_what_is_solved_for_the_columns_left_out_is_as_solved_for_those_mixed(
    classes, noise, monkeypatch
):
    rng = np.random.default_rng(classes)
    columns = rng.standard_normal((classes, 3 * classes))
    gram, onto, _ = seen(columns, batches(rng, columns, 40, noise))
    sizes = []
    solve_on = pivoting._solve_on
    monkeypatch.setattr(
        pivoting,
        "_solve_on",
        lambda matrix, right, places: (
            sizes.append(int(places.sum())) or solve_on(matrix, right, places)
        ),
    )
    shares, certain = many_mixtures(gram, onto)
    work = sum(sizes)
    monkeypatch.setattr(pivoting, "_EVEN", np.inf)
    sizes.clear()
    wanted, sure = many_mixtures(gram, onto)
    assert work < sum(sizes)
    assert certain.all()
    assert sure.all()
    assert np.allclose(shares, wanted, atol=1e-12)
    assert noise == 0 or ((shares == 0) == (wanted == 0)).all()


def test_lengths_are_asked_for_only_where_vectors_are_solved_one_by_one():
    rng = np.random.default_rng(0)
    columns = rng.standard_normal((6, 20))
    gram, onto, size = seen(columns, batches(rng, columns, 8, 0.1))
    asked = []
    shares = mixture_shares(gram, onto, lambda: asked.append(1) or size)
    assert not asked
    alone = mixture_shares(gram, onto[0], lambda: asked.append(1) or size[0])
    assert asked
    assert np.allclose(shares[0], alone, atol=1e-8)
