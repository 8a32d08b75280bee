"""An aggregate of FedSGD clients is one big batch, and tells a client apart only when alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from labelleak.attacks import LLBG, LLG
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.priors import DirichletPrior
from labelleak.core.score import Truth, score
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import WhiteBox
from labelleak.errors import BadInput
from labelleak.simulation.aggregates import observe_aggregate, pooled_truth, score_clients
from labelleak.simulation.cohort import Federation, run_rounds
from labelleak.simulation.gradients import autograd_gradients
from labelleak.simulation.partitions import parse_partition, partition_samples

CLASSES = 4


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, CLASSES)).double()


@pytest.fixture(scope="module")
def data():
    made = torch.Generator().manual_seed(0)
    inputs = torch.rand(240, 6, generator=made).double()
    return LabelledData(inputs, torch.randint(CLASSES, (240,), generator=made))


def play(model, data, name="iid", clients=6, **options):
    scheme = parse_partition(name)
    parts = partition_samples(scheme, data.labels, clients, np.random.default_rng(0))
    how = Federation(LocalTraining(**{"lr": 0.1, "batch_size": 8, **options}))
    (only,) = run_rounds(model, data, parts, how)
    return only.clients, parts


def big_batch(data, clients, parts):
    """Find the samples of all clients' batches, drawn again from the documented streams."""
    from labelleak.core.seeding import stream
    from labelleak.simulation.client import draw_steps

    picked = []
    for one in clients:
        rng = stream(0, "steps", 1, one.client)
        (batch,) = draw_steps(parts[one.client], 8, rng, steps=1)
        assert np.array_equal(data.labels[batch], one.labels[0])
        picked.append(batch)
    return np.concatenate(picked)


@pytest.mark.parametrize("attack", [LLG(), LLBG()], ids=lambda one: one.name)
def test_pooling_fedsgd_is_attacking_one_big_batch(model, data, attack):
    clients, parts = play(model, data)
    batch = big_batch(data, clients, parts)
    one_batch = autograd_gradients(WhiteBox(model, "2"), data, batch[None])
    pooled = observe_aggregate(clients, "2")
    torch.testing.assert_close(pooled.weight, one_batch.weight[0], rtol=1e-6, atol=1e-10)
    assert pooled.num_samples == one_batch.num_samples == 48
    answer = prepare(attack, Knowledge(), CLASSES, np.random.default_rng(0))
    together, each = pooled_truth(clients, CLASSES)
    same = Truth.from_labels(data.labels.numpy()[batch], CLASSES)
    assert np.array_equal(together.counts, same.counts)
    assert np.array_equal(each.counts.sum(axis=0), same.counts)
    found, direct = answer(pooled).counts, answer(one_batch).counts[0]
    assert score(found, together).asr == score(direct, same).asr


def test_weights_by_samples_count_large_clients_for_more(model, data):
    clients, _ = play(model, data, "dirichlet:0.5", local_steps=2)
    sizes = np.array([one.samples for one in clients])
    assert len(set(sizes.tolist())) > 1
    means = torch.stack([one.observe("2").bias for one in clients])
    wanted = torch.from_numpy(sizes / sizes.sum()) @ means
    found = observe_aggregate(clients, "2", weigh="samples").bias
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-10)


def test_one_client_alone_gets_the_pooled_answer_itself():
    truth = Truth(np.array([[5, 0, 2, 1]]))
    guess = np.array([4, 1, 2, 1])
    found = score_clients(guess, truth)
    assert found.counts.tolist() == [guess.tolist()]
    assert found.asr[0] == score(guess, Truth(truth.counts[0])).asr


def test_the_truth_pooled_tells_alike_clients_all_and_pathological_ones_less(model, data):
    def gained(name):
        clients, _ = play(model, data, name, clients=8, batch_size=24)
        together, each = pooled_truth(clients, CLASSES)
        return score_clients(together.counts, each)

    alike, unlike = gained("iid"), gained("pathological:1")
    assert alike.asr.mean() > 0.8
    assert unlike.asr.mean() < 0.4  # one class each: the pool knows only their mixture
    assert unlike.advantage.mean() < 0.1


def test_the_guess_for_a_client_is_the_best_under_draws_from_the_pool():
    pooled, size = np.array([6, 2, 1, 0]), 3
    rng = np.random.default_rng(0)
    urn = np.repeat(np.arange(4), pooled)
    draws = np.array([np.bincount(rng.permutation(urn)[:size], minlength=4) for _ in range(4000)])
    truth = Truth(np.array([[3, 0, 0, 0], [2, 1, 0, 0], [1, 1, 1, 0]]))
    guess = score_clients(pooled, truth).counts[0]
    every = [g for g in np.ndindex(4, 4, 4, 4) if sum(g) == size and (np.array(g) <= pooled).all()]
    worth = {g: np.minimum(draws, g).sum(axis=1).mean() for g in every}
    assert worth[tuple(guess.tolist())] >= max(worth.values()) - 0.05


def test_clients_of_different_sizes_have_guesses_and_free_guesses_of_their_own():
    truth = Truth(np.array([[1, 0], [3, 2]]))
    found = score_clients(np.array([4, 2]), truth, DirichletPrior(0.5))
    assert found.counts.sum(axis=1).tolist() == [1, 5]
    assert found.asr_free[0] == pytest.approx(0.5)
    assert found.advantage[0] == pytest.approx((found.asr[0] - 0.5) / 0.5)


def test_what_cannot_be_aggregated_is_refused(model, data):
    clients, _ = play(model, data)
    update = clients[0].update
    other = replace(
        clients[0],
        update=replace(update, training=replace(update.training, local_steps=3)),
    )
    foreign, _ = play(model, data)
    for group, sentence in (
        ([], "at least one client"),
        ([clients[1], other], "train alike"),
        ([clients[0], foreign[1]], "same model"),
    ):
        with pytest.raises(BadInput, match=sentence):
            observe_aggregate(group, "2")
    with pytest.raises(BadInput, match="sum to 5"):
        score_clients(np.array([4, 2]), Truth(np.array([[3, 2]])))
