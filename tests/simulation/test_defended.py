"""Defended gradients: fast and slow ways agree, and the parts see what they need."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from contract.scenarios import blobs, network
from labelleak.attacks import LLG
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge
from labelleak.core.training import LocalTraining
from labelleak.core.update import Scope
from labelleak.core.white_box import WhiteBox
from labelleak.defenses import DEFENSES, Chain, parse_defense
from labelleak.errors import BadInput
from labelleak.simulation import defended
from labelleak.simulation.client import train_locally
from labelleak.simulation.defended import defend_update, defended_gradients
from labelleak.simulation.gradients import autograd_gradients

MODEL = WhiteBox(network(), "2")
DATA = blobs(5, seed=2)
BATCHES = np.random.default_rng(0).integers(len(DATA), size=(7, 8))
LOCAL = LocalTraining(lr=0.1, local_steps=7, batch_size=8)


def gradients(text, **options):
    return defended_gradients(MODEL, DATA, BATCHES, parse_defense(text), **options)


def test_no_defense_gives_the_plain_gradients():
    plain = autograd_gradients(MODEL, DATA, BATCHES, full=True)
    for full in (False, True):
        seen = defended_gradients(MODEL, DATA, BATCHES, Chain(), full=full)
        torch.testing.assert_close(seen.weight, plain.weight)
        torch.testing.assert_close(seen.bias, plain.bias)
        assert seen.num_samples == 8
    for name, tensor in plain.rest.items():
        torch.testing.assert_close(seen.rest[name], tensor)


@pytest.mark.parametrize(
    "text", ["prune:0.8", "clip_layers:0.1", "sign", "bits:4", "threshold:0.01"]
)
def test_head_table_and_autograd_agree(text):
    fast, slow = gradients(text), gradients(text, full=True)
    # Rounding may tip a tie between entries that are nearly equal.
    close = torch.isclose(fast.weight, slow.weight, atol=1e-6)
    assert close.double().mean() > 0.995
    torch.testing.assert_close(fast.bias, slow.bias, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("text", ["clip:0.1", "topk:0.05"])
def test_what_sees_the_update_is_given_all_of_it(text):
    assert parse_defense(text).scope is Scope.UPDATE
    seen, full = gradients(text), gradients(text, full=True)
    torch.testing.assert_close(seen.weight, full.weight)
    tensors = [t.flatten(1) for t in (full.weight, full.bias, *full.rest.values())]
    if text == "clip:0.1":
        norms = torch.cat(tensors, dim=1).norm(dim=1)
        assert norms.tolist() == pytest.approx([0.1] * len(BATCHES), rel=1e-4)
    else:
        kept = torch.cat(tensors, dim=1).count_nonzero(dim=1)
        total = sum(p.numel() for p in MODEL.module.parameters())
        assert (kept == round(0.05 * total)).all()


def test_slices_change_nothing(monkeypatch):
    whole = gradients("topk:0.3", full=True)
    monkeypatch.setattr(defended, "_SLICE_BYTES", 4000)
    sliced = gradients("topk:0.3", full=True)
    torch.testing.assert_close(whole.weight, sliced.weight)
    for name, tensor in whole.rest.items():
        torch.testing.assert_close(tensor, sliced.rest[name])


def test_seeds_decide_the_noise():
    first, again, other = (gradients("gaussian:1", seed=seed).weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_is_withheld_is_not_seen():
    assert gradients("withhold:bias").bias is None
    only_bias = gradients("withhold:weight")
    assert only_bias.weight is None
    assert only_bias.bias is not None
    nothing = gradients("withhold:head", full=True)
    assert not nothing.weight.any()
    assert nothing.rest["0.weight"].any()
    alone = WhiteBox(nn.Linear(12, 5), "")
    seen = defended_gradients(alone, DATA, BATCHES, parse_defense("withhold:head"), full=True)
    assert not seen.weight.any()


def test_a_withheld_head_is_not_seen_by_the_fast_way_either():
    seen = gradients("withhold:head")
    assert seen.trials == (7,)
    assert not seen.weight.any()


@pytest.mark.parametrize("text", ["clip:0.01", "clip_layers:0.01", "server_noise:10"])
def test_clipping_and_noise_at_the_server_leave_llgs_answer_as_it_was(text):
    answer = prepare(LLG(), Knowledge(), 5, np.random.default_rng(0))
    plain, seen = gradients("none"), gradients(text)
    assert (answer(seen).counts == answer(plain).counts).all()
    noised = gradients("gaussian:10")
    assert (answer(noised).counts != answer(plain).counts).any()


def trained():
    before = {**network().state_dict(), "steps": torch.tensor(3)}
    after = train_locally(network(), DATA, BATCHES, LOCAL)
    return before, {**after, "steps": torch.tensor(9)}


def test_new_weights_are_defended_by_their_difference():
    before, after = trained()
    rng = np.random.default_rng(0)
    same, memory = defend_update(before, after, Chain(), rng, head="2")
    assert memory is None
    for name, value in after.items():
        torch.testing.assert_close(same[name], value)
    sent, _ = defend_update(before, after, parse_defense("clip:0.001|withhold:head"), rng, head="2")
    assert torch.equal(sent["2.weight"], before["2.weight"])
    assert sent["steps"] == 9
    assert not torch.equal(sent["0.weight"], before["0.weight"])
    assert (sent["0.weight"] - before["0.weight"]).norm() <= 0.001
    with pytest.raises(BadInput, match="same names"):
        defend_update({}, after, Chain(), rng, head="2")


def test_feedback_of_new_weights_goes_from_round_to_round():
    before, after = trained()
    rng, defense, memory = np.random.default_rng(0), parse_defense("topk:0.1:feedback"), None
    total = torch.zeros_like(before["0.weight"])
    for _ in range(3):
        sent, memory = defend_update(before, after, defense, rng, memory, head="2")
        total += sent["0.weight"] - before["0.weight"]
    held = memory.parts[0].residual["0.weight"][0]
    torch.testing.assert_close(total + held, 3 * (after["0.weight"] - before["0.weight"]))


def test_every_defense_has_defended_gradients():
    from contract.test_defenses import FORMS

    for name in DEFENSES:
        seen = gradients(FORMS[name])
        assert seen.trials == (7,)
