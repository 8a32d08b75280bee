"""Rounds aggregate as written by hand, keep the truth aside, and come again from the same seed."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from labelleak.core.knowledge import LabelledData
from labelleak.core.score import Truth
from labelleak.core.training import LocalTraining
from labelleak.errors import BadInput
from labelleak.simulation.aggregation import average_states, server_step
from labelleak.simulation.cohort import Federation, run_rounds, sample_clients
from labelleak.simulation.partitions import parse_partition, partition_samples
from simulation.networks import network


@pytest.fixture
def model():
    return network(8)


@pytest.fixture
def data():
    made = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 4
    centres = torch.randn(4, 6, generator=made)
    return LabelledData(centres[labels] + 0.3 * torch.randn(120, 6, generator=made), labels)


def parts_of(data, name="iid", clients=5):
    scheme = parse_partition(name)
    return partition_samples(scheme, data.labels, clients, np.random.default_rng(0))


def flat(state):
    return torch.cat([value.double().flatten() for value in state.values()])


def test_fedsgd_is_one_step_on_all_the_clients_batches_together(model, data):
    how = Federation(LocalTraining(lr=0.3, batch_size=7), aggregation="fedsgd")
    (only,) = run_rounds(model.double(), exact(data), parts_of(data), how)
    twin = copy.deepcopy(model)
    pooled = drawn(only, parts_of(data))
    nn.CrossEntropyLoss()(twin(exact(data).inputs[pooled]), data.labels[pooled]).backward()
    for parameter in twin.parameters():
        parameter.data -= 0.3 * parameter.grad
    torch.testing.assert_close(flat(only.aggregated), flat(twin.state_dict()))
    assert [client.num_labels for client in only.clients] == [7] * 5


def exact(data):
    return LabelledData(data.inputs.double(), data.labels)


def drawn(made, parts):
    """Draw the indices of a round again, as the documented streams give them."""
    from labelleak.core.seeding import stream
    from labelleak.simulation.client import draw_steps

    picks = [
        draw_steps(parts[c.client], 7, stream(0, "steps", made.number, c.client), steps=1)
        for c in made.clients
    ]
    return torch.from_numpy(np.concatenate([np.concatenate(one) for one in picks]))


def test_fedavg_weighs_clients_by_their_samples(model, data):
    parts = [np.arange(0, 10), np.arange(10, 100)]
    how = Federation(LocalTraining(lr=0.1, batch_size=10, local_steps=3))
    (only,) = run_rounds(model, data, parts, how)
    first, second = (flat(client.update.after) for client in only.clients)
    torch.testing.assert_close(flat(only.aggregated), 0.1 * first + 0.9 * second)
    assert not torch.equal(first, second)


def test_server_momentum_carries_the_last_step_on(model, data):
    how = Federation(
        LocalTraining(lr=0.1, batch_size=8), rounds=3, server_lr=0.5, server_momentum=0.9
    )
    velocity = 0.0
    for one in run_rounds(model, data, parts_of(data), how):
        mean = average_states([c.update.after for c in one.clients], [24] * 5)
        velocity = 0.9 * velocity + flat(mean) - flat(one.sent)
        torch.testing.assert_close(
            flat(one.aggregated), flat(one.sent) + 0.5 * velocity, rtol=1e-4, atol=1e-6
        )


def test_whole_number_buffers_are_rounded_and_buffers_escape_momentum():
    states = [
        {"w": torch.tensor([0.0]), "n": torch.tensor(3)},
        {"w": torch.tensor([3.0]), "n": torch.tensor(8)},
    ]
    mean = average_states(states, [1, 2])
    assert mean["w"].tolist() == [2.0]
    assert (mean["n"].item(), mean["n"].dtype) == (6, torch.int64)
    after, moved = server_step(states[0], mean, {}, trained=frozenset("w"), lr=0.5)
    assert (after["w"].item(), after["n"].item(), list(moved)) == (1.0, 6, ["w"])
    with pytest.raises(BadInput, match="positive weight"):
        average_states([], [])


def test_batch_norm_trains_over_clients_with_server_momentum(data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 4))
    training = LocalTraining(lr=0.2, local_steps=4, batch_size=8)
    how = Federation(training, rounds=6, server_momentum=0.5)
    rounds = list(run_rounds(model, data, parts_of(data), how, test=data))
    assert int(rounds[-1].aggregated["1.num_batches_tracked"]) == 24
    assert rounds[-1].accuracy > 0.8


@pytest.mark.parametrize("name", ["iid", "pathological:2"])
def test_training_learns_and_is_evaluated_when_asked(model, data, name):
    training = LocalTraining(lr=0.2, local_steps=5, batch_size=8)
    how = Federation(training, rounds=9, per_round=0.6, evaluate_every=4)
    rounds = list(run_rounds(model, data, parts_of(data, name), how, test=data))
    assert [one.number for one in rounds if one.accuracy is not None] == [1, 5, 9]
    assert rounds[0].accuracy < 0.6 < 0.8 < rounds[-1].accuracy
    assert {len(one.clients) for one in rounds} == {3}
    for before, after in pairwise(rounds):
        assert torch.equal(flat(before.aggregated), flat(after.sent))


def test_the_truth_lies_aside_and_belongs_to_the_client(model, data):
    parts = parts_of(data, "pathological:1", 4)
    how = Federation(LocalTraining(lr=0.1, batch_size=4), epochs=2)
    (only,) = run_rounds(model, data, parts, how)
    for client in only.clients:
        own = np.bincount(data.labels[parts[client.client]], minlength=4)
        assert np.array_equal(Truth.from_labels(client.consumed, 4).counts, 2 * own)
        assert client.update.training.local_steps == len(client.labels) == 16
        seen = client.observe("2", rest=["0.weight"])
        assert (seen.num_samples, seen.local_steps) == (60, 16)
        assert seen.rest["0.weight"].shape == (8, 6)


def test_the_same_seed_gives_the_same_rounds_and_nothing_outside_moves(data):
    model = nn.Sequential(nn.Linear(6, 5), nn.Dropout(), nn.Linear(5, 4))
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    how = Federation(LocalTraining(lr=0.1, batch_size=4, local_steps=2), rounds=2, per_round=2)
    one, same, other = (
        [flat(r.aggregated) for r in run_rounds(model, data, parts_of(data), how, seed=seed)]
        for seed in (1, 1, 2)
    )
    assert all(map(torch.equal, one, same))
    assert not torch.equal(one[0], other[0])
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training


def test_shares_and_numbers_of_clients():
    rng = np.random.default_rng(0)
    assert len(sample_clients(100, 0.1, rng)) == 10
    assert len(sample_clients(5, 0.01, rng)) == 1
    assert sample_clients(4, 4, rng) == sample_clients(4, 1.0, rng) == [0, 1, 2, 3]
    with pytest.raises(BadInput, match="5 of 4 clients"):
        sample_clients(4, 5, rng)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rounds": 0}, "rounds must be"),
        ({"per_round": 1.5}, "share is at most"),
        ({"per_round": 0}, "share is at most"),
        ({"server_momentum": 1.0}, "server_momentum must be"),
        ({"aggregation": "median"}, "fedavg or fedsgd"),
        ({"aggregation": "fedsgd", "epochs": 1}, "one step of plain SGD"),
    ],
)
def test_options_out_of_range_are_refused(options, sentence):
    with pytest.raises(BadInput, match=sentence):
        Federation(LocalTraining(lr=0.1), **options)


def test_divergence_is_said_in_a_sentence(model, data):
    how = Federation(LocalTraining(lr=1e30, batch_size=4, local_steps=5), rounds=3)
    with pytest.raises(BadInput, match="diverged in round 1"):
        list(run_rounds(model, data, parts_of(data), how))


def test_a_training_is_made_anew_only_for_a_client_that_takes_other_steps(model, data):
    how = Federation(LocalTraining(lr=0.3, batch_size=7).filled(), aggregation="fedsgd")
    (alike,) = run_rounds(model, data, parts_of(data), how)
    assert all(client.update.training is how.training for client in alike.clients)
    few = [np.arange(0, 5), np.arange(5, 100)]  # the first client holds less than a batch
    (uneven,) = run_rounds(model, data, few, how)
    assert [client.update.training.batch_size for client in uneven.clients] == [5, 7]
