"""The network of counts: its slope by hand against autograd's, and where its training begins."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from labelleak.attacks.shadow.net import CountNet
from labelleak.attacks.shadow.posterior import CountPosterior, Lesson
from labelleak.attacks.shadow.slopes import PARTS, Examples, Slopes, _surprise
from labelleak.attacks.shadow.training import Exercise, train


def surprise(parts, counts, total):
    """Take the mean of -log P(c_i) the slow way, for autograd."""
    centres, inverse, weights = parts
    c = counts[..., None].to(centres.dtype)
    low = torch.where(c > 0, torch.sqrt((c - 0.5).clamp(min=0.1)), -1e4)
    high = torch.where(c < total, torch.sqrt(c + 0.5), 1e4)
    above, below = (high - centres) * inverse, (low - centres) * inverse
    apart = torch.log(-torch.expm1(below - above))
    mass = nn.functional.logsigmoid(above) + nn.functional.logsigmoid(-below) + apart
    return -torch.logsumexp(torch.log(weights) + mass, dim=-1).mean()


def examples(batches, classes, total, seed=0):
    made = np.random.default_rng(seed)
    counts = made.multinomial(total, np.full(classes, 1 / classes), size=batches)
    noise = made.normal(size=(batches, classes, 4))
    return np.concatenate([np.sqrt(counts)[..., None] + 0.3 * noise, noise], axis=2), counts


@pytest.mark.parametrize(("classes", "total"), [(2, 1), (5, 3), (7, 90)])
def test_the_slope_by_hand_is_autograd_s(classes, total):
    features, counts = examples(6, classes, total)
    counts[0] = np.eye(classes, dtype=int)[0] * total  # all of one class, so 0 and N are there
    features[1] = features[1, :1]  # classes that are alike share the slope of the greatest
    torch.manual_seed(classes)
    net = CountNet(8, 6, math.sqrt(max(total / classes, 1.0))).double()
    for parameter in net.parameters():  # far out, some widths beyond where they are held
        nn.init.normal_(parameter, std=1.5)
    loss = surprise(net(torch.from_numpy(features)), torch.from_numpy(counts), total)
    wanted = torch.autograd.grad(loss, list(net.parameters()))
    slopes = Slopes.of([net])
    (found,) = slopes.measure(Examples.of(features, counts, total))
    assert found == pytest.approx(loss.item(), rel=1e-6)
    for (name, _), slope in zip(net.named_parameters(), wanted, strict=True):
        assert np.allclose(slopes.slopes[name][0], slope, rtol=1e-5, atol=1e-7), name


def test_several_networks_have_the_slopes_that_each_has_alone():
    spreads, shown = (1.0, 1.7, 3.0), []
    for seed in range(3):
        features, counts = examples(6, 5, 9, seed)
        shown.append(Examples.of(features.astype(np.float32), counts, 9))

    def nets():
        torch.manual_seed(3)
        return [CountNet(8, 6, spread) for spread in spreads]

    together = Slopes.of(nets())
    own, means = (np.concatenate([getattr(one, n) for one in shown]) for n in ("own", "means"))
    ends = np.concatenate([one.ends for one in shown], axis=1)
    lost = together.measure(Examples(own, means, ends))
    for place, net in enumerate(nets()):
        alone = Slopes.of([net])
        assert alone.measure(shown[place]) == lost[place]
        np.testing.assert_array_equal(alone.slope[0], together.slope[place])
    few = together.first(2)
    few.measure(Examples(own[:2], means[:2], ends[:, :2]))
    few.flat[:] = 0
    assert not together.flat[:2].any()
    assert together.flat[2].any()


def test_the_slope_holds_where_classes_are_many_samples_off():
    # In single precision, where ends of a mass far from its centre cancel.
    made = np.random.default_rng(0)
    out = made.normal(size=(3, PARTS, 4000)) * np.array([2, 3, 2])[:, None, None]
    counts = made.integers(0, 4, 4000)
    low = np.where(counts > 0, np.sqrt(np.maximum(counts - 0.5, 0.1)), -1e4)
    ends = np.stack([low, np.where(counts < 3, np.sqrt(counts + 0.5), 1e4)])[:, None]
    spread = np.full(4000, 1.3)
    single = _surprise(*(one.astype(np.float32) for one in (out, ends, spread)))
    double = _surprise(out.astype(np.float32).astype(np.float64), ends, spread)
    assert single[0].mean() == pytest.approx(double[0].mean(), rel=1e-5)
    assert np.abs(single[1] - double[1]).max() < 1e-5 * np.abs(double[1]).max()


def test_the_network_follows_what_is_written_to_the_flat_parameters():
    net = CountNet(3, 4, 1.0)
    Slopes.of([net]).flat[:] = 0
    assert not any(parameter.any() for parameter in net.parameters())


def test_training_begins_with_a_straight_line_and_ends_closer():
    features, counts = examples(400, 5, 12)
    scaled = ((features - features.mean((0, 1))) / features.std((0, 1))).astype(np.float32)
    loss = []
    for epochs in (0, 2):
        torch.manual_seed(0)
        net = CountNet(8, 8, math.sqrt(12 / 5))
        plain = surprise(net(torch.from_numpy(scaled)), torch.from_numpy(counts), 12).item()
        train([net], [Exercise(scaled, counts, 12, epochs, np.random.default_rng(1))])
        loss.append(surprise(net(torch.from_numpy(scaled)), torch.from_numpy(counts), 12).item())
    assert loss[1] < loss[0] < 0.9 * plain


def exercise(spread, number=800, seed=0):
    """Show counts of 12 labels of 5 classes by their roots and some noise, and noise alone."""
    made = np.random.default_rng(seed)
    counts = made.multinomial(12, np.full(5, 1 / 5), size=number)
    noise = made.normal(size=(number, 5, 2))
    features = np.stack([np.sqrt(counts) + spread * noise[..., 0], noise[..., 1]], axis=2)
    scaled = ((features - features.mean((0, 1))) / features.std((0, 1))).astype(np.float32)
    return Exercise(scaled, counts, 12, 4, np.random.default_rng(seed + 1))


def network(seed=0):
    torch.manual_seed(seed)
    return CountNet(2, 8, math.sqrt(12 / 5))


@pytest.mark.parametrize(("spread", "steps"), [(0.02, 50), (0.4, 100)])
def test_what_a_line_nearly_tells_is_learnt_in_half_the_passes(monkeypatch, spread, steps):
    taken, measured = [], Slopes.measure
    monkeypatch.setattr(
        Slopes, "measure", lambda own, shown: taken.append(shown) or measured(own, shown)
    )
    train([network()], [exercise(spread)])
    assert len(taken) == steps


def test_networks_that_are_trained_in_one_are_those_trained_alone():
    spreads = (0.4, 0.02, 0.6)  # the second one takes half the passes
    together = [network(seed) for seed in range(3)]
    train(together, [exercise(spread, 210, seed) for seed, spread in enumerate(spreads)])
    for seed, spread in enumerate(spreads):
        alone = network(seed)
        train([alone], [exercise(spread, 210, seed)])
        found = zip(alone.parameters(), together[seed].parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in found)


@pytest.mark.parametrize("width", [6, 33])
def test_answers_do_not_depend_on_what_was_learnt_beside_or_read_from_a_note(width):
    made = (examples(40, 5, 9, seed) for seed in range(3))
    features, counts = (np.stack(part) for part in zip(*made, strict=True))
    shown = torch.from_numpy(features)

    def lessons():
        return [
            Lesson(one, own, 9, 1, np.random.default_rng(0), width)
            for one, own in zip(shown, counts, strict=True)
        ]

    together = CountPosterior.fit_all(lessons())
    for place, lesson in enumerate(lessons()):
        (alone,) = CountPosterior.fit_all([lesson])
        noted = CountPosterior.unpack(alone.pack(), 9)
        for other in (together[place], noted):
            assert (alone.tails(shown[place]) == other.tails(shown[place])).all()
        for parameter in together[place].net.parameters():  # as torch lays out what it reads
            assert parameter.data_ptr() % 64 == 0
