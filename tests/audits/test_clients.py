"""What clients share, cell by cell: gradients, local training and averages, each with its truth."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import labelleak
from labelleak.audits.audited_model import build, view_model
from labelleak.audits.clients import Clients
from labelleak.audits.options import check_options
from labelleak.audits.plan import NO_DEFENSE, plan_audit
from labelleak.simulation.gradients import autograd_gradients

SMALL = {"model": "mlp", "trials": 4, "initialisations": 1, "schemes": ("unbalanced",)}


def clients_of(**choices):
    plan = plan_audit(check_options(**{**SMALL, **choices}))
    model = view_model(plan.options, plan.data, build(plan.options, plan.data, 0))
    return plan, Clients(plan, model, 0, 4)


def test_every_list_of_conditions_multiplies():
    plan, _ = clients_of(
        batch_sizes=(2, 4), local_steps=(1, 3), lr=(0.1, 0.2), clients=(1, 2), schemes=("iid",)
    )
    assert len(plan.cells) == len(set(plan.cells)) == 2**4


def test_an_average_over_clients_is_one_large_batch_under_fedsgd():
    plan, clients = clients_of(batch_sizes=(4,), clients=(3,))
    shared = clients.share(plan.cells[0])
    assert shared.observation.num_samples == 12
    assert shared.truth.counts.sum(axis=1).tolist() == [12] * 4
    drawn = clients._draw(plan.cells[0], plan.roles.victims.labels.numpy())
    each = [clients._differentiate(drawn[:, [one]], plan.cells[0]) for one in range(3)]
    mean = torch.stack([one.weight for one in each]).mean(dim=0)
    assert torch.allclose(shared.observation.weight, mean, atol=1e-6)


def test_an_average_is_scored_against_its_single_clients_too():
    few = {"attacks": ["free", "llg", "llg_plus", "rlu"], "training_steps": [0]}
    found = labelleak.audit(**SMALL, **few, batch_sizes=[4], clients=[1, 3]).records
    alone = [r for r in found if r.extra["clients"] == 1]
    averaged = [r for r in found if r.extra["clients"] == 3]
    assert not any("asr_client" in r.extra for r in alone)
    assert {r.extra["asr_client_free"] for r in averaged} == {alone[0].asr_free}
    best = [r for r in averaged if r.attack == "rlu"]
    assert all(r.extra["asr_client"] < r.asr for r in best)  # who had which label stays hidden


def test_one_local_step_of_adam_is_no_gradient_and_of_sgd_is():
    plan, clients = clients_of(batch_sizes=(4,), optimiser="adam", lr=(0.01,))
    shared = clients.share(plan.cells[0])
    assert not plan.cells[0].shares_gradient
    assert shared.extra["optimizer"] == "adam lr 0.01"
    plain, gradient = clients_of(batch_sizes=(4,), lr=(0.01,))
    assert gradient.share(plain.cells[0]).extra["optimizer"] == "one step"


@pytest.mark.parametrize("steps", [1, 2])
def test_weights_after_local_steps_tell_what_the_gradients_tell(steps):
    """One step of momentum SGD through weights equals the gradient; more have an average."""
    plan, clients = clients_of(
        batch_sizes=(4,), local_steps=(steps,), lr=(1e-4,), momentum=0.9, weight_decay=0.01
    )
    cell = plan.cells[0]
    drawn = clients._draw(cell, plan.roles.victims.labels.numpy())
    trained = clients._train(drawn, clients.training(cell), cell)
    gradients = clients._differentiate(drawn, cell)
    if steps == 1:
        difference = (trained.weight - gradients.weight.double()).abs().max()
        assert difference < 2e-3 * gradients.weight.abs().max()  # float32 weights, lr 1e-4
    assert trained.num_samples == 4 * steps
    correlation = np.corrcoef(trained.row_sums.ravel(), gradients.row_sums.ravel())[0, 1]
    assert correlation > 0.9


def test_cells_that_differ_in_the_rate_only_share_their_batches():
    plan, clients = clients_of(batch_sizes=(4,), local_steps=(2,), lr=(0.1, 0.2))
    first, second = (clients.share(cell) for cell in plan.cells)
    assert (first.truth.counts == second.truth.counts).all()
    assert first.extra["lr_h2"] < second.extra["lr_h2"]


def test_local_steps_may_go_through_the_data_more_than_once():
    plan, clients = clients_of(batch_sizes=(8,), local_steps=(100,), schemes=("iid",))
    assert clients.share(plan.cells[0]).observation.num_samples == 800


def test_training_over_users_is_by_rounds_and_recorded():
    found = labelleak.audit(
        **{**SMALL, "attacks": ["llg"]},
        batch_sizes=[4],
        training_steps=[0, 2],
        users=6,
        per_round=3,
        round_steps=2,
        partition="dirichlet:0.5",
        train_batch_size=8,
    ).records
    assert {r.training_steps for r in found} == {0, 2}
    assert {(r.extra["users"], r.extra["per_round"], r.extra["partition"]) for r in found} == {
        (6, 3, "dirichlet:0.5")
    }
    prints = {r.training_steps: r.extra["model_fingerprint"] for r in found}
    assert prints[0] != prints[2]


def defended(text, **choices):
    plan, clients = clients_of(batch_sizes=(4,), lr=(0.1,), defenses=(text,), **choices)
    return clients.share(plan.cells[0]).observation.weight


def test_small_defended_steps_share_the_mean_of_the_defended_gradients():
    plan, clients = clients_of(
        batch_sizes=(4,), lr=(1e-4,), defenses=("label_smoothing:0.3",), local_steps=(2,)
    )
    (cell,) = plan.cells
    drawn = clients._draw(cell, plan.roles.victims.labels.numpy())
    first, second = (clients._differentiate(drawn[:, :, s], cell).weight for s in (0, 1))
    shared = clients.share(cell).observation.weight
    mean = ((first + second) / 2).to(shared)
    torch.testing.assert_close(shared, mean, rtol=1e-2, atol=1e-3)
    plain = clients.share(replace(cell, defense=NO_DEFENSE)).observation.weight
    assert (plain - shared).abs().max() > 0.01


@pytest.mark.parametrize("text", ["dpsgd:1:0.5", "randomised_response:1", "mixup:1|clip:0.1"])
def test_training_defenses_act_at_every_local_step(text):
    again, seen = (defended(text, local_steps=(3,)) for _ in range(2))
    plain = defended("none", local_steps=(3,))
    assert torch.equal(again, seen)
    assert torch.isfinite(seen).all()
    assert not torch.allclose(seen, plain, atol=1e-4)


def test_clients_of_one_trial_draw_noise_of_their_own():
    """Noise of 16 clients averages out, which the same noise at all of them would not."""
    noise = {"local_steps": (2,), "schemes": ("iid",)}
    spread = {}
    for clients in (1, 16):
        noisy = defended("dpsgd:1:20", clients=(clients,), **noise)
        quiet = defended("dpsgd:1:0", clients=(clients,), **noise)
        spread[clients] = float((noisy - quiet).std())
    assert spread[16] == pytest.approx(spread[1] / 4, rel=0.25)


def test_bytes_are_of_what_a_client_sends_and_not_of_its_gradient():
    """Weights move by far less than a gradient, so fewer entries reach a threshold."""
    texts = ("none", "threshold:0.001", "bits:4")
    plan, clients = clients_of(
        batch_sizes=(4,), local_steps=(1, 2), lr=(0.05,), defenses=texts, model="mlp"
    )
    sent = {
        (cell.defense.label, cell.local_steps): clients.share(cell).extra["wire_bytes"]
        for cell in plan.cells
    }
    whole = 4 * (64 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10)
    assert sent["none", 1] == sent["none", 2] == whole
    assert 0 < sent["threshold:0.001", 2] < sent["threshold:0.001", 1] < whole
    assert sent["bits:4", 2] < whole / 7


def test_a_shadow_attacker_imitates_training_under_a_defense_that_is_not_too_slow():
    costly = ("soteria:0.5", "label_smoothing:0.1|soteria:0.5")
    found = labelleak.audit(
        **SMALL,
        batch_sizes=[4],
        local_steps=[2],
        training_steps=[0],
        attacks=["llg", "shadow_adaptive"],
        shadow_batches=10,
        defenses=["clip:1", "label_smoothing:0.3", *costly],
    ).records
    ran = {(r.defense, r.attack) for r in found}
    both = {"clip:1", "label_smoothing:0.3"}
    assert {defense for defense, attack in ran if attack == "shadow_adaptive"} == both
    for text in costly:
        said = next(r for r in found if r.defense == text).extra["not_applicable"]
        assert "takes hours" in said["shadow_adaptive"]


def test_the_same_defense_in_two_spellings_is_audited_once():
    found = labelleak.audit(
        **SMALL,
        batch_sizes=[4],
        training_steps=[0],
        attacks=["llg"],
        defenses=["clip:1|gaussian:1", "clip:1.0|gaussian:1"],
    ).records
    assert len({(r.trial, r.scheme, r.defense) for r in found}) == len(found)


def test_layers_below_the_head_are_there_for_attacks_that_read_them():
    _, plain = clients_of(batch_sizes=(4,), attacks=("llg",))
    plan, clients = clients_of(batch_sizes=(4,), attacks=("gdbr",))
    assert plain.share(plan.cells[0]).observation.rest is None
    shared = clients.share(plan.cells[0])
    assert shared.extra["gradient"] == "head_table"
    rest = shared.observation.rest
    drawn = clients._draw(plan.cells[0], plan.roles.victims.labels.numpy())
    full = autograd_gradients(
        clients.model, plan.roles.victims, drawn.reshape(len(drawn), -1), full=True
    )
    assert set(rest) == set(full.rest)
    for name in rest:
        assert torch.allclose(rest[name], full.rest[name], rtol=1e-4, atol=1e-7)
