"""The bench of a round times audits, and no work of its own."""

import pytest

pytest.importorskip("flwr")
from labelleak.flower import bench  # isort: skip


def test_labels_are_drawn_once_and_each_client_and_round_has_its_own():
    one = bench._labels("3", 2, 50)
    assert bench._labels("3", 2, 50) is one
    for other in (bench._labels("4", 2, 50), bench._labels("3", 3, 50)):
        assert (other != one).any()
    assert len(bench._labels("3", 2, 60)) == 60
