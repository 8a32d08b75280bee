"""RLG: exact sets where its assumption holds, a note where it does not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from labelleak.attacks import rlg
from labelleak.attacks.rlg import CUT_SHORT, RANK_EXCEEDED, RLG, separable_rows
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge
from labelleak.core.observation import Observation

seeds = st.integers(0, 2**32 - 1)


def errors(rng, labels, classes, scale):
    rows = softmax(scale * rng.standard_normal((len(labels), classes)), axis=1)
    rows[np.arange(len(labels)), labels] -= 1
    return rows


def attack(weight, total, **options):
    weight = torch.from_numpy(np.asarray(weight))
    ready = prepare(RLG(**options), Knowledge(), weight.shape[-2], np.random.default_rng(0))
    return ready(Observation.from_gradient(weight, num_samples=total))


def seen(found):
    """The classes taken as present are those that score at least 1."""
    return np.flatnonzero(found.scores >= 1)


@settings(max_examples=50)
@given(seeds, st.integers(5, 14), st.integers(5, 20), st.sampled_from([0.1, 1.0, 3.0]), st.data())
def test_the_set_of_distinct_labels_is_exact(seed, classes, features, scale, draw):
    """Inputs of any sign, posteriors near uniform or far from it."""
    size = draw.draw(st.integers(1, min(classes - 2, features - 1)))
    rng = np.random.default_rng(seed)
    labels = rng.permutation(classes)[:size]
    # Orthonormal inputs: random ones can be so nearly dependent that no double can tell.
    inputs = np.linalg.qr(rng.standard_normal((features, size)))[0].T
    found = attack(errors(rng, labels, classes, scale).T @ inputs / size, size)
    assert seen(found).tolist() == np.sort(labels).tolist()
    assert found.counts.tolist() == np.bincount(labels, minlength=classes).tolist()
    assert found.notes == ()


@settings(max_examples=50)
@given(seeds, st.integers(6, 14), st.data())
def test_no_present_class_is_missed_when_labels_repeat(seed, classes, draw):
    size = draw.draw(st.integers(2, classes - 1))
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=size)
    inputs = np.linalg.qr(rng.standard_normal((classes + 3, size)))[0].T
    found = attack(errors(rng, labels, classes, 0.5).T @ inputs / size, size)
    assert set(labels) <= set(seen(found))


@settings(max_examples=50)
@given(seeds, st.integers(3, 10), st.data())
def test_certificates_agree_with_linear_programs(seed, classes, draw):
    size = draw.draw(st.integers(1, classes - 1))
    rng = np.random.default_rng(seed)
    rows = errors(rng, rng.integers(classes, size=size), classes, 1.0)
    basis = np.linalg.qr(rows.T)[0]
    marks, cut = separable_rows(basis, 10**9)
    by_programs = [rlg._is_separable(basis, row) for row in range(classes)]
    assert not cut
    assert marks.tolist() == by_programs


@pytest.mark.parametrize(("size", "features"), [(6, 20), (7, 20), (4, 4), (5, 4)])
def test_too_many_samples_are_noted(size, features):
    rng = np.random.default_rng(0)
    weight = errors(rng, rng.integers(6, size=size), 6, 0.5).T @ rng.random((size, features))
    assert RANK_EXCEEDED in attack(weight, size).notes


def test_a_thousand_classes_need_hardly_a_program(monkeypatch):
    programs = []
    monkeypatch.setattr(rlg, "_is_separable", lambda *_: programs.append(1) or False)
    rng = np.random.default_rng(0)
    labels = rng.integers(1000, size=64)
    weight = errors(rng, labels, 1000, 0.3).T @ rng.random((64, 256)) / 64
    assert set(seen(attack(weight, 64))) == set(labels)
    assert len(programs) < 10


def test_spent_effort_is_noted_and_the_longest_are_taken():
    rng = np.random.default_rng(0)
    labels = np.arange(8)
    inputs = np.linalg.qr(rng.standard_normal((20, 8)))[0].T
    weight = errors(rng, labels, 12, 3.0).T @ inputs / 8
    found = attack(weight, 8, effort=0)
    assert CUT_SHORT in found.notes
    assert len(seen(found)) <= 8
    assert found.counts.sum() == 8


def test_more_labels_than_classes_go_to_the_longest_rows():
    inputs, labels = np.ones((6, 9)) + np.eye(6, 9), np.array([1, 1, 1, 1, 1, 4])
    weight = (np.full((6, 5), 0.2) - np.eye(5)[labels]).T @ inputs / 6
    assert attack(weight, 6).counts.tolist() == [0, 5, 0, 0, 1]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_an_update_of_zeros_spreads_labels_evenly(dtype):
    found = attack(np.zeros((3, 4, 5), dtype), 9)
    assert found.counts.tolist() == [[3, 2, 2, 2]] * 3


@pytest.mark.parametrize("classes", [2, 3])
def test_one_sample_of_few_classes(classes):
    rng = np.random.default_rng(0)
    weight = errors(rng, np.array([1]), classes, 0.3).T @ rng.standard_normal((1, 9))
    found = attack(weight, 1)
    assert found.counts.sum() == 1
    if classes > 2:  # with two, a row and its negative are alike
        assert found.counts[1] == 1


def test_head_inputs_that_nothing_excites_do_not_count():
    """Dead ReLUs lower the rank: present classes are missed, and the note says so."""
    classes, samples, alive = 30, 20, 12
    rng = np.random.default_rng(0)
    labels = rng.permutation(classes)[:samples]
    errors = rng.dirichlet(np.ones(classes), size=samples) - np.eye(classes)[labels]
    inputs = rng.random((samples, 40))
    for width, exceeded in ((40, False), (alive, True)):
        dead = inputs * (np.arange(40) < width)
        seen = Observation.from_gradient(errors.T @ dead / samples, num_samples=samples)
        ready = prepare(RLG(), Knowledge(), classes, np.random.default_rng(0))
        found = ready(seen)
        assert (RANK_EXCEEDED in found.notes) is exceeded
        missed = (found.scores[labels] < 1).sum()
        assert bool(missed) is exceeded


def test_rows_are_settled_alike_in_blocks(monkeypatch):
    rng = np.random.default_rng(4)
    rows, _ = np.linalg.qr(errors(rng, [0, 0, 3, 5, 7], 11, 2.0).T)
    whole, cut = separable_rows(rows, 10**9)
    assert whole.any()
    assert not whole.all()
    monkeypatch.setattr(rlg, "_ENTRIES", 30)
    again, still = separable_rows(rows, 10**9)
    assert (again == whole).all()
    assert cut == still
