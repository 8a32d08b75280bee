"""The shadow attack on the whole update: bridges, rows that move together, and what it names."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from contract.scenarios import FEATURES, answer, blobs, network, one_step, several_steps, train
from labelleak.attacks import AdaptiveLayerShadow, LayerShadow
from labelleak.attacks.layers.reading import LayerReader
from labelleak.attacks.shadow.bridges import Bridges, folds_of, groups_of, one_hot_errors
from labelleak.attacks.shadow.posterior import CountPosterior
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge
from labelleak.core.observation import Observation
from labelleak.core.score import score
from labelleak.core.white_box import WhiteBox
from labelleak.defenses import parse_defense
from labelleak.files.fit_cache import FolderFitCache
from labelleak.simulation.gradients import autograd_gradients

QUICK = {"batches": 300, "epochs": 8}


def withheld(seen):
    return replace(seen, weight=torch.zeros_like(seen.weight), bias=None)


def reader_of(model):
    known = Knowledge(WhiteBox(model, "2"), (FEATURES,), blobs(5))
    return LayerReader.of(known, 5, np.random.default_rng(0), frozenset({"0", "2"}))


def test_a_bridge_makes_a_layer_below_a_linear_one_the_head():
    """Without an activation the signal is W^T e, so the bridged gradient is ``sum e a^T``."""
    model = nn.Sequential(nn.Linear(FEATURES, 16), nn.Identity(), nn.Linear(16, 5))
    reader, data = reader_of(model), blobs(5)
    errors = one_hot_errors(reader.table.seen.probabilities, data.labels)
    rows = torch.arange(len(data))
    bridges = Bridges.learn(reader, ["0.weight", "0.bias"], errors, data.labels, rows)
    batch = np.arange(9)[None]
    seen = autograd_gradients(reader.model, data, batch, full=True)
    weight, bias = bridges.cross(seen.rest)["0"]
    expected = errors[:9].T @ data.inputs[:9].double() / 9
    assert torch.allclose(weight[0].double(), expected, atol=0.02)
    assert torch.allclose(bias[0].double(), errors[:9].mean(dim=0), atol=0.02)


def test_bridges_by_products_are_those_by_the_rows(monkeypatch):
    layers = nn.Linear(FEATURES, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5)
    known = Knowledge(WhiteBox(nn.Sequential(*layers), "4"), (FEATURES,), blobs(5))
    reader = LayerReader.of(known, 5, np.random.default_rng(0), frozenset({"0", "2", "4"}))
    errors = one_hot_errors(reader.table.seen.probabilities, blobs(5).labels)
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert len(groups_of(names)) == 3
    part = torch.arange(0, len(errors), 2)
    found = Bridges.learn(reader, names, errors, blobs(5).labels, part)
    assert set(reader.held) == set(groups_of(names)[:-1])  # all layers' are the sum of theirs
    monkeypatch.setattr(LayerReader, "products", lambda self, names: None)
    plain = Bridges.learn(reader, names, errors, blobs(5).labels, part)
    rest = torch.arange(1, len(errors), 2)
    assert torch.allclose(found.score_samples(rest), plain.score_samples(rest), rtol=1e-6)
    for one, two in zip(found.scores, plain.scores, strict=True):
        assert one.names == two.names
        assert one.width == two.width == 10
        assert torch.allclose(one.to, two.to, rtol=1e-6, atol=1e-8 * float(two.to.abs().max()))


def test_scores_of_a_batch_are_the_sum_of_its_samples():
    reader, data = reader_of(network()), blobs(5)
    errors = one_hot_errors(reader.table.seen.probabilities, data.labels)
    names = ["0.weight", "0.bias"]
    bridges = Bridges.learn(reader, names, errors, data.labels, torch.arange(len(data)))
    batch = np.array([[3, 1, 4, 1]])
    seen = autograd_gradients(reader.model, data, batch, full=True)
    single = bridges.score(reader.table.rows, len(data))[batch[0]].mean(dim=0)
    own = bridges.score_samples(torch.from_numpy(batch[0])).mean(dim=0)
    assert torch.allclose(own, single, atol=1e-8)
    assert torch.allclose(bridges.score(reader.sketch(seen.rest), 1)[0], single, atol=1e-5)


def test_many_layers_are_read_in_a_few_groups_and_all_together():
    names = [f"{layer}.{part}" for layer in range(9) for part in ("weight", "bias")]
    groups = groups_of(names)
    assert groups[-1] == tuple(names)
    assert [name for group in groups[:-1] for name in group] == names
    assert groups_of(names[:2]) == [("0.weight", "0.bias")]


def test_folds_divide_every_class():
    labels = np.repeat(np.arange(4), 6)
    folds = folds_of(labels, 3, np.random.default_rng(0))
    for label in range(4):
        assert np.bincount(folds[labels == label]).tolist() == [2, 2, 2]


@pytest.mark.parametrize("steps", [0, 60])
def test_a_withheld_head_hides_little(steps):
    model = train(network(nn.Tanh), blobs(5), steps)
    hidden = one_step("withheld", model, size=8, change=withheld)
    found = score(answer(LayerShadow(**QUICK), hidden).counts, hidden.truth).asr.mean()
    assert found >= (0.95 if steps == 0 else 0.6)


def test_where_no_layer_moved_the_head_is_read_alone():
    scenario = one_step("frozen", network(nn.Tanh))
    still = {name: torch.zeros_like(t) for name, t in scenario.observation.rest.items()}
    seen = replace(scenario.observation, rest=still)
    found = answer(LayerShadow(**QUICK), scenario, seen)
    assert score(found.counts, scenario.truth).asr.mean() >= 0.95


def test_beside_a_head_in_the_clear_layers_below_count_little_and_else_in_full(monkeypatch):
    scenario, told = one_step("plain", network(nn.Tanh)), []
    fit = CountPosterior.fit_all
    monkeypatch.setattr(
        CountPosterior, "fit_all", lambda asked: told.append(asked[0].trust) or fit(asked)
    )
    answer(LayerShadow(**QUICK), scenario)
    answer(LayerShadow(**QUICK), scenario, withheld(scenario.observation))
    answer(AdaptiveLayerShadow(**QUICK), scenario)
    beside, alone, adaptive = told
    # The layer's own features and the scores, then the head's, then constants of the class.
    where = np.flatnonzero(np.diff(beside.numpy())) + 1
    assert [float(beside[at]) for at in (0, *where)] == [0.1, 1.0, 0.1, 1.0]
    assert where[1] - where[0] == where[0]  # a head is read in as many ways as a layer
    assert len(beside) - where[2] == 4
    assert (alone == 1).all()
    assert adaptive is None


def test_a_single_sample_is_named_as_its_gradient_proves():
    model = train(network(nn.ReLU), blobs(5), 60)
    scenario = one_step("one", model, size=1, rows=200)
    found = answer(LayerShadow(batches=40, epochs=1), scenario)
    assert (found.counts == scenario.truth.counts).all()


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_sample_of_which_the_model_is_sure_does_not_hide_the_head_of_others(has_bias):
    reader, data = reader_of(network(nn.ReLU)), blobs(5, seed=2)
    seen = autograd_gradients(reader.model, data, np.arange(6)[:, None], full=True)
    # An error of 3e-5, of which rounding in float32 may leave 2 % over.
    sure = torch.tensor([-3e-5, 1e-5, 1e-5, 5e-6, 5e-6]) + torch.tensor([0, 0, 0, 0, 6e-7])
    inputs = seen.weight[0, 0] / seen.bias[0, 0]
    weight, bias = seen.weight.clone(), seen.bias.clone()
    weight[0], bias[0] = sure[:, None] * inputs, sure
    held = replace(seen, weight=weight, bias=bias if has_bias else None)
    assert "2.weight" in reader.shown(held)
    noised = replace(held, weight=weight + 0.05 * torch.randn_like(weight))
    assert "2.weight" not in reader.shown(noised)


def test_several_steps_are_imitated_on_all_layers():
    scenario = several_steps("steps")
    seen, model = scenario.observation, scenario.known.model.module
    generator = torch.Generator().manual_seed(0)
    rest = {
        name: torch.randn(6, *value.shape, generator=generator)
        for name, value in model.named_parameters()
        if name.startswith("0.")
    }
    found = answer(AdaptiveLayerShadow(batches=30, epochs=2), scenario, replace(seen, rest=rest))
    assert (found.counts.sum(-1) == seen.num_samples).all()


def test_the_adaptive_form_passes_its_batches_through_the_defense_on_all_layers():
    sigma = 0.05
    defense = parse_defense(f"gaussian:{sigma}")
    scenario = one_step("noised", network(nn.Tanh), size=8)
    generator = torch.Generator().manual_seed(0)

    def noised(value):
        return value + sigma * torch.randn(value.shape, generator=generator)

    seen = scenario.observation
    seen = Observation(
        noised(seen.weight),
        noised(seen.bias),
        seen.num_samples,
        rest={name: noised(value) for name, value in seen.rest.items()},
    )
    asr = {
        attack: score(
            answer(attack(**QUICK), scenario, seen, defense=defense).counts, scenario.truth
        ).asr.mean()
        for attack in (LayerShadow, AdaptiveLayerShadow)
    }
    assert asr[AdaptiveLayerShadow] >= 0.8
    assert asr[AdaptiveLayerShadow] >= asr[LayerShadow] - 0.05


def test_what_was_learnt_is_kept_by_all_that_it_depends_on(monkeypatch):
    said, model, data = [], train(network(), blobs(5), 20), blobs(5, seed=2)
    cache = FolderFitCache(tell=lambda what: said.append(what) if what else None)
    seen = autograd_gradients(WhiteBox(model, "2"), data, np.arange(24).reshape(3, 8), full=True)

    def counts(of, observation=seen):
        known = Knowledge(WhiteBox(of, "2"), (FEATURES,), blobs(5), fit_cache=cache)
        made = prepare(LayerShadow(batches=60, epochs=2), known, 5, np.random.default_rng(0))
        return made(observation).counts

    first = counts(model)
    assert len(said) == 1
    with monkeypatch.context() as blocked:
        blocked.setattr(CountPosterior, "_begin", None)  # so nothing can be learnt
        assert (counts(model) == first).all()
    counts(model, withheld(seen))
    counts(train(network(), blobs(5), 21))
    assert len(said) == 3, "of another part, and of another model, it is learnt anew"
