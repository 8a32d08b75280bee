"""Captures of other tasks than classes: the loss that was seen tells the task, the rows tell N."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import labelleak
from labelleak.core.knowledge import LabelledData
from labelleak.errors import BadInput

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0.3).float()


def one_logit():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 1))


def capture(model, loss, steps, head=None):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    with labelleak.capture(model, head=head) as update:
        for rows in steps:
            optimiser.zero_grad()
            loss(rows).backward()
            optimiser.step()
    return update


def test_binary_cross_entropy_tells_a_binary_task(tmp_path):
    model = one_logit()
    steps = torch.arange(40).chunk(2)
    update = capture(
        model, lambda r: F.binary_cross_entropy_with_logits(model(X[r])[:, 0], Y[r]), steps
    )
    assert (update.measured.loss, update.made.batch_size, update.made.local_steps) == ("bce", 20, 2)
    assert update.measured.loss_scale == 1
    assert not update.measured.doubtful
    truth = update.save_truth(tmp_path / "truth.json")
    path = update.save(tmp_path / "update.safetensors")
    for source in ({"captured": update}, {"update": path}):
        report = labelleak.attack_update(**source, truth=truth, attacks=["llbg"])
        assert report.task == "binary"
        assert report.num_samples == 40
        assert report.truth.counts.tolist() == [40 - int(Y.sum()), int(Y.sum())]
        assert report.results[0].asr > 0.8


@pytest.mark.parametrize("weight", [2.5, 1.0])
def test_a_summed_loss_and_heavier_positives_are_measured(weight):
    model = one_logit()
    heavier = torch.tensor([weight])
    update = capture(
        model,
        lambda r: F.binary_cross_entropy_with_logits(
            model(X[r])[:, 0], Y[r], pos_weight=heavier, reduction="sum"
        ),
        [torch.arange(40)],
    )
    assert update.measured.loss == "bce"
    total = float(Y.sum()) * weight + 40 - float(Y.sum())
    assert update.measured.loss_scale == pytest.approx(total, rel=1e-4)
    assert update.measured.weighted is (True if weight > 1 else None)
    report = labelleak.attack_update(captured=update, attacks=["llbg"])
    assert report.scale.state != "impossible"


def test_a_squared_error_is_no_task():
    model = one_logit()
    update = capture(
        model, lambda r: F.mse_loss(model(X[r])[:, 0], 3 * X[r, 1]), [torch.arange(40)]
    )
    assert update.measured.loss == "unknown"
    assert any("squared error" in note for note in update.notes)
    with pytest.raises(BadInput, match="say `task` binary"):
        labelleak.attack_update(captured=update)


@pytest.mark.parametrize("kernel", [1, 3])
def test_maps_are_measured_pixel_by_pixel(kernel, tmp_path):
    torch.manual_seed(0)
    head = nn.Conv2d(5, 3, kernel, padding=kernel // 2)
    model = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), head)
    images = torch.rand(30, 1, 6, 6)
    masks = (3 * images[:, 0] ** 2).long()
    masks[:, :1] = -100
    update = capture(
        model, lambda r: F.cross_entropy(model(images[r]), masks[r]), [torch.arange(4)]
    )
    assert (update.head, update.measured.loss) == ("2", "cross_entropy")
    assert update.made.batch_size == int((masks[:4] >= 0).sum()) == 120
    truth = update.save_truth(tmp_path / "truth.json")
    report = labelleak.attack_update(
        captured=update,
        truth=truth,
        model=model,
        auxiliary=LabelledData(images[4:], masks[4:]),
        attacks=["rlu"],
    )
    assert report.task == "dense"
    assert report.results[0].asr > 0.97
    held = torch.bincount(masks[:4][masks[:4] >= 0], minlength=3)
    assert report.truth.counts.tolist() == held.tolist()
