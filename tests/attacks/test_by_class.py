"""Samples by class: averages, and picks that do not depend on what a class is called."""

import numpy as np
import torch

from labelleak.attacks.by_class import averages, pick, pools


def test_a_class_is_averaged_over_its_own_samples_and_an_absent_one_over_all():
    labels, rows = torch.tensor([2, 0, 2]), torch.tensor([[1.0], [5.0], [3.0]]).double()
    assert (averages(labels, 3) @ rows)[:, 0].tolist() == [5.0, 3.0, 2.0]


def test_an_absent_class_draws_from_all_samples():
    assert [own.tolist() for own in pools(np.array([1, 1, 0]), 3)] == [[2], [0, 1], [0, 1, 2]]


def test_renamed_classes_are_given_the_same_samples():
    rng = np.random.default_rng(0)
    labels, draws, order = rng.integers(4, size=60), rng.random((5, 3)), np.array([2, 0, 3, 1])
    found = pick(pools(labels, 4), draws)
    renamed = pick(pools(order[labels], 4), draws)
    assert found.shape == (5, 4, 3)
    assert np.array_equal(found, renamed[:, order])
    assert all((labels[found[:, label]] == label).all() for label in range(4))
