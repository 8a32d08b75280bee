"""Class weights and smoothing that were told are undone: exactly where samples of a class agree."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import labelleak
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.task import Task
from labelleak.core.told_loss import ToldLoss, undoes
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import WhiteBox, lift
from labelleak.errors import NotApplicable
from labelleak.records.assumptions import Assumption

WEIGHTS = (1.0, 3.0, 0.5, 2.0)
LOSSES = {
    "weights": {"class_weights": WEIGHTS},
    "smoothing": {"label_smoothing": 0.3},
    "both": {"class_weights": WEIGHTS, "label_smoothing": 0.2},
}
# One input a class: own data know the errors of each exactly.
PLACES = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))


def made_of(bias=True):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4, bias=bias))
    model[2].weight.data *= 3
    return model


def gradient(model, x, y, class_weights=(), label_smoothing=0.0):
    weight = torch.tensor(class_weights) if class_weights else None
    model.zero_grad()
    F.cross_entropy(model(x), y, weight=weight, label_smoothing=label_smoothing).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def seen(found, size):
    return Observation(found["2.weight"][None], found.get("2.bias", torch.zeros(4))[None], size)


@pytest.mark.parametrize("told", LOSSES)
@pytest.mark.parametrize("bias", [True, False])
def test_what_the_plain_loss_makes_is_found_again(told, bias):
    model, labels = made_of(bias), torch.tensor([0, 1, 1, 1, 2, 2, 3, 1])
    x, training = PLACES[labels], LocalTraining(**LOSSES[told])
    bent, plain = (seen(gradient(model, x, labels, **how), 8) for how in (LOSSES[told], {}))
    if not bias:
        bent = Observation(bent.weight, None, 8)
    own = LabelledData(PLACES, torch.arange(4))
    found = ToldLoss.of(Knowledge(WhiteBox(model, "2"), auxiliary=own), 4, training).undo(bent)
    assert torch.allclose(found.weight, plain.weight, atol=0.02 if not bias else 1e-6)
    assert not torch.allclose(bent.weight, plain.weight, atol=0.04)
    if bias:
        assert torch.allclose(found.bias, plain.bias, atol=1e-6)


@pytest.mark.parametrize("told", LOSSES)
def test_without_a_model_posteriors_are_taken_to_be_even(told):
    """So they are of a head of zeros, and the shares of classes come out exactly."""
    model, labels = made_of(), torch.tensor([0, 1, 1, 1, 2, 2, 3, 1])
    model[2].weight.data.zero_()
    model[2].bias.data.zero_()
    x = torch.ones(8, 6)
    bent, plain = (seen(gradient(model, x, labels, **how), 8) for how in (LOSSES[told], {}))
    found = ToldLoss.of(Knowledge(), 4, LocalTraining(**LOSSES[told])).undo(bent)
    assert torch.allclose(found.bias, plain.bias, atol=1e-6)
    assert torch.allclose(found.weight, plain.weight, atol=1e-6)
    with pytest.raises(NotApplicable, match="without the bias or the model"):
        ToldLoss.of(Knowledge(), 4, LocalTraining(**LOSSES[told])).undo(
            Observation(bent.weight, None, 8)
        )
    with pytest.raises(NotApplicable, match="up to 1000 classes"):
        ToldLoss.of(Knowledge(), 1001, LocalTraining(**LOSSES[told]))


def test_a_class_that_own_data_lack_has_the_mean_posterior():
    model = made_of()
    own = LabelledData(PLACES[:3], torch.arange(3))
    box = WhiteBox(model, "2")
    found = ToldLoss.of(Knowledge(box, auxiliary=own), 4, LocalTraining(label_smoothing=0.1))
    mean = model(PLACES[:3]).softmax(1).mean(0).detach().double() - torch.eye(4)[3]
    assert torch.allclose(found.errors[found.labels == 3], mean)
    made = ToldLoss.of(Knowledge(box, input_shape=(6,)), 4, LocalTraining(label_smoothing=0.1))
    assert made.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("told", LOSSES)
@pytest.mark.parametrize("task", ["classes", "multilabel"])
def test_attacks_answer_as_if_the_loss_were_plain(told, task):
    """Rules, imitators and attacks on all layers: undone, left as they are, left out."""
    rng = torch.Generator().manual_seed(2)
    x = torch.randn(300, 6, generator=rng)
    y = (x @ torch.randn(6, 4, generator=rng)).argmax(1)
    model, how = made_of(), LOSSES[told]
    if task == "multilabel":
        y = (x[:, :4] > torch.tensor([0.0, 1.0, -1.0, 1.5])).long()
        smoothing = how.get("label_smoothing", 0.0)
        targets = y[:64] * (1 - smoothing) + smoothing / 2
        weight = torch.tensor(how.get("class_weights", (1.0,) * 4))
        F.binary_cross_entropy_with_logits(model(x[:64]), targets, weight=weight).backward()
        found = {name: p.grad for name, p in model.named_parameters()}
    else:
        found = gradient(model, x[:64], y[:64], **how)
    report = labelleak.attack_update(
        gradient=found, made=LocalTraining(batch_size=64, **how), model=model, task=task,
        auxiliary=LabelledData(x[64:], y[64:]), truth={"labels": y[:64].tolist()},
        attacks=["rlu", "layer_regression"],
    )  # fmt: skip
    asr = {result.attack: result.asr for result in report.results}
    assert asr["rlu"] > 0.95
    assert all(report.checked[name]["state"] == "repaired" for name in how)
    assert "layer_regression" in report.not_applicable


def test_pixels_of_weighted_classes_are_counted():
    images = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(3))
    masks = (4 * images[:, 0]).long().clamp_max(3)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1))
    F.cross_entropy(model(images[:4]), masks[:4], weight=torch.tensor(WEIGHTS)).backward()
    asr = []
    for told in (WEIGHTS, ()):
        report = labelleak.attack_update(
            gradient={name: p.grad for name, p in model.named_parameters()},
            made=LocalTraining(batch_size=144, class_weights=told, label_smoothing=0.0),
            model=model, auxiliary=LabelledData(images[4:], masks[4:]), attacks=["rlu"],
            truth={"labels": masks[:4].flatten().tolist()},
        )  # fmt: skip
        asr.append(report.results[0].asr)
    assert asr[0] > 0.97 > asr[1] + 0.1


def test_what_is_undone_is_said():
    each, hard = Assumption.EQUAL_CLASSES, Assumption.HARD_LABELS
    assert undoes(LocalTraining(class_weights=WEIGHTS)) == {each}
    assert undoes(LocalTraining(label_smoothing=0.1)) == {hard}
    both = LocalTraining(class_weights=WEIGHTS, label_smoothing=0.1)
    assert undoes(both) == {each, hard}
    heavy = LocalTraining(label_smoothing=0.1, pos_weight=(2.0,))
    for training in (heavy, LocalTraining(class_weights=(2.0, 2.0)), None):
        assert not undoes(training)
    box = WhiteBox(lift(made_of(), Task.classes), "2")
    assert ToldLoss.of(Knowledge(box, input_shape=(6,)), 4, both).errors.isfinite().all()
