"""Faults of public code, each on a minimal input: what the faulty rule answers and what is right.

The faulty rules are written here from their description, only to be shown wrong; the page
docs/public_faults.md tells each in words. A fault that comes back into this project fails here.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labelleak.attacks import LLG, LLGPlus, LLGStar
from labelleak.attacks.llg import Dummies, calibrate
from labelleak.core.counts import extract_counts
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.rounding import round_counts
from labelleak.core.training import FullTraining
from labelleak.core.white_box import HeadPass, WhiteBox
from labelleak.simulation.cohort import Federation, run_rounds
from labelleak.simulation.gradients import autograd_gradients
from labelleak.simulation.models import build_model

TWO_CLASSES = np.array([-4.0, -4.0, 2.0, 2.0, 2.0, 2.0])


def answer(weight, total):
    ready = LLG().prepare(Knowledge(), len(weight), np.random.default_rng(0))
    return ready(Observation.from_gradient(weight, num_samples=total)).counts


def test_a_stale_index_gives_all_further_labels_to_one_class():
    """B-1, B-10: stage 2 looks for the smallest class but subtracts at the last loop index."""
    g, impact, stale = TWO_CLASSES.copy(), -1.0, 5
    faulty = np.array([1, 1, 0, 0, 0, 0])
    g[:2] -= impact
    for _ in range(6):
        faulty[g.argmin()] += 1
        g[stale] -= impact
    assert faulty.tolist() == [7, 1, 0, 0, 0, 0]
    assert extract_counts(TWO_CLASSES, -1.0, 0.0, 8).tolist() == [4, 4, 0, 0, 0, 0]


def toy(labels, seed=0):
    """Give an untrained ReLU head, its data, and the gradient of the whole batch."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(6, 4)
    with torch.no_grad():
        model.weight.copy_(0.1 * torch.randn(4, 6, generator=generator))
        model.bias.zero_()
    data = LabelledData(torch.rand(len(labels), 6, generator=generator), torch.tensor(labels))
    box = WhiteBox(model, "")
    return box, data, autograd_gradients(box, data, np.arange(len(labels))[None])


def test_a_sum_over_all_classes_is_no_impact():
    """B-2, B-6, B-9: row sums of a softmax head sum to zero, so their mean says nothing."""
    box, data, seen = toy([0, 0, 0, 1, 2, 2, 3, 3])
    assert seen.row_sums.mean() == pytest.approx(0, abs=1e-7)
    found = calibrate([box.run(data.inputs)], data.labels.numpy(), 4)
    assert found.own < -1
    known = Knowledge(box, (6,), data)
    for attack in (LLGStar(Dummies.ONES), LLGPlus()):
        ready = attack.prepare(known, 4, np.random.default_rng(0))
        assert np.minimum(ready(seen).counts, [[3, 1, 2, 2]]).sum() >= 7


def test_an_update_has_the_other_sign_and_the_learning_rate_in_it():
    """B-4, B-10: after - before is -lr times the gradient: negative entries are the absent."""
    box, _, seen = toy([0, 0, 0, 0])
    head = box.module
    before = {"weight": head.weight.detach(), "bias": head.bias.detach()}
    lr = 0.1
    after = {
        "weight": before["weight"] - lr * seen.weight[0],
        "bias": before["bias"] - lr * seen.bias[0],
    }
    moved = (after["weight"] - before["weight"]).sum(1)
    assert moved.argmax() == 0
    assert set(np.flatnonzero(moved < 0)) == {1, 2, 3}  # the absent ones
    right = Observation.from_update(before, after, head="", lr=lr, batch_size=4)
    assert np.flatnonzero(right.row_sums < 0).tolist() == [0]
    assert np.allclose(right.bias_gradient, seen.bias_gradient[0], atol=1e-6)


def test_stage_one_stops_at_n_labels_and_keeps_the_most_negative():
    """A-5, B-5, B-9: uncapped, noise makes too many answers; sorted ids keep the wrong ones."""
    g = np.array([-0.1, -5.0, -0.2, -4.0, 9.3])
    uncapped = np.flatnonzero(g < 0)
    assert len(uncapped) > 2
    assert uncapped[:2].tolist() == [0, 1]  # truncated by class id, not by evidence
    assert extract_counts(g, -1.0, 0.0, 2).tolist() == [0, 1, 0, 1, 0]


def test_random_dummies_are_inputs_that_a_model_knows():
    """A-7: an integer fill gives values up to 2^24; ours lie where data lie."""
    uniform = Dummies.UNIFORM.make((1, 8, 8), np.random.default_rng(0))
    assert uniform.min() >= 0
    assert uniform.max() <= 1
    integers = torch.empty(1000).random_()
    assert integers.max() > 1e6


def test_a_running_mean_with_constant_weight_is_not_the_mean():
    """B-7: folding in each user with weight 1/U weighs the last ones most."""
    updates = [1.0, 2.0, 3.0, 10.0]
    running = updates[0]
    for value in updates[1:]:
        running += (value - running) / len(updates)
    assert running == pytest.approx(3.765625)
    assert np.mean(updates) == 4.0


def test_clipping_the_batch_gradient_bounds_no_sample():
    """A-2, B-8: per-sample clipping bounds what one sample can do; clipping the mean does not."""
    samples = torch.tensor([[0.9, 0.0], [-0.9, 0.0], [100.0, 0.0], [-98.0, 0.0]])

    def clip(rows, most=1.0):
        return rows * (most / rows.norm(dim=-1, keepdim=True)).clamp(max=1)

    batch = clip(samples.mean(0))
    without = clip(samples[[0, 1, 3]].mean(0))
    assert (batch - without).norm() > 1.4  # one sample of four swings the whole answer
    per_sample = clip(samples).mean(0)
    swing = (per_sample - clip(samples[[0, 1, 3]]).sum(0) / 4).norm()
    assert swing <= 1 / 4 + 1e-6


def test_dropout_on_logits_is_not_dropout_of_features():
    """A-3: a dropped logit leaves its class out of the gradient, so the closed form breaks."""
    box, data, seen = toy([0, 1, 2, 3, 0, 1, 2, 3])
    mask = torch.tensor([1.0, 1.0, 0.0, 1.0])
    head = box.module
    loss = F.cross_entropy(head(data.inputs) * mask, data.labels)
    (dropped,) = torch.autograd.grad(loss, [head.weight])
    assert dropped[2].abs().max() == 0
    assert dropped.sum(0).abs().max() > 1e-3
    assert seen.weight[0].sum(0).abs().max() < 1e-6


def test_softmax_before_cross_entropy_breaks_the_identity():
    """A-11: a model that ends in softmax and is trained by cross-entropy has another gradient."""
    box, data, seen = toy([0, 0, 1, 2])
    head = box.module
    loss = F.cross_entropy(head(data.inputs).softmax(-1), data.labels)
    (doubled,) = torch.autograd.grad(loss, [head.bias])
    counts = np.bincount(data.labels, minlength=4)
    posterior = box.run(data.inputs).probabilities.sum(0).numpy()
    assert np.allclose(posterior - 4 * seen.bias_gradient[0], counts, atol=1e-5)
    assert not np.allclose(posterior - 4 * doubled.numpy(), counts, atol=0.3)
    mlp = build_model("mlp", input_shape=(1, 8, 8), num_classes=4, seed=0)
    assert not torch.allclose(mlp(torch.rand(3, 1, 8, 8)).sum(1), torch.ones(3), atol=1e-3)


def test_head_inputs_of_our_networks_are_not_negative():
    """A-11: a linear layer without activation before the head undoes P1; ours end in one."""
    for name in ("cnn", "lenet", "mlp", "resnet20", "resnet18"):
        model = build_model(name, input_shape=(1, 8, 8), num_classes=4, seed=0).eval()
        assert (WhiteBox(model, "head").run(torch.rand(4, 1, 8, 8)).inputs >= 0).all(), name


def test_missing_labels_go_where_they_are_owed():
    """B-11: a negative slice bound adds one label to almost every class."""
    owed = np.array([1.4, 0.3, 0.3, 0.0, 0.0, 0.0])
    floor = np.floor(owed).astype(int)
    missing = 2 - floor.sum()
    faulty = floor.copy()
    faulty[np.argsort(-owed)[:-missing]] += 1
    assert faulty.sum() == 6
    assert round_counts(owed, 2).tolist() == [2, 0, 0, 0, 0, 0]


def test_posteriors_are_averaged_over_samples_not_over_classes():
    """B-12: averaged over both, a posterior is 1/K whatever the model."""
    logits = torch.tensor([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    seen = HeadPass(torch.ones(2, 2), logits, logits)
    assert seen.probabilities.mean().item() == pytest.approx(1 / 3)
    assert seen.probabilities.mean(0)[0] > 0.9


def test_ranking_classes_but_zeroing_tensors_wipes_the_head_instead_of_pruning_it():
    """A-1: magnitudes of classes decide which whole tensors are zeroed, by position."""
    rng = np.random.default_rng(0)
    classes, tensors, head, theta, wiped = 10, 8, 6, 0.8, 0
    for _ in range(2000):
        sizes = np.abs(rng.normal(size=classes))
        least = np.quantile(sizes, theta)
        wiped += bool((sizes[:tensors] < least)[head])
    assert wiped / 2000 == pytest.approx(theta, abs=0.03)
    _, _, seen = toy([0, 0, 0, 0, 0, 0, 1, 2])
    flat = seen.weight[0].abs().flatten()
    kept = torch.where(seen.weight[0].abs() >= flat.quantile(0.8), seen.weight[0], 0.0)
    assert answer(kept, 8)[0] >= 6  # true pruning leaves the large classes readable


def test_one_normalisation_of_local_steps_is_enough():
    """B-12: an update divided by lr and steps must not be divided by the steps again."""
    box, _, seen = toy([0, 0, 0, 1, 1, 2])
    head = box.module
    before = {"weight": head.weight.detach()}
    summed = {"weight": before["weight"] - 0.01 * 5 * seen.weight[0]}
    found = Observation.from_update(before, summed, head="", lr=0.01, local_steps=5, batch_size=6)
    assert np.allclose(found.row_sums, seen.row_sums[0], atol=1e-4)
    assert found.num_samples == 30


def federation(rounds, steps=2):
    """Run three users of two classes each, and give their parts and rounds."""
    labels = np.repeat(np.arange(6), 8)
    data = LabelledData(torch.rand(48, 5), torch.from_numpy(labels))
    parts = [np.flatnonzero(labels // 2 == user) for user in range(3)]
    torch.manual_seed(0)
    how = Federation(FullTraining(0.5, steps, 4), rounds=rounds)
    return labels, parts, list(run_rounds(nn.Linear(5, 6), data, parts, how, seed=3))


def test_every_user_starts_from_the_last_mean():
    """Averaging into a copy that nobody trains leaves one user behind."""
    _, _, (first, second) = federation(2)
    mean = first.aggregated["weight"]
    # The faulty server loads the mean into a copy; who held the model goes on from its own.
    held = [client.update.tensors["weight"] for client in first.clients]
    faulty = [held[0], mean, mean]
    assert [bool((start == mean).all()) for start in faulty] == [False, True, True]
    assert torch.equal(second.sent["weight"], mean)
    for client in second.clients:
        assert torch.equal(client.update.before["weight"], mean)


def test_a_user_draws_from_its_own_samples():
    """A fresh pair of favoured classes at each step leaves users without a distribution."""
    labels, parts, rounds = federation(6)
    rng = np.random.default_rng(0)
    faulty = np.concatenate([rng.choice(6, 2, replace=False) for _ in rounds])
    assert len(set(faulty.tolist())) > 2  # the pair of one user, over rounds
    for one in rounds:
        for client in one.clients:
            assert set(client.consumed.tolist()) <= set(labels[parts[client.client]].tolist())


def test_a_victim_takes_all_its_local_steps():
    """A victim forced to one step shares a gradient; asked for ten steps it shares ten."""
    for steps in (1, 10):
        _, _, (only,) = federation(1, steps)
        for client in only.clients:
            assert len(client.labels) == client.update.training.local_steps == steps
            assert client.num_labels == 4 * steps
            assert client.observe("").num_samples == 4 * steps


def test_an_impact_over_the_steps_piles_labels_up():
    """A-10: gradients summed over ten steps, an impact divided by ten: labels weigh too little."""
    summed = np.array([-40.0, -20.0, 0.5, 0.5])
    assert extract_counts(summed, -1.0 / 10, 0.0, 60).tolist() == [59, 1, 0, 0]
    assert extract_counts(summed, -1.0, 0.0, 60).tolist() == [40, 20, 0, 0]
