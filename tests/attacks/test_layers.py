"""Attacks on the layers below the head, with the head withheld, noised or shared."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from contract.scenarios import FEATURES, answer, blobs, network, noised, one_step, train
from labelleak.attacks import (
    GDBR,
    AdaptiveLayerRegression,
    LayerRegression,
    LayerShadow,
    PlainLayerRegression,
)
from labelleak.attacks.layers import regression
from labelleak.attacks.layers.class_means import STEADY, ClassMeans, solve_steadied, weigh_each
from labelleak.attacks.layers.reading import LayerReader
from labelleak.attacks.layers.regression import choose_weighting, shares_of
from labelleak.attacks.layers.simulated import Measure, halve, simulate
from labelleak.attacks.shadow.layer_clients import LayerClient
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.layer_table import LayerTable
from labelleak.core.observation import Observation
from labelleak.core.rounding import round_counts
from labelleak.core.score import Truth, score
from labelleak.core.training import FullTraining
from labelleak.core.white_box import WhiteBox
from labelleak.defenses import parse_defense
from labelleak.errors import NotApplicable
from labelleak.simulation.defended import defended_gradients
from labelleak.simulation.gradients import autograd_gradients

BOTH = pytest.mark.parametrize("attack", [GDBR(), LayerRegression()], ids=lambda one: one.name)


rng = np.random.default_rng


def withheld(seen):
    """Leave the head out, as defenses do: a weight gradient of zeros stands for it."""
    return replace(seen, weight=torch.zeros_like(seen.weight), bias=None)


@BOTH
def test_a_withheld_head_hides_nothing_of_an_untrained_model(attack):
    scenario = one_step("withheld", network(nn.Tanh), size=8, change=withheld)
    found = answer(attack, scenario)
    assert score(found.counts, scenario.truth).asr.mean() >= 0.95


@BOTH
def test_a_noised_head_is_not_read(attack):
    scenario = one_step("noised", network(nn.Tanh), change=noised)
    alone = replace(scenario, observation=withheld(scenario.observation))
    assert (answer(attack, scenario).counts == answer(attack, alone).counts).all()


@BOTH
def test_where_no_layer_moved_there_is_nothing_to_read(attack):
    scenario = one_step("still", network(), change=withheld)
    still = {name: torch.zeros_like(t) for name, t in scenario.observation.rest.items()}
    with pytest.raises(NotApplicable, match=attack.name):
        answer(attack, scenario, replace(scenario.observation, rest=still))


@BOTH
def test_a_frozen_layer_is_passed_over(attack):
    scenario = one_step("frozen", network(nn.Tanh), change=withheld)
    rest = dict(scenario.observation.rest)
    rest["0.weight"] = torch.zeros_like(rest["0.weight"])
    seen = replace(scenario.observation, rest=rest)
    without = replace(seen, rest={"0.bias": rest["0.bias"]})
    assert (answer(attack, scenario, seen).counts == answer(attack, scenario, without).counts).all()


def test_gdbr_is_exact_for_the_bias_of_a_linear_layer_and_known_posteriors():
    rng = np.random.default_rng(0)
    body, head = nn.Linear(12, 16), nn.Linear(16, 5, bias=False)
    with torch.no_grad():
        head.weight.mul_(1e-4)  # posteriors of 1/K, whatever the input
    model = WhiteBox(nn.Sequential(body, head).double(), "1")
    data = blobs(5)
    data = LabelledData(data.inputs.double(), data.labels)
    batches = rng.integers(len(data), size=(10, 13))
    seen = withheld(autograd_gradients(model, data, batches, full=True))
    seen = replace(seen, rest={"0.bias": seen.rest["0.bias"]})
    ready = prepare(GDBR(), Knowledge(model, (12,), data), 5, rng)
    truth = np.stack([np.bincount(row, minlength=5) for row in data.labels.numpy()[batches]])
    found = ready(seen)
    assert (found.counts == truth).all()
    assert np.abs(found.scores - truth).max() < 0.01


def test_class_means_are_weighed_by_the_covariance_within_classes():
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    rows = torch.randn(90, 7, generator=rng).double() + 2 * torch.eye(7)[labels].double()
    found = ClassMeans.measure(rows, labels, 3)
    means = torch.stack([rows[labels == c].mean(dim=0) for c in range(3)])
    within = rows - means[labels]
    covariance = within.T @ within / 90
    covariance += STEADY * torch.trace(covariance) * torch.eye(7)
    assert torch.allclose(found.whitened, torch.linalg.solve(covariance, means.T).T)
    assert torch.allclose(means @ found.dual(1e-9).T, torch.eye(3).double(), atol=1e-5)


@pytest.mark.parametrize("apart", [0.0, 2.0, 1e3])
def test_class_means_by_products_of_the_rows_are_those_by_the_rows(apart):
    rng = torch.Generator().manual_seed(1)
    labels = torch.arange(60) % 3
    rows = torch.randn(60, 90, generator=rng).double() + apart * torch.eye(90)[labels].double()
    plain = ClassMeans.measure_each(rows, labels, 4, (STEADY, 1.0))  # of class 3 there is none
    found = weigh_each(rows @ rows.T, labels, 4, (STEADY, 1.0))
    for (weights, gram), other in zip(found, plain, strict=True):
        assert torch.allclose(weights @ rows, other.whitened, rtol=1e-7, atol=1e-9)
        assert torch.allclose(gram, other.gram, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("least", [1.0, 1e-9, -1e-9])
def test_a_system_that_rounding_left_without_a_root_is_solved_all_the_same(least):
    axes = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).double())[
        0
    ]
    gram = axes @ torch.diag(torch.tensor([5.0, 4, 3, 2, 1, least]).double()) @ axes.T
    right = torch.arange(12.0).double().reshape(6, 2)
    found = solve_steadied(gram, right)
    assert torch.allclose(gram @ found, right, atol=1e-5)


@pytest.mark.parametrize("spread", [0.0, 1e-9, 1e-6])
def test_a_spread_that_centring_would_lose_is_left_to_the_rows(spread):
    rng = torch.Generator().manual_seed(2)
    labels = torch.arange(12) % 3
    rows = torch.randn(3, 20, generator=rng).double()[labels]
    rows = rows + spread * torch.randn(12, 20, generator=rng)
    assert weigh_each(rows @ rows.T, labels, 3, (STEADY,)) is None


def test_products_are_worked_out_once_for_all_parts_and_not_of_many_samples(monkeypatch):
    scenario = one_step("plain", network(nn.Tanh))
    reader = LayerReader.of(scenario.known, 5, rng(0))
    names = list(reader.table.rows)
    found = reader.products(names)
    assert reader.products(tuple(names)) is found
    rows = torch.cat([reader.table.rows[name] for name in names], dim=1).double()
    assert torch.allclose(found, rows @ rows.T)
    monkeypatch.setattr("labelleak.attacks.layers.reading._FEW", len(rows) - 1)
    assert reader.products(names) is None
    measured = Measure(reader, torch.arange(0, len(rows), 2)).of(names, [STEADY])[0]
    monkeypatch.undo()
    again = Measure(reader, torch.arange(0, len(rows), 2)).of(names, [STEADY])[0]
    assert torch.allclose(measured.gram, again.gram, rtol=1e-7)


def test_attacks_that_read_layers_share_one_pass_of_the_same_and_no_other(monkeypatch):
    built, build = [], LayerTable.build

    def watched(*asked, **more):
        built.append(more["keep"])
        return build(*asked, **more)

    monkeypatch.setattr(LayerTable, "build", watched)
    known = one_step("plain", train(network(nn.Tanh), blobs(5), 5)).known
    attacks = GDBR(), LayerRegression(), LayerShadow(batches=20, epochs=1)
    for attack in attacks:
        prepare(attack, known, 5, rng(0))
    assert built == [{"0", "2"}]
    shared = LayerReader.of(known, 5, rng(1), frozenset({"2"}))
    alone = LayerReader.of(replace(known, made={}), 5, rng(1), frozenset({"2"}))
    assert len(built) == 2
    assert set(shared.table.layers) == set(alone.table.layers) == {"2"}
    for name, rows in alone.table.rows.items():
        assert torch.equal(shared.table.rows[name], rows)
    with torch.no_grad():
        known.model.module[0].weight[0, 0] += 1
    LayerReader.of(known, 5, rng(1))
    LayerReader.of(replace(known, auxiliary=blobs(5, seed=4)), 5, rng(1))
    assert len(built) == 4
    known.model.module[2].bias.requires_grad_(False)
    assert "2.bias" not in LayerReader.of(known, 5, rng(1)).table.rows
    monkeypatch.setattr("labelleak.attacks.layers.reading._LITTLE", 0)
    known = replace(known, made={})
    for keep in ((), ("0",), ("2",), ("0", "2")):
        reader = LayerReader.of(known, 5, rng(1), frozenset(keep))
        assert set(reader.table.layers) == set(keep)
    assert built[5:] == [set(), {"0"}, {"0", "2"}]


class Scaled(nn.Sequential):
    """A model with numbers in it that its state does not tell."""

    def __init__(self):
        super().__init__(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, 5))
        self.register_buffer("scale", torch.ones(1), persistent=False)
        self.plain = 1.0

    def forward(self, inputs):
        return super().forward(self.plain * self.scale * inputs)


def test_a_pass_is_not_shared_with_a_model_that_answers_otherwise_now():
    known = Knowledge(WhiteBox(Scaled(), "2"), (FEATURES,), blobs(5))
    model = known.model.module
    changes = (
        lambda: None,
        lambda: model.scale.mul_(2),
        lambda: setattr(model, "plain", 3.0),
        lambda: model[1].register_forward_hook(lambda _, __, given: -given),
    )
    for change in changes:
        change()
        shared = LayerReader.of(known, 5, rng(1)).table
        alone = LayerReader.of(replace(known, made={}), 5, rng(1)).table
        for name, rows in alone.rows.items():
            assert torch.equal(shared.rows[name], rows)
    assert len(known.made) == len(changes)


def test_a_pass_with_randomness_in_it_is_each_attack_s_own():
    model = nn.Sequential(nn.Linear(FEATURES, 16), nn.Dropout(), nn.Linear(16, 5)).train()
    known = Knowledge(WhiteBox(model, "2"), (FEATURES,), blobs(5))
    one, other = (LayerReader.of(known, 5, rng(seed)).table for seed in range(2))
    assert not torch.equal(one.rows["2.weight"], other.rows["2.weight"])
    assert not known.made


def test_regression_on_a_trained_model_is_above_plain_least_squares_in_the_mean():
    """The covariance within classes is what a trained model's few wrong samples need."""
    model = train(network(nn.Tanh), blobs(5), 60)
    asr = {}
    for attack in (LayerRegression(), PlainLayerRegression()):
        made = [one_step("trained", model, size=size, change=withheld) for size in (4, 8, 32)]
        found = [score(answer(attack, one).counts, one.truth).asr.mean() for one in made]
        asr[attack.name] = np.mean(found)
    assert asr["layer_regression"] >= max(0.6, asr["layer_least_squares"] + 0.02)


def test_of_two_weightings_the_one_that_reads_other_batches_is_chosen():
    """A trained model's few wrong samples may make the covariance worthless, or all that counts."""
    scenario = one_step("trained", train(network(nn.Tanh), blobs(5), 60), change=withheld)
    reader = LayerReader.of(scenario.known, 5, np.random.default_rng(0))
    names = [name for name in reader.table.rows if name not in reader.head]
    halves = simulate(reader, 8, 60, halve(reader, rng(0)), rng(1))
    chosen = choose_weighting(halves, names)

    def named(steady, prior):
        read = []
        for half in halves:
            ((gram, onto),) = half.onto(names, [steady])
            counts = round_counts(8 * shares_of(gram, onto, prior / 8), 8)
            read.append(score(counts, Truth(half.counts)).asr.mean())
        return np.mean(read)

    assert named(*chosen) == max(named(*one) for one in regression._WEIGHTINGS)


def test_what_samples_show_is_measured_once_for_all_batches():
    scenario = one_step("plain", network(nn.Tanh))
    reader = LayerReader.of(scenario.known, 5, rng(0))
    divided, names = halve(reader, rng(0)), list(reader.table.rows)
    for total in (4, 8):
        for half, (_, others) in zip(
            simulate(reader, total, 6, divided, rng(1)), divided, strict=True
        ):
            ((gram, _),) = half.onto(names, [STEADY])
            assert gram is others.of(names, [STEADY])[0].gram
    assert all(len(others.known) == 1 for _, others in divided)


def test_batches_are_measured_by_samples_that_are_not_in_them():
    scenario = one_step("plain", network(nn.Tanh))
    reader = LayerReader.of(scenario.known, 5, np.random.default_rng(0))
    first, second = simulate(reader, 8, 20, halve(reader, rng(0)), rng(1))
    assert not {*first.others.rows.tolist()} & {*second.others.rows.tolist()}
    assert len(first.others.rows) + len(second.others.rows) == len(reader.data)
    assert (first.counts.sum(axis=1) == 8).all()


def test_a_client_without_a_defense_sends_the_means_of_its_samples():
    scenario = one_step("plain", network(nn.Tanh))
    known = scenario.known
    reader = LayerReader.of(known, 5, np.random.default_rng(0))
    client = LayerClient(known.model, known.auxiliary, FullTraining(), parse_defense("none"))
    made = (simulate(reader, 8, 20, halve(reader, rng(0)), rng(1), who) for who in (None, client))
    for own, sent in zip(*made, strict=True):
        for name, sketch in own.sketches.items():
            assert torch.allclose(sketch, sent.sketches[name], atol=1e-6)


@pytest.mark.parametrize("text", ["gaussian:0.05", "withhold:head|gaussian:0.05", "head_noise:3"])
def test_who_knows_the_noise_on_all_layers_names_more(text):
    model, own, victims = network(nn.Tanh), blobs(5), blobs(5, seed=2)
    defense, picks = parse_defense(text), np.random.default_rng(5).integers(150, size=(100, 8))
    white = WhiteBox(model, "2")
    seen = defended_gradients(white, victims, picks, defense, full=True)
    known = Knowledge(white, (own.inputs.shape[1],), own, defense=defense)
    truth = Truth.from_labels(victims.labels.numpy()[picks], 5)
    asr = {}
    for attack in (LayerRegression(), AdaptiveLayerRegression(batches=200)):
        found = prepare(attack, known, 5, np.random.default_rng(0))(seen)
        asr[attack.name] = score(found.counts, truth).asr.mean()
    assert asr["layer_regression_adaptive"] > asr["layer_regression"] - 0.02
    assert asr["layer_regression_adaptive"] > 0.75


def test_batches_of_any_shape_of_observation_are_read():
    scenario = one_step("withheld", network(nn.Tanh), change=withheld)
    seen = scenario.observation
    one = Observation(
        seen.weight[0], None, seen.num_samples, rest={k: v[0] for k, v in seen.rest.items()}
    )
    found = answer(LayerRegression(), scenario, one)
    assert found.counts.shape == (5,)


def test_one_sample_of_each_class_shows_no_spread_and_still_gives_finite_means():
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 7)))
    found = ClassMeans.measure(rows, torch.arange(3), 3)
    assert np.isfinite(found.onto(rows)).all()
    assert found.onto(rows).argmax(axis=1).tolist() == [0, 1, 2]
