"""What clients share, cell by cell: gradients, local training and averages, each with its truth."""

import numpy as np
import pytest
import torch

import labelleak
from labelleak.experiments.options import check_options
from labelleak.experiments.plan import build, plan_audit, view_model
from labelleak.experiments.updates import Clients

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
    each = [clients._differentiate(drawn[:, [one]], plan.cells[0].defense) for one in range(3)]
    mean = torch.stack([one.weight for one in each]).mean(dim=0)
    assert torch.allclose(shared.observation.weight, mean, atol=1e-6)


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
    gradients = clients._differentiate(drawn, cell.defense)
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
