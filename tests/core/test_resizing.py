"""Maps that are resized after the head: found, attacked and captured as pixels of the images."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import labelleak
from labelleak.core.knowledge import LabelledData
from labelleak.core.outputs import as_tensor_model
from labelleak.core.resizing import find_resizing, usual_resizing
from labelleak.core.task import Task
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import WhiteBox, lift

IMAGES = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
MASKS = (3 * IMAGES[:, 0]).long().clamp_max(2)
MASKS[:, 0, :3] = -100


class Halved(nn.Module):
    """A head at half the images' size, whose maps the model enlarges and returns in a mapping."""

    def __init__(self, classes=3, where="inside", kernel=1, bias=True):
        super().__init__()
        torch.manual_seed(0)
        self.where, self.body = where, nn.Conv2d(1, 6, 3, stride=2, padding=1)
        self.head = nn.Conv2d(6, classes, kernel, padding=kernel // 2, bias=bias)

    def forward(self, images):
        maps = self.head(self.body(images).relu())
        if self.where == "inside":
            maps = F.interpolate(maps, images.shape[2:], mode="bilinear")
        return {"seen": images, "out": maps}


def loss_of(model):
    """Return the loss of the first four images; the model's maps get the masks' size at last."""
    maps = model(IMAGES[:4])["out"]
    if model.where == "loss":
        maps = F.interpolate(maps, MASKS.shape[1:], mode="bilinear")
    if maps.shape[1] == 1:
        held = MASKS[:4] >= 0
        return F.binary_cross_entropy_with_logits(maps[:, 0][held], (MASKS[:4] > 1)[held].float())
    return F.cross_entropy(maps, MASKS[:4])


def labels_of(classes):
    return MASKS if classes == 3 else torch.where(MASKS < 0, -1, (MASKS > 1).long())


@pytest.mark.parametrize(
    ("mode", "corners"),
    [("bilinear", False), ("bilinear", True), ("bicubic", False), ("nearest", None),
     ("nearest-exact", None), ("area", None)],
)  # fmt: skip
def test_the_way_is_found(mode, corners):
    maps = torch.randn(2, 3, 4, 5)
    resized = F.interpolate(maps, (9, 7), mode=mode, align_corners=corners)
    way = find_resizing(maps, resized)
    assert torch.allclose(way(maps, (9, 7)), resized, atol=1e-6)
    assert find_resizing(maps, resized + torch.randn(9, 7)) is None
    assert find_resizing(maps, resized[:, :2]) is None
    assert usual_resizing(1)(maps[:, :, 0], (10,)).shape == (2, 3, 10)


@pytest.mark.parametrize("where", ["inside", "loss"])
@pytest.mark.parametrize(("classes", "kernel", "bias"), [(3, 1, True), (3, 3, False), (1, 1, True)])
def test_the_head_gradient_is_the_sum_over_pixels(where, classes, kernel, bias):
    """What the white box lays out makes the very gradient that the client sends."""
    model, labels = Halved(classes, where, kernel, bias), labels_of(classes)
    loss_of(model).backward()
    plain = as_tensor_model(model, "head", IMAGES[:1])
    seen = WhiteBox(lift(plain, Task.dense, labels), "head").run(IMAGES[:4])
    held = labels[:4].flatten() >= 0
    errors = seen.probabilities[held]
    errors[torch.arange(len(errors)), labels[:4].flatten()[held]] -= 1
    made = (errors.T @ seen.inputs[held] / len(errors)).reshape(-1, *model.head.weight.shape[1:])
    assert torch.allclose(made[-classes:], model.head.weight.grad, atol=1e-6)


@pytest.mark.parametrize("where", ["inside", "loss"])
def test_resized_maps_are_attacked_and_captured(where, tmp_path):
    model = Halved(where=where)
    own = LabelledData(IMAGES[4:], MASKS[4:])
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    with labelleak.capture(model) as update:
        loss_of(model).backward()
        optimiser.step()
    held = MASKS[:4][MASKS[:4] >= 0]
    told = where == "inside"
    assert update.made.batch_size == (len(held) if told else None)
    assert (update.measured.loss == "cross_entropy") == told != bool(update.measured.doubtful)
    model.load_state_dict(update.before)
    report = labelleak.attack_update(
        captured=update, made=LocalTraining(batch_size=len(held)), model=model, auxiliary=own,
        truth={"labels": held.tolist()}, attacks=["rlu", "zlg"],
    )  # fmt: skip
    assert min(result.asr for result in report.results) >= 0.95
    assert any("taken to be resized" in note for note in report.notes) != told
    if told:
        assert update.save_truth(tmp_path / "truth.json").stat().st_size


@pytest.mark.parametrize("several", [True, False])
def test_heads_of_maps_beside_each_other_are_said(several):
    """Deep supervision: each head has a share of the loss, which an update does not tell."""

    class Supervised(Halved):
        def __init__(self):
            super().__init__()
            self.beside = nn.Conv2d(6, 3 if several else 4, 1)

    model = Supervised()
    loss_of(model).backward()
    gradient = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    report = labelleak.attack_update(
        gradient=gradient, made=LocalTraining(batch_size=244), model=model, head="head",
        auxiliary=LabelledData(IMAGES, MASKS), attacks=["zlg"],
    )  # fmt: skip
    assert ("several_heads" in report.results[0].flags) == several


def test_a_model_that_cannot_be_fed_leaves_the_rest_of_the_attacks():
    class Cropped(Halved):
        def forward(self, images):
            return {"out": super().forward(images)["out"].flip(3) ** 3}

    model = Halved()
    loss_of(model).backward()
    gradient = {name: p.grad for name, p in model.named_parameters()}
    report = labelleak.attack_update(
        gradient=gradient, made=LocalTraining(batch_size=244), head="head", task="dense",
        model=Cropped(), auxiliary=LabelledData(IMAGES, MASKS), attacks=["llbg", "rlu"],
    )  # fmt: skip
    assert [result.attack for result in report.results] == ["llbg"]
    assert any(note.startswith("the model is left out: ") for note in report.notes)
