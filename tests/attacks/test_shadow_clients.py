"""Shadow clients: what they share is what a client with these labels would share."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from contract import scenarios
from labelleak.attacks import AdaptiveShadow, Shadow
from labelleak.attacks.many_clients import train_together
from labelleak.attacks.shadow.batches import draw_counts
from labelleak.attacks.shadow.clients import ShadowClient
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import LabelledData
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import WhiteBox
from labelleak.defenses import (
    DPSGD,
    Chain,
    Clipping,
    GaussianNoise,
    LabelSmoothing,
    Mixup,
    Pruning,
    TopK,
    Withholding,
)
from labelleak.simulation.client import train_locally

SCENARIO = scenarios.one_step("relu", scenarios.network())


def client(defense=None, **training):
    known = replace(
        SCENARIO.known,
        defense=defense or Chain(),
        training=LocalTraining(**{"lr": 0.1, "batch_size": 8, **training}),
    )
    attack = AdaptiveShadow(batches=40, epochs=1)
    return prepare(attack, known, 5, np.random.default_rng(0)), attack.prepare(
        known, 5, np.random.default_rng(0)
    )


def source(defense=None, **training):
    found = client(defense, **training)[1].source
    assert isinstance(found, ShadowClient)
    return found


def rng(seed=0):
    return np.random.default_rng(seed)


def test_without_a_defense_and_at_one_step_it_is_the_plain_attack():
    counts = draw_counts(4, 8, 5, rng())
    found = source()
    assert found.affords(40) == 40
    plain = found.bank.observe(counts, rng(1))
    assert torch.equal(found.observer()(counts, rng(1)).weight, plain.weight)
    answers = [
        prepare(attack, SCENARIO.known, 5, rng())(SCENARIO.observation).counts
        for attack in (Shadow(batches=40, epochs=1), AdaptiveShadow(batches=40, epochs=1))
    ]
    assert (answers[0] == answers[1]).all()


def test_shadows_pass_through_the_defense():
    counts = draw_counts(50, 8, 5, rng())
    plain = source().observer()(counts, rng(1))
    noised = source(GaussianNoise(0.5)).observer()(counts, rng(1))
    assert abs(float((noised.weight - plain.weight).std()) - 0.5) < 0.05
    pruned = source(Pruning(0.8)).observer()(counts, rng(1))
    assert float((pruned.weight == 0).double().mean()) >= 0.79
    withheld = source(Withholding("weight")).observer()(counts, rng(1))
    assert not withheld.weight.any()


@pytest.mark.parametrize("defense", [Clipping(0.01), TopK(0.2)])
def test_defenses_of_the_whole_update_see_all_of_it_at_full_budget(defense):
    found = source(defense)
    assert found.affords(40) == 40
    counts = draw_counts(6, 8, 5, rng())
    seen = found.observer()(counts, rng(1))
    assert seen.weight.shape == (6, 5, 16)
    rows = torch.from_numpy(found._pick(counts, rng(1)))
    batches = [LabelledData(found.data.inputs[row], found.data.labels[row]) for row in rows]
    update = Chain((defense,)).gradients(found.model, batches, rng(1), full=True)
    slow, _ = defense.apply(update, rng(1))
    assert torch.allclose(slow.tensors["2.weight"][:, found.order], seen.weight, atol=1e-6)
    if isinstance(defense, Clipping):
        assert float(seen.weight.flatten(1).norm(dim=1).max()) <= 0.01 + 1e-6


def test_what_ties_samples_together_is_made_one_by_one_of_an_eighth():
    tied = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.BatchNorm1d(16))
    known = SCENARIO.known
    model = torch.nn.Sequential(*list(known.model.module)[:2], tied, torch.nn.Linear(16, 5))
    model[2][0] = torch.nn.Linear(known.model.head_module.in_features, 16)
    box = WhiteBox(model.train(), "3")
    known = replace(known, model=box, defense=Chain((TopK(0.2),)))
    ready = AdaptiveShadow(batches=40, epochs=1).prepare(known, 5, rng())
    assert ready.source.affords(40) == 5
    assert ready.source.observer()(draw_counts(3, 8, 5, rng()), rng()).weight.shape == (3, 5, 16)
    assert source(local_steps=3, batch_size=4, optimiser="adam").affords(40) == 5
    assert source(local_steps=4000, batch_size=1).affords(40) == 5


@pytest.mark.parametrize("how", [{}, {"momentum": 0.9, "weight_decay": 0.01}])
def test_steps_side_by_side_are_those_taken_in_turn(how):
    found = source(local_steps=3, batch_size=4, **how)
    rows = found._pick(draw_counts(70, 12, 5, rng()), rng())
    together = train_together(
        found.model, found.data, rows, found.training, frozenset({"2.weight", "0.bias"})
    )
    assert set(together) == {"2.weight", "0.bias"}
    for number in (0, 69):
        alone = found._take_turn(rows[number], 0)
        for name, value in together.items():
            assert torch.allclose(value[number], alone[name], atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_local_steps_move_the_head_as_a_client_s_do(momentum):
    found = source(local_steps=3, batch_size=4, momentum=momentum)
    picks = found._pick(np.array([[4, 4, 4, 0, 0]]), rng())
    order = rng(7).permutation(picks[0])
    seen = found._train(picks, rng(7))
    after = train_locally(
        found.model.module, found.data, order.reshape(3, 4), found.training, seed=0
    )
    before = found.model.module.state_dict()
    moved = before["2.weight"] - after["2.weight"]
    weights = (1 - momentum ** np.arange(3, 0, -1)) / (1 - momentum) if momentum else np.ones(3)
    assert torch.allclose(seen.weight[0], (moved / (0.1 * weights.sum())).double(), atol=1e-5)


def test_slow_shadows_are_fewer_and_follow_the_bank_s_order():
    found = source(local_steps=2, batch_size=4)
    counts = np.zeros((3, 5), dtype=np.int64)
    counts[np.arange(3), [0, 2, 4]] = 8
    seen = found.observer()(counts, rng())
    assert (seen.bias.argmin(dim=1).numpy() == [0, 2, 4]).all()
    posterior = client(local_steps=2, batch_size=4)[0](SCENARIO.observation)
    assert (posterior.counts.sum(-1) == 8).all()


@pytest.mark.parametrize("defense", [Withholding("head"), Chain((TopK(0.2), Withholding("head")))])
@pytest.mark.parametrize("steps", [1, 2])
def test_of_a_withheld_head_every_shadow_shows_nothing(defense, steps):
    counts = draw_counts(6, 8, 5, rng())
    seen = source(defense, local_steps=steps).observer()(counts, rng(1))
    assert seen.weight.shape == (6, 5, scenarios.network()[2].in_features)
    assert not seen.weight.any()


@pytest.mark.parametrize(
    "more",
    [
        {"label_smoothing": 0.3},
        {"class_weights": (1.0, 2.0, 3.0, 1.0, 1.0)},
        {"clip_norm": 0.1},
        {"proximal": 5.0},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "dampening": 0.5},
    ],
    ids=lambda more: next(reversed(more)),
)
def test_everything_of_the_client_s_training_is_followed(more):
    found = source(local_steps=3, batch_size=4, **more)
    row = found._pick(np.array([[4, 4, 4, 0, 0]]), rng())
    after = found._take_steps(row, frozenset({"2.weight"}), rng(7))["2.weight"][0]
    # As `_take_steps` draws the order of the samples.
    order = rng(7).permutation(row[0])
    whole = train_locally(
        found.model.module, found.data, order.reshape(3, 4), found.training, seed=0
    )
    assert torch.allclose(after, whole["2.weight"], atol=1e-6)
    plain = source(local_steps=3, batch_size=4)._take_steps(row, frozenset({"2.weight"}), rng(7))
    assert not torch.allclose(after, plain["2.weight"][0], atol=1e-4)


@pytest.mark.parametrize("defense", [LabelSmoothing(0.4), DPSGD(0.05, 0.0), Mixup(1.0)])
def test_training_time_defenses_are_followed_at_every_step(defense):
    found = source(defense, local_steps=3, batch_size=4)
    assert found.affords(40) == 5
    row = found._pick(np.array([[4, 4, 4, 0, 0]]), rng())
    after = found._take_steps(row, frozenset({"2.weight"}), rng(7))["2.weight"][0]
    own = rng(7)
    order = own.permutation(row[0])
    client = WhiteBox(copy.deepcopy(found.model.module), "2")
    draws = np.random.default_rng(int(own.integers(2**31)))
    for step in order.reshape(3, 4):
        batch = LabelledData(found.data.inputs[step], found.data.labels[step])
        sent = defense.gradients(client, [batch], draws, full=True)
        with torch.no_grad():
            for name, weight in client.module.named_parameters():
                weight -= found.training.lr * sent.tensors[name][0]
    assert torch.allclose(after, client.module.state_dict()["2.weight"], atol=1e-6)
    plain = source(local_steps=3, batch_size=4)._take_steps(row, frozenset({"2.weight"}), rng(7))
    assert not torch.allclose(after, plain["2.weight"][0], atol=1e-4)
