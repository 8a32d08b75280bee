"""Training-time defenses: against naive loops, by simulation, and by two ways that must agree."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from contract.scenarios import blobs, network
from labelleak.core.white_box import WhiteBox
from labelleak.defenses import DPSGD, Mixup, RandomisedResponse, Soteria, parse_defense, soteria
from labelleak.defenses.dp_sgd import sample_norms
from labelleak.defenses.soteria import representation_scores
from labelleak.errors import BadInput
from labelleak.simulation.defended import defended_gradients

MODEL = WhiteBox(network(), "2")
DATA = blobs(5, seed=2)
BATCHES = np.random.default_rng(0).integers(len(DATA), size=(5, 8))
TARGETS = F.one_hot(DATA.labels, 5).float()
TEXTS = ["dpsgd:0.3:0", "dpsgd:0.3:1", "soteria:0.4", "label_smoothing:0.3"]


def naive_gradient(model, one, label):
    """The gradient of one sample's loss, by plain autograd."""
    loss = F.cross_entropy(model(one[None]), label[None])
    return torch.autograd.grad(loss, list(model.parameters()))


def test_per_sample_norms_are_those_of_a_loop():
    found = sample_norms(MODEL, DATA.inputs[:20], TARGETS[:20])
    loop = [
        torch.cat([g.flatten() for g in naive_gradient(MODEL.module, x, y)]).norm()
        for x, y in zip(DATA.inputs[:20], DATA.labels[:20], strict=True)
    ]
    torch.testing.assert_close(found.float(), torch.stack(loop).detach())


def test_clipped_means_are_those_of_a_loop():
    found = defended_gradients(MODEL, DATA, BATCHES, DPSGD(0.3, 0.0), full=True)
    for row, batch in enumerate(torch.from_numpy(BATCHES)):
        total = None
        for index in batch:
            g = naive_gradient(MODEL.module, DATA.inputs[index], DATA.labels[index])
            norm = torch.cat([part.flatten() for part in g]).norm()
            g = [part * min(1.0, 0.3 / norm) / len(batch) for part in g]
            total = g if total is None else [a + b for a, b in zip(total, g, strict=True)]
        torch.testing.assert_close(found.weight[row], total[2])
        torch.testing.assert_close(found.rest["0.weight"][row], total[0])


def test_smoothed_gradients_are_those_of_torch():
    found = defended_gradients(MODEL, DATA, BATCHES, parse_defense("label_smoothing:0.3"))
    for row, batch in enumerate(torch.from_numpy(BATCHES)):
        logits = MODEL.module(DATA.inputs[batch])
        loss = F.cross_entropy(logits, DATA.labels[batch], label_smoothing=0.3)
        (weight,) = torch.autograd.grad(loss, [MODEL.head_module.weight])
        torch.testing.assert_close(found.weight[row], weight)


@pytest.mark.parametrize("text", TEXTS)
def test_head_table_and_whole_model_agree(text):
    fast, slow = (
        defended_gradients(MODEL, DATA, BATCHES, parse_defense(text), full=full, seed=3)
        for full in (False, True)
    )
    torch.testing.assert_close(fast.weight, slow.weight, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(fast.bias, slow.bias, atol=1e-6, rtol=1e-4)


def test_dp_sgd_adds_the_noise_it_claims():
    many = np.repeat(BATCHES[:1], 3000, axis=0)
    clean, noised = (
        defended_gradients(MODEL, DATA, many, DPSGD(0.3, sigma)).weight for sigma in (0.0, 2.0)
    )
    added = noised - clean
    assert float(added.std()) == pytest.approx(2.0 * 0.3 / 8, rel=0.02)
    assert abs(float(added.mean())) < 0.001


@pytest.mark.parametrize("training", [True, False])
def test_dp_sgd_refuses_batch_norm_in_one_sentence(training):
    model = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)).train(training)
    with pytest.raises(BadInput, match=r"batch normalisation \('1'\) mixes samples"):
        defended_gradients(WhiteBox(model, "2"), DATA, BATCHES, DPSGD(1.0))


def test_randomised_response_keeps_labels_as_often_as_it_says():
    response = RandomisedResponse(1.5)
    targets = torch.eye(5)[torch.zeros(20_000, dtype=torch.int64)]
    _, changed = response.change_batch(targets, targets, np.random.default_rng(0))
    share = changed.mean(dim=0)
    assert float(share[0]) == pytest.approx(response.keeps(5), abs=0.01)
    assert float(share[1]) == pytest.approx((1 - response.keeps(5)) / 4, abs=0.01)
    assert response.keeps(5) / ((1 - response.keeps(5)) / 4) == pytest.approx(np.exp(1.5))


def test_mixup_keeps_the_weight_of_every_label():
    inputs, targets = DATA.inputs[:8], TARGETS[:8]
    mixed, soft = Mixup(1.0).change_batch(inputs, targets, np.random.default_rng(1))
    torch.testing.assert_close(soft.sum(dim=0), targets.sum(dim=0))
    torch.testing.assert_close(mixed.mean(dim=0), inputs.mean(dim=0))
    assert not torch.equal(mixed, inputs)
    words = torch.zeros(4, 3, dtype=torch.int64)
    with pytest.raises(BadInput, match="real-valued"):
        Mixup(1.0).change_batch(words, targets[:4], np.random.default_rng(1))


def test_dropout_drops_head_inputs_and_nothing_else():
    one = np.tile(BATCHES[0, :1], (4000, 1))
    seen = defended_gradients(MODEL, DATA, one, parse_defense("head_dropout:0.25"))
    active = MODEL.run(DATA.inputs[one[0]]).inputs[0] > 0
    dropped = (seen.weight[:, :, active].abs().sum(dim=1) == 0).double().mean()
    assert float(dropped) == pytest.approx(0.25, abs=0.02)
    assert not MODEL.head_module._forward_pre_hooks


def test_soteria_scores_and_prunes_as_defined():
    few = DATA.inputs[:4]
    scores = representation_scores(MODEL, few)
    body = MODEL.module[:2]
    for row, one in enumerate(few):
        slopes = torch.autograd.functional.jacobian(body, one)
        naive = body(one).abs() / slopes.norm(dim=1).clamp_min(1e-12)
        torch.testing.assert_close(scores[row], naive.detach(), rtol=1e-4, atol=1e-5)
    kept = Soteria(0.25).kept(MODEL, few)
    assert (kept.sum(dim=1) == 12).all()
    for row in range(4):
        assert scores[row][kept[row]].max() <= scores[row][~kept[row]].min()


def test_soteria_scores_slice_by_slice_as_in_one_go(monkeypatch):
    passed = []
    hook = MODEL.module[0].register_forward_pre_hook(lambda _, args: passed.append(len(args[0])))
    whole = representation_scores(MODEL, DATA.inputs[:20])
    monkeypatch.setattr(soteria, "_SLICE", 8)
    passed.clear()
    sliced = representation_scores(MODEL, DATA.inputs[:20])
    hook.remove()
    torch.testing.assert_close(sliced, whole)
    assert passed[-3:] == [8, 8, 4]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the peak")
def test_soteria_takes_bounded_memory_however_wide_the_head():
    program = """
import resource, torch
from labelleak.defenses import soteria
from labelleak.defenses.soteria import representation_scores
from labelleak.simulation.models import build_model
from labelleak.core.white_box import WhiteBox
torch.set_num_threads(1)
model = build_model("cnn", input_shape=(1, 28, 28), num_classes=10, init="uniform", seed=0)
white = WhiteBox(model, next(n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)))
assert white.head_module.in_features == 588
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
representation_scores(white, torch.rand(1, 1, 28, 28))
before = peak()
representation_scores(white, torch.rand(16, 1, 28, 28))
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # All slopes at once would be 588 x 16 x 784 floats, 30 MB; making them took hundreds.
    assert int(done.stdout) < 30


def test_soteria_refuses_models_that_mix_samples():
    model = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)).train()
    with pytest.raises(BadInput, match="passes each sample alone"):
        defended_gradients(WhiteBox(model, "2"), DATA, BATCHES, Soteria(0.5))


@pytest.mark.parametrize(
    "text", ["label_smoothing:0", "mixup:0", "head_dropout:0", "soteria:0", "dpsgd:inf:0",
             "randomised_response:inf"]
)  # fmt: skip
def test_training_defenses_that_are_off_change_nothing(text):
    plain, seen = (
        defended_gradients(MODEL, DATA, BATCHES, parse_defense(form), full=True)
        for form in ("none", text)
    )
    torch.testing.assert_close(seen.weight, plain.weight)
    torch.testing.assert_close(seen.rest["0.weight"], plain.rest["0.weight"])


def test_training_and_update_defenses_join():
    chain = parse_defense(
        "randomised_response:1|label_smoothing:0.1|dpsgd:0.3:0|topk:0.1|gaussian:0.01"
    )
    first, second = (defended_gradients(MODEL, DATA, BATCHES, chain, seed=4) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
