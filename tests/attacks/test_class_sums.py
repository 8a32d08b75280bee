"""Sums over classes in blocks of rows are those of the whole table."""

import numpy as np
import pytest
import torch

from labelleak.attacks import class_sums
from labelleak.attacks.class_sums import input_sums, ones, sum_posteriors
from labelleak.attacks.confusions import own_and_others
from labelleak.attacks.llg import calibrate
from labelleak.core.white_box import HeadPass
from naive import twins


def samples(seed, number=40, classes=6, *, absent=(4,)):
    """Return what samples show at a head, their labels, posteriors and sums of head inputs."""
    rng = np.random.default_rng(seed)
    inputs, logits = (torch.from_numpy(rng.random((number, k)) * 3) for k in (5, classes))
    labels = rng.choice(np.setdiff1d(np.arange(classes), absent), size=number)
    posteriors = logits.softmax(dim=-1).numpy()
    return HeadPass(inputs, logits, logits), labels, posteriors, inputs.sum(dim=1).numpy()


def parts(seen, size):
    """Cut a pass into parts of so many samples."""
    return (
        HeadPass(*(one[at : at + size] for one in (seen.inputs, seen.logits, seen.outputs)))
        for at in range(0, len(seen.inputs), size)
    )


@pytest.mark.parametrize("entries", [1, 7 * 6, 2**22])
def test_blocks_of_any_size_give_the_sums_of_the_whole(monkeypatch, entries):
    monkeypatch.setattr(class_sums, "_ENTRIES", entries)
    seen, labels, posteriors, sums = samples(0)
    for passes in ([seen], parts(seen, 7), parts(seen, 39)):
        of_bias, of_rows = sum_posteriors(passes, labels, ones, input_sums, double=True)
        for found, weights in ((of_bias, np.ones(len(sums))), (of_rows, sums)):
            weighted = posteriors * weights[:, None]
            np.testing.assert_allclose(found.whole, weighted.sum(axis=0), atol=1e-12)
            expected = [weighted[labels == c, c].sum() for c in range(6)]
            np.testing.assert_allclose(found.own, expected, atol=1e-12)
            np.testing.assert_allclose(found.weights, np.bincount(labels, weights, 6), atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_calibration_is_that_of_the_table_of_all_classes(seed):
    seen, labels, posteriors, sums = samples(seed, absent=(1, 4) if seed % 2 else ())
    found = calibrate(parts(seen, 9), labels, 6)
    own, offset = twins.llg_plus(posteriors, labels, sums)
    np.testing.assert_allclose(found.own, own, atol=1e-12)
    np.testing.assert_allclose(found.offset, offset, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_own_and_other_means_are_those_taken_class_by_class(seed):
    seen, labels, posteriors, sums = samples(seed, absent=(0, 5) if seed % 2 else ())
    found = own_and_others(parts(seen, 9), labels)
    for one, weights in zip(found, (np.ones(len(labels)), sums), strict=True):
        expected = twins.own_and_others(posteriors, labels, weights)
        np.testing.assert_allclose(one, expected, atol=1e-12)


def test_a_single_class_has_no_others():
    seen, labels, posteriors, sums = samples(3, absent=(0, 1, 2, 3, 4))
    expected = twins.own_and_others(posteriors, labels, sums)
    np.testing.assert_allclose(own_and_others([seen], labels)[1], expected, atol=1e-12)
