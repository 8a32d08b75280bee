"""The picture of gradients by batch size: what its table and its correlations say."""

from xml.etree import ElementTree

import numpy as np
import pytest

from labelleak.studies import gradients
from labelleak.studies.gradients import (
    SIZES,
    correlation,
    correlations,
    draw_gradients,
    make_gradients_table,
)
from labelleak.studies.signals import measure_signals
from labelleak.studies.study import Asked, Found


@pytest.fixture(scope="module")
def signals():
    return [measure_signals("digits", seed=1, batch_size=size) for size in (2, 32)]


def test_signs_tell_presence_and_sizes_tell_counts(signals):
    small, large = signals
    for one in signals:
        assert (one.counts.sum(axis=1) == one.batch_size).all()
        # A class that is absent has no negative row sum where head inputs are not negative.
        assert (one.row_sums[one.counts == 0] >= 0).all()
    assert (small.row_sums[small.counts > 0] < 0).all()
    assert correlation(large.counts, large.row_sums) < -0.6
    assert correlation(large.counts, large.adjusted) > 0.95
    # Adjusted row sums are counts, up to what samples differ.
    assert np.abs(large.adjusted - large.counts).mean() < 0.5


def test_a_class_goes_with_its_own_count(signals):
    found = correlations(signals[1])
    assert (found.argmin(axis=1) == np.arange(len(found))).all()
    assert (np.diag(found) < -0.8).all()
    assert correlation(np.ones(4), np.arange(4)) == 0.0


def test_the_table_counts_every_class_of_every_batch(signals):
    lines = make_gradients_table(signals).splitlines()
    for line, one in zip(lines[-2:], signals, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert int(cells[0]) == one.batch_size
        assert sum(map(int, cells[1:5])) == one.counts.size
        assert int(cells[3]) == 0


def test_the_files_are_whole_and_the_full_form_is_the_papers(monkeypatch, signals):
    assert SIZES == (2, 8, 32, 128)
    held = {one.batch_size: one for one in signals}
    monkeypatch.setattr(
        gradients, "measure_signals", lambda _, *, seed, batch_size: held[batch_size]
    )
    files = draw_gradients(Found(Asked(quick=True)))
    ElementTree.fromstring(files["gradients.svg"])
    assert "N = 32" in files["gradients.svg"]
    assert files["gradients.md"].count("\n| ") == 3
