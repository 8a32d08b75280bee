"""A client's steps are torch's own optimiser's, and leave the model that it was sent alone."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from contract import scenarios
from labelleak.core.knowledge import LabelledData
from labelleak.core.local_steps import make_optimiser
from labelleak.core.observation import Observation
from labelleak.core.training import FullTraining
from labelleak.core.white_box import WhiteBox
from labelleak.errors import BadInput
from labelleak.simulation.client import consumed_labels, draw_steps, train_locally
from labelleak.simulation.gradients import autograd_gradients
from simulation.networks import network


@pytest.fixture
def model():
    return network(5)


@pytest.fixture
def data():
    made = torch.Generator().manual_seed(0)
    return LabelledData(torch.randn(24, 6, generator=made), torch.arange(24) % 4)


BATCHES = np.arange(24).reshape(3, 8)


def observe(model, after, training):
    return Observation.from_update(
        model.state_dict(),
        after,
        head="2",
        lr=training.lr,
        local_steps=training.local_steps,
        batch_size=8,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
    )


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_one_step_gives_back_the_gradient(model, data, decay):
    training = FullTraining(lr=0.1, batch_size=8, weight_decay=decay)
    seen = observe(model, train_locally(model, data, BATCHES[:1], training), training)
    true = autograd_gradients(WhiteBox(model, "2"), data, BATCHES[:1])
    torch.testing.assert_close(seen.weight.float(), true.weight[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.bias.float(), true.bias[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_small_steps_give_the_weighted_mean_of_the_steps_gradients(model, data, momentum):
    training = FullTraining(lr=1e-4, local_steps=3, batch_size=8, momentum=momentum)
    double = model.double()
    exact = LabelledData(data.inputs.double(), data.labels)
    seen = observe(double, train_locally(double, exact, BATCHES, training), training)
    steps = autograd_gradients(WhiteBox(double, "2"), exact, BATCHES).bias
    replays = torch.tensor([1 + momentum + momentum**2, 1 + momentum, 1.0]).double()
    mean = (replays / replays.sum()) @ steps
    torch.testing.assert_close(seen.bias, mean, rtol=1e-3, atol=1e-4)
    assert seen.num_samples == 24


def test_adam_moves_by_the_learning_rate_in_its_first_step(model, data):
    training = FullTraining(lr=1e-3, optimiser="adam")
    after = train_locally(model, data, BATCHES[:1], training)
    moved = (after["2.bias"] - model.state_dict()["2.bias"]).abs()
    torch.testing.assert_close(moved, torch.full((4,), 1e-3), rtol=1e-2, atol=1e-6)


def test_steps_follow_torchs_optimiser_one_by_one(model, data):
    twin = copy.deepcopy(model)
    optimiser = torch.optim.Adam(twin.parameters(), lr=0.01)
    for batch in torch.from_numpy(BATCHES):
        optimiser.zero_grad()
        nn.CrossEntropyLoss()(twin(data.inputs[batch]), data.labels[batch]).backward()
        optimiser.step()
    training = FullTraining(lr=0.01, local_steps=3, optimiser="adam")
    after = train_locally(model, data, BATCHES, training)
    assert all(torch.equal(after[name], value) for name, value in twin.state_dict().items())


def test_the_model_stays_and_its_buffers_come_back(data):
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))
    before = copy.deepcopy(model.state_dict())
    after = train_locally(model, data, BATCHES, FullTraining(lr=0.1, local_steps=3))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert after.keys() == before.keys()
    assert int(after["1.num_batches_tracked"]) == 3
    assert not any(value.requires_grad for value in after.values())


def test_dropout_is_drawn_from_the_seed(data):
    model = nn.Sequential(nn.Linear(6, 5), nn.Dropout(), nn.Linear(5, 4))
    state = torch.random.get_rng_state()
    one, same, other = (
        train_locally(model, data, BATCHES, FullTraining(lr=0.1), seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(one["2.weight"], same["2.weight"])
    assert not torch.equal(one["2.weight"], other["2.weight"])
    assert torch.equal(state, torch.random.get_rng_state())


OPTIONS = [
    {"optimiser": "adam"},
    {"momentum": 0.9, "weight_decay": 0.01},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.5, "dampening": 0.3},
    {"proximal": 0.4},
    {"clip_norm": 0.2},
    {"proximal": 0.4, "clip_norm": 0.2},
    {"label_smoothing": 0.2},
    {"class_weights": (1.0, 2.0, 3.0, 0.5)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_is_what_a_hand_written_loop_does(model, data, options):
    training = FullTraining(lr=0.1, local_steps=3, batch_size=8, **options)
    twin = copy.deepcopy(model)
    start = [p.detach().clone() for p in twin.parameters()]
    optimiser = make_optimiser(twin.parameters(), training)
    weights = options.get("class_weights")
    for batch in torch.from_numpy(BATCHES):
        loss = nn.functional.cross_entropy(
            twin(data.inputs[batch]),
            data.labels[batch],
            weight=None if weights is None else torch.tensor(weights),
            label_smoothing=training.label_smoothing,
        )
        pull = sum(((p - s) ** 2).sum() for p, s in zip(twin.parameters(), start, strict=True))
        optimiser.zero_grad()
        (loss + training.proximal / 2 * pull).backward()
        if training.clip_norm:
            norm = sum((p.grad**2).sum() for p in twin.parameters()) ** 0.5
            for p in twin.parameters():
                p.grad *= min(1.0, training.clip_norm / float(norm))
        optimiser.step()
    after = train_locally(model, data, BATCHES, training)
    plain = train_locally(model, data, BATCHES, FullTraining(lr=0.1))
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(after[name], value, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(after["2.weight"], plain["2.weight"], rtol=1e-3)


def test_steps_may_differ_in_length_and_the_truth_comes_aside(model, data):
    steps = (np.array([0, 1, 2]), np.array([7]))
    how = FullTraining(lr=0.1, local_steps=2)
    update = scenarios.trained_update(model, data, steps, how)
    assert [one.tolist() for one in consumed_labels(data, steps)] == [[0, 1, 2], [3]]
    assert all(torch.equal(update.before[n], v) for n, v in model.state_dict().items())
    assert update.before["2.weight"].data_ptr() != model[2].weight.data_ptr()
    seen = update.observe("2")
    moved = (update.before["2.bias"] - update.after["2.bias"]).double() / 0.2
    torch.testing.assert_close(seen.bias, moved)
    assert (seen.num_samples, seen.local_steps) == (4, 2)


def test_a_server_that_knows_the_training_undoes_it_and_keeps_the_rest(model, data):
    training = FullTraining(lr=0.1, batch_size=8, momentum=0.9, nesterov=True, weight_decay=0.01)
    update = scenarios.trained_update(model.double(), exact(data), BATCHES[:1], training)
    names = [name for name, _ in model.named_parameters()]
    seen = update.observe("2", rest=names)
    true = autograd_gradients(WhiteBox(model, "2"), exact(data), BATCHES[:1], full=True)
    assert seen.rest.keys() == {"0.weight", "0.bias"}
    for name, gradient in true.rest.items():
        torch.testing.assert_close(seen.rest[name], gradient[0], rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(seen.weight, true.weight[0], rtol=1e-5, atol=1e-9)


def exact(data):
    return LabelledData(data.inputs.double(), data.labels)


@given(
    number=st.integers(1, 30),
    size=st.integers(1, 12),
    length=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_steps_go_through_shuffles_of_the_clients_own_samples(number, size, length, seed):
    own = np.arange(100, 100 + number)
    steps = draw_steps(own, size, np.random.default_rng(seed), steps=length)
    assert [len(one) for one in steps] == [min(size, number)] * length
    assert all(len(set(one.tolist())) == len(one) for one in steps)
    uses = np.bincount(np.concatenate(steps) - 100, minlength=number)
    assert uses.max() - uses.min() <= 1
    again = draw_steps(own, size, np.random.default_rng(seed), steps=length)
    assert all(map(np.array_equal, steps, again))


def test_each_epoch_is_a_shuffle_and_the_short_batch_is_kept_or_dropped():
    rng = np.random.default_rng(1)
    kept = draw_steps(np.arange(10), 4, rng, epochs=2)
    assert [len(one) for one in kept] == [4, 4, 2, 4, 4, 2]
    assert sorted(np.concatenate(kept[:3])) == sorted(np.concatenate(kept[3:])) == list(range(10))
    assert not np.array_equal(kept[0], kept[3])
    dropped = draw_steps(np.arange(10), 4, rng, epochs=2, last="drop")
    assert [len(one) for one in dropped] == [4, 4, 4, 4]
    assert [len(one) for one in draw_steps(np.arange(3), 4, rng, epochs=1, last="drop")] == [3]


@pytest.mark.parametrize(
    "asked", [{}, {"steps": 1, "epochs": 1}, {"steps": 0}, {"epochs": 0}], ids=str
)
def test_a_length_that_makes_no_sense_is_refused(asked):
    with pytest.raises(BadInput, match=r"steps? or epochs?"):
        draw_steps(np.arange(3), 2, np.random.default_rng(0), **asked)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lr": 0.0}, "`lr` must be a number above 0"),
        ({"momentum": 1.0}, "`momentum` must be a number of at least 0 and below 1"),
        ({"optimiser": "lion"}, "one of sgd, adam"),
        ({"clip_norm": 0.0}, "`clip_norm` must be"),
        ({"label_smoothing": 1.0}, "`label_smoothing` must be"),
        ({"class_weights": (1.0, 0.0)}, "`class_weights` must be"),
        ({"nesterov": True}, "Nesterov"),
    ],
)
def test_options_out_of_range_are_refused_in_a_sentence(options, sentence):
    with pytest.raises(BadInput, match=sentence):
        FullTraining(**{"lr": 0.1, **options})
