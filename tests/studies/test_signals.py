"""P1 and P2 are seen in the picture's numbers, and the benchmark's lines say what they measure."""

import csv

import numpy as np
import pytest

from labelleak.errors import BadInput
from labelleak.studies.signals import draw_signals, measure_signals


def test_absent_classes_are_positive_and_counts_are_linear():
    signals = measure_signals("digits", seed=0)
    g, counts = signals.row_sums, signals.counts
    assert (g[counts == 0] >= 0).all()
    assert (counts.sum(1) == 32).all()
    for label in range(10):
        line = np.corrcoef(counts[:, label], g[:, label])[0, 1]
        assert line < -0.97
    slope = np.polyfit(counts.ravel(), g.ravel(), 1)[0]
    assert slope == pytest.approx(signals.measured.own / 32, rel=0.25)


def test_the_picture_and_its_numbers_are_written(tmp_path):
    svg, png, table = draw_signals("digits", tmp_path, seed=0)
    assert svg.read_text().count("<svg") == 1
    assert png.read_bytes()[:4] == b"\x89PNG"
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 600
    first = svg.read_bytes()
    draw_signals("digits", tmp_path, seed=0)
    assert svg.read_bytes() == first


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write"):
        draw_signals("digits", tmp_path / "file" / "below", seed=0)
