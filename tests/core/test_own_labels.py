"""What the labels behind an update refute of the loss that was told, and what they never do."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.own_labels import check_labels
from labelleak.core.score import pair_counts
from labelleak.core.task import Task
from labelleak.core.training import LocalTraining
from labelleak.core.update import ReceivedUpdate
from labelleak.core.white_box import WhiteBox, lift

PLACES = torch.randn(5, 9, generator=torch.Generator().manual_seed(7))
SHARES = torch.tensor([0.5, 0.25, 0.15, 0.06, 0.04])
MOST = torch.tensor([0.5, 0.3, 0.2, 0.1, 0.4])


def draw(task, n):
    """Return inputs that hang on their labels, and the labels."""
    if task is Task.classes:
        labels = torch.multinomial(SHARES, n, replacement=True)
        return PLACES[labels] + torch.randn(n, 9), labels
    rows = (torch.rand(n, 5) < MOST).long()[:, : 1 if task is Task.binary else 5]
    inputs = rows.float() @ PLACES[: rows.shape[1]] + torch.randn(n, 9)
    return inputs, rows[:, 0] if task is Task.binary else rows


def plain(task):
    if task is Task.classes:
        return F.cross_entropy
    return lambda z, y: F.binary_cross_entropy_with_logits(z.reshape(y.shape), y.float())


def update(task, loss, *, seed, steps=1, learnt=0, momentum=0.0, size=32, noise=0.0, **told):
    """Train for some steps; return the flag as told without the model, and with own data."""
    torch.manual_seed(seed)
    rows = 1 if task is Task.binary else 5
    model = nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, rows))
    own = draw(task, 400)
    early = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(learnt):
        early.zero_grad()
        plain(task)(model(own[0]), own[1]).backward()
        early.step()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=momentum)
    labels = []
    for _ in range(steps):
        inputs, batch = draw(task, size)
        optimiser.zero_grad()
        loss(model(inputs), batch).backward()
        for parameter in model.parameters():
            parameter.grad += noise * torch.randn_like(parameter)
        optimiser.step()
        labels.append(batch)
    after = {name: value.clone() for name, value in model.state_dict().items()}
    how = LocalTraining(
        lr=0.05, local_steps=steps, batch_size=size, momentum=momentum or None, **told
    )
    received = ReceivedUpdate(before, after, training=how, head="2", task=task)
    whole = torch.cat(labels)
    received = replace(received, num_samples=len(whole))
    seen = received.observe("2")
    counts = (
        np.bincount(whole, minlength=5)
        if task is Task.classes
        else (pair_counts(whole.reshape(len(whole), -1).sum(0).numpy(), len(whole)))
    )
    model.load_state_dict(before)
    box = WhiteBox(lift(model, task), "2")
    held = Knowledge(box, (9,), LabelledData(*own), training=how)
    return [raised(seen, counts, one) for one in (Knowledge(training=how), held)]


def raised(seen, counts, known):
    found = list(check_labels(seen, counts, known))
    assert [flag.name for flag in found] == ["labels_inconsistent"] * len(found)
    return any(bool(flag.raised.any()) for flag in found)


def balanced(power=1.0):
    def loss(logits, labels):
        counts = torch.bincount(labels, minlength=logits.shape[1]).clamp(min=1).float()
        return F.cross_entropy(logits, labels, weight=counts**-power)

    return loss


def positives(weight, task=Task.binary):
    heavy = torch.full((1 if task is Task.binary else 5,), weight)
    return lambda z, y: F.binary_cross_entropy_with_logits(
        z.reshape(y.shape), y.float(), pos_weight=heavy
    )


@pytest.mark.parametrize("task", [Task.classes, Task.binary, Task.multilabel])
@pytest.mark.parametrize("learnt", [0, 100])
@pytest.mark.parametrize(("steps", "momentum"), [(1, 0.0), (4, 0.0), (4, 0.9)])
def test_a_plain_loss_is_never_refuted(task, learnt, steps, momentum):
    for seed in range(12):
        how = {"steps": steps, "momentum": momentum, "learnt": learnt, "size": (16, 64)[seed % 2]}
        assert not any(update(task, plain(task), seed=seed, **how))


def test_a_smaller_batch_at_the_end_refutes_nothing_where_the_steps_divide_the_labels():
    sizes, flagged = (9, 9, 9, 1), {}
    for told in (True, False):
        flagged[told] = 0
        for seed in range(10):
            torch.manual_seed(seed)
            head, mean = nn.Linear(9, 5), torch.zeros(5)
            inputs, labels = draw(Task.classes, sum(sizes))
            for some, own in zip(inputs.split(sizes), labels.split(sizes), strict=True):
                head.zero_grad()
                F.cross_entropy(head(some), own).backward()
                mean += head.bias.grad / len(sizes)
            seen = Observation.from_gradient(None, mean, num_samples=28, local_steps=4)
            known = Knowledge(training=LocalTraining(lr=0.1, local_steps=4, batch_size=7))
            counts = np.bincount(labels, minlength=5)
            flagged[told] += raised(seen, counts, replace(known, batch_told=told))
    assert flagged[False] == 0 < flagged[True]


def test_weights_that_nobody_told_are_seen_by_the_labels():
    found = np.array([update(Task.classes, balanced(), seed=seed) for seed in range(10)])
    assert (found.mean(axis=0) >= [0.4, 1.0]).all()
    sqrt = np.array([update(Task.classes, balanced(0.5), seed=seed) for seed in range(10)])
    assert sqrt[:, 1].mean() >= 0.4  # some model may answer so, but not the one that is held
    rare = torch.tensor([1.0, 1.0, 1.0, 30.0, 30.0])
    four = [
        update(Task.classes, lambda z, y: F.cross_entropy(z, y, weight=rare), seed=s, steps=4)
        for s in range(10)
    ]
    assert np.mean(four) >= 0.5


@pytest.mark.parametrize("task", [Task.binary, Task.multilabel])
def test_a_weight_of_positives_that_nobody_told_is_seen_by_the_labels(task):
    found = np.array([update(task, positives(4.0, task), seed=seed) for seed in range(10)])
    assert (found.mean(axis=0) >= [0.7, 1.0]).all()


def test_what_was_told_is_reckoned_with():
    weights = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])

    def loss(logits, labels):
        return F.cross_entropy(logits, labels, weight=weights)

    def smooth(logits, labels):
        return F.cross_entropy(logits, labels, label_smoothing=0.3)

    for seed in range(6):
        told = {"class_weights": tuple(weights.tolist())}
        assert not any(update(Task.classes, loss, seed=seed, **told))
        assert not any(update(Task.classes, loss, seed=seed, steps=3, **told))
        assert not any(update(Task.classes, smooth, seed=seed, label_smoothing=0.3))
        for task in (Task.binary, Task.multilabel):
            assert not any(update(task, positives(4.0, task), seed=seed, pos_weight=(4.0,)))
    wrong = {"class_weights": (16.0, 8.0, 4.0, 2.0, 1.0)}
    assert all(update(Task.classes, loss, seed=0, **wrong))


@pytest.mark.parametrize("times", [4.0, -1.0])
def test_another_scale_or_sign_is_refuted_too(times):
    found = [
        update(Task.classes, lambda z, y: times * F.cross_entropy(z, y), seed=s) for s in (1, 2)
    ]
    assert all(map(all, found))


@pytest.mark.parametrize("times", [0.5, 1.5])
def test_a_smaller_loss_is_refuted_by_own_data(times):
    """What clips, shares or cools the loss stays within the bounds that labels alone give."""
    for task, least in ((Task.classes, 0.7), (Task.multilabel, 1.0)):
        loss = plain(task)
        found = np.array(
            [
                update(task, lambda z, y, of=loss: times * of(z, y), seed=seed, size=64)
                for seed in range(10)
            ]
        )
        assert found[:, 1].mean() >= least
        assert times > 1 or not found[:, 0].any()


def test_noise_and_what_is_not_known_refute_nothing():
    assert not any(update(Task.classes, balanced(), seed=1, noise=0.3))
    torch.manual_seed(0)
    counts = np.array([1, 31])
    seen = Observation.from_gradient(None, torch.tensor([0.6, -0.6]).double(), num_samples=32)
    assert not raised(seen, counts, Knowledge())
    assert raised(seen, counts[::-1], Knowledge())
    for other in ({"lr_known": False}, {"num_samples": None}, {"largest": 9.0}):
        assert not raised(replace(seen, **other), counts[::-1], Knowledge())
    told = Knowledge(training=LocalTraining(optimiser="adam"))
    assert not raised(seen, counts[::-1], told)


def dice(logits, masks):
    chances, there = logits.softmax(1), F.one_hot(masks, 3).movedim(-1, 1)
    both = (chances * there).sum((0, 2, 3))
    return 1 - (2 * both / (chances.sum((0, 2, 3)) + there.sum((0, 2, 3)) + 1e-6)).mean()


@pytest.mark.parametrize(("loss", "wrong"), [(F.cross_entropy, False), (dice, True)])
def test_of_maps_own_data_count_images_and_not_pixels(loss, wrong):
    """Pixels of one image hang together; an overlap's gradient is of another size."""
    found = []
    for seed in range(8):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 1))
        levels = torch.rand(44, 1, 1, 1)  # of each image, so that its pixels are alike
        images = levels * torch.rand(44, 1, 6, 6)
        masks = (images[:, 0] > 0.4).long() + (images[:, 0] > 0.7).long()
        loss(model(images[:4]), masks[:4]).backward()
        head = model[2]
        seen = Observation.from_gradient(
            head.weight.grad.flatten(1), head.bias.grad, num_samples=144
        )
        own = LabelledData(images[4:], masks[4:])
        held = Knowledge(WhiteBox(lift(model, Task.dense, masks), "2"), (1, 6, 6), own)
        counts = np.bincount(masks[:4].ravel(), minlength=3)
        found.append(raised(seen, counts, held))
        assert not raised(seen, counts, Knowledge())
    assert sum(found) >= 2 if wrong else not any(found)
