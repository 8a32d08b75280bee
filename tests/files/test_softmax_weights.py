"""Weights of classes are read off what a training did, pass by pass, and undone by attacks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import labelleak
from labelleak.core.knowledge import LabelledData
from labelleak.core.logit_rows import LogitRows
from labelleak.files.softmax_weights import read_class_weights

X = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, :4] * torch.tensor([1.5, 1.0, 0.6, 0.3])).argmax(1)
WEIGHTS = torch.tensor([1.0, 2.0, 4.0, 1.0, 7.0])  # nobody has the last class


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_they_are_measured_over_steps_and_undone(reduction, tmp_path):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 5))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    with labelleak.capture(model) as update:
        for rows in torch.arange(40).chunk(2):
            optimiser.zero_grad()
            F.cross_entropy(model(X[rows]), Y[rows], weight=WEIGHTS, reduction=reduction).backward()
            optimiser.step()
    told = update.made.class_weights
    assert told == pytest.approx((0.5, 1.0, 2.0, 0.5, 1.0), abs=1e-3)
    assert update.measured.weighted is None
    assert any("classes weigh in the loss" in note for note in update.notes)
    model.load_state_dict(update.before)
    report = labelleak.attack_update(
        update=update.save(tmp_path / "update.safetensors"), model=model, attacks=["rlu"],
        auxiliary=LabelledData(X[40:], Y[40:]), truth=update.save_truth(tmp_path / "truth.json"),
    )  # fmt: skip
    assert report.checked["class_weights"]["state"] == "repaired"
    if reduction == "mean":  # steps of a summed loss are long, and the model moves on the way
        assert report.results[0].asr >= 0.95


def rows_of(labels, scales, smoothing=0.0):
    labels, scales = torch.tensor(labels), torch.tensor(scales)
    return LogitRows("cross_entropy", len(labels), labels, scales, smoothing, certain=True)


@pytest.mark.parametrize(
    ("passes", "found"),
    [
        ([([0, 1], [1.0, 3.0]), ([1, 2], [0.3, 0.1])], (0.6, 1.8, 0.6)),
        ([([0, 1], [1.0, 3.0]), ([2, 2], [0.3, 0.3])], None),  # nothing in common
        ([([0, 1], [1.0, 3.0]), ([0, 1], [0.3, 0.1])], None),  # they disagree
        ([([0, 0], [1.0, 2.0])], None),  # rows of one class differ
        ([([0, 1], [1.0, 3.0], 0.1)], None),
    ],
)
def test_passes_must_agree(passes, found):
    readings = [rows_of(*one) for one in passes]
    told = read_class_weights(readings, 3, 1e-3)
    assert told == (None if found is None else pytest.approx(found, abs=1e-6))
    soft = LogitRows("cross_entropy", 2, None, torch.ones(2))
    assert read_class_weights([soft, *readings], 3, 1e-3) is None
