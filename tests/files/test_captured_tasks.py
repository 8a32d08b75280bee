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
    assert (update.measured.loss, update.measured.loss_scale) == ("bce", 40)
    assert update.measured.weighted is None
    assert update.made.pos_weight == (() if weight == 1 else (weight,))
    report = labelleak.attack_update(captured=update, truth=Y.long().tolist(), attacks=["llbg"])
    assert report.scale.state != "impossible"
    assert report.checked["pos_weight"]["state"] == ("held" if weight == 1 else "repaired")
    assert report.results[0].asr > 0.85


FINDINGS = (X @ torch.randn(6, 4, generator=torch.Generator().manual_seed(8))) > torch.tensor(
    [0.0, 0.5, 2.0, 99.0]  # nobody has the last
)
HEAVY = torch.tensor([1.0, 2.0, 8.0, 5.0])


@pytest.mark.parametrize(
    ("loss", "classes", "positives"),
    [
        ({}, (), ()),
        ({"pos_weight": torch.tensor(3.0)}, (), (3.0,) * 4),
        ({"pos_weight": HEAVY}, (), (1.0, 2.0, 8.0, 1.0)),
        ({"weight": torch.tensor([1.0, 2.0, 0.5, 0.5])}, (1.0, 2.0, 0.5, 0.5), ()),
    ],
)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_weights_of_several_labels_are_measured(loss, classes, positives, reduction, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 4))
    update = capture(
        model,
        lambda r: F.binary_cross_entropy_with_logits(
            model(X[r]), FINDINGS[r].float(), reduction=reduction, **loss
        ),
        [torch.arange(20), torch.arange(20, 40)],
    )
    assert (update.made.class_weights, update.made.pos_weight) == (classes, positives)
    assert update.measured.loss_scale == (1 if reduction == "mean" else 80)
    model.load_state_dict(update.before)
    report = labelleak.attack_update(
        update=update.save(tmp_path / "update.safetensors"), truth=FINDINGS.long().tolist(),
        model=model, auxiliary=LabelledData(X, FINDINGS.long()), attacks=["rlu"],
    )  # fmt: skip
    # Steps of a summed loss are 80 times as long, and the model moves on the way.
    assert report.results[0].asr > (0.97 if reduction == "mean" else 0.88)
    assert "pos_weight_assumed" not in report.results[0].flags


def four_labels():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 4))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("share", [0.05, 0.3])
@pytest.mark.parametrize("sure", [1, 30], ids=["plain", "sure"])
def test_smoothed_targets_of_several_labels_are_measured(reduction, share, sure, tmp_path):
    """A sure model's chances lie beyond the targets, so that signs alone tell no label."""
    model, truth = four_labels(), FINDINGS.float()
    model[2].weight.data *= sure
    targets = truth * (1 - share) + share / 2
    update = capture(
        model,
        lambda r: F.binary_cross_entropy_with_logits(model(X[r]), targets[r], reduction=reduction),
        [torch.arange(20), torch.arange(20, 40)],
    )
    assert (update.measured.loss, update.made.batch_size) == ("bce", 20)
    assert update.made.label_smoothing == pytest.approx(share, abs=1e-3)
    assert update.measured.loss_scale == (1 if reduction == "mean" else 80)
    told = update.save_truth(tmp_path / "truth.json")
    report = labelleak.attack_update(captured=update, truth=told, attacks=["llbg"])
    assert report.task == "multilabel"
    assert report.truth.counts[1::2].tolist() == FINDINGS.sum(0).tolist()
    assert report.checked["label_smoothing"]["state"] == "repaired"


@pytest.mark.parametrize("low", [0.0, 0.02])
def test_targets_that_are_smoothed_otherwise_are_in_doubt(low):
    model, targets = four_labels(), FINDINGS.float() * 0.8 + low
    update = capture(
        model, lambda r: F.binary_cross_entropy_with_logits(model(X[r]), targets[r]),
        [torch.arange(40)],
    )  # fmt: skip
    assert update.measured.doubtful
    assert update.made.label_smoothing is None


def test_a_squared_error_is_no_task():
    model = one_logit()
    update = capture(
        model, lambda r: F.mse_loss(model(X[r])[:, 0], 3 * X[r, 1]), [torch.arange(40)]
    )
    assert update.measured.loss == "unknown"
    assert any("squared error" in note for note in update.notes)
    with pytest.raises(BadInput, match="say `task` binary"):
        labelleak.attack_update(captured=update)


def focal(z, y):
    each = F.binary_cross_entropy_with_logits(z, y, reduction="none")
    return ((1 - torch.exp(-each)) ** 2 * each).mean()


def dice(z, y):
    chance = z.sigmoid()
    return 1 - (2 * (chance * y).sum() + 1) / (chance.sum() + y.sum() + 1)


@pytest.mark.parametrize("loss", [focal, dice, lambda z, y: F.mse_loss(z.sigmoid(), y)])
@pytest.mark.parametrize("labels", [1, 3])
def test_another_loss_of_sigmoids_is_in_doubt(loss, labels):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, labels))
    there = (X[:, :labels] > 0.3).float()
    update = capture(model, lambda r: loss(model(X[r]), there[r]), [torch.arange(40)])
    assert update.measured.doubtful
    task = "binary" if labels == 1 else "multilabel"
    report = labelleak.attack_update(captured=update, task=task, attacks=["llbg"])
    assert "capture_doubtful" in report.results[0].flags


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
    rows = {"before": update.before, "after": dict(model.state_dict()), "head": "2"}
    for told in ({}, {"class_weights": (), "label_smoothing": 0.0}):
        made = labelleak.LocalTraining(lr=0.1, batch_size=120, **told)
        alone = labelleak.attack_update(**rows, made=made, attacks=["llbg"])
        assert ("loss_assumed" in alone.results[0].flags) == (not told)
    assert "loss_assumed" not in report.results[0].flags


class Segmenter(nn.Module):
    """Deep supervision: a transposed head beside an auxiliary one, in a mapping."""

    def __init__(self, channels, bias, **how):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(1, channels, 2, padding=1)
        self.aux = nn.Conv2d(channels, 3, 1)
        self.out = nn.ConvTranspose2d(channels, 3, bias=bias, **how)

    def forward(self, images):
        seen = self.body(images).relu()
        return {"aux": self.aux(seen), "out": self.out(seen)}


IMAGES = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def masks_of(side):
    """Return a mask of three classes of that size for each image."""
    return (3 * F.interpolate(IMAGES, side)[:, 0] ** 2).long()


def deep_loss(outputs, masks):
    coarse = F.cross_entropy(outputs["aux"], masks_of(outputs["aux"].shape[2:]))
    return F.cross_entropy(outputs["out"], masks) + coarse


HOW = (
    {"kernel_size": 2, "padding": 1},
    {"kernel_size": 4, "stride": 2, "padding": 4},
    {"kernel_size": 2, "stride": 2, "output_padding": 1, "padding": (4, 4), "dilation": 2},
)


@pytest.mark.parametrize("how", HOW, ids=["narrow", "strided", "dilated"])
@pytest.mark.parametrize(("channels", "bias"), [(6, True), (3, True), (6, False)])
def test_a_transposed_head_is_captured(how, channels, bias):
    model = Segmenter(channels, bias, **how)
    masks = masks_of(model(IMAGES)["out"].shape[2:])
    twin = torch.autograd.grad(deep_loss(model(IMAGES), masks), list(model.out.parameters()))
    update = capture(model, lambda _: deep_loss(model(IMAGES), masks), [0], head="out")
    assert (update.measured.loss, update.made.batch_size) == ("cross_entropy", masks.numel())
    assert (update.measured.loss_scale, update.measured.doubtful) == (1.0, None)
    for name, true in zip(model.out.state_dict(), twin, strict=True):
        assert torch.allclose(update.gradient[f"out.{name}"], true, atol=1e-6)
    attacks, truth = ["llbg"] if bias else ["llg"], masks.flatten().tolist()
    report = labelleak.attack_update(captured=update, truth=truth, attacks=attacks)
    assert (report.task, report.num_samples) == ("dense", masks.numel())
    doubts = {"capture_doubtful", "not_cross_entropy", "loss_assumed"}
    assert not doubts & set(report.results[0].flags)


def test_several_heads_of_maps_are_in_doubt_until_one_is_named():
    model = Segmenter(6, True, kernel_size=2, padding=1)
    update = capture(model, lambda _: deep_loss(model(IMAGES), masks_of((6, 6))), [0])
    assert update.measured.doubtful
    assert any("several layers may be the head" in note for note in update.notes)
