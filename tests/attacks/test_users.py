"""Attacks on a user's distribution over rounds: each on users whose data are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labelleak.attacks.many_clients import gradient_norms, trains_together
from labelleak.attacks.users.attacks import PPA, USER_ATTACKS, Decaf, UserPosterior
from labelleak.attacks.users.regression import learn_shares, nearest_shares, weigh_rounds
from labelleak.attacks.users.rounds import UserRound, UserUpdate, is_absent
from labelleak.attacks.users.shadows import ShadowUsers
from labelleak.core.knowledge import LabelledData
from labelleak.core.observation import Observation
from labelleak.core.training import FullTraining
from labelleak.core.update import ReceivedUpdate
from labelleak.core.white_box import WhiteBox
from labelleak.simulation.client import draw_steps, train_locally
from labelleak.simulation.partitions import parse_partition, partition_samples

CLASSES, USERS, BATCH = 4, 5, 8
HOW = FullTraining(lr=0.1, batch_size=BATCH)


def make_data(rows, seed):
    """Draw four blobs, none negative."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % CLASSES
    inputs = np.eye(CLASSES)[labels] + 0.3 * rng.random((rows, CLASSES))
    return LabelledData(torch.tensor(inputs, dtype=torch.float32), torch.from_numpy(labels))


@pytest.fixture(scope="module")
def federation():
    """Three rounds of five users, and what each holds."""
    torch.manual_seed(2)
    module = torch.nn.Sequential(
        torch.nn.Linear(CLASSES, 16), torch.nn.ReLU(), torch.nn.Linear(16, CLASSES)
    )
    data, own = make_data(400, 0), make_data(120, 1)
    rng = np.random.default_rng(7)
    parts = partition_samples(parse_partition("dirichlet:0.3"), data.labels.numpy(), USERS, rng)
    sizes = [len(part) for part in parts]
    shadows = ShadowUsers.draw(
        own, CLASSES, sizes, 30, epochs=1, batch_size=BATCH, rng=np.random.default_rng(4)
    )
    rounds = []
    for number in range(3):
        before = {name: value.detach().clone() for name, value in module.state_dict().items()}
        updates, states = [], []
        for user, part in enumerate(parts):
            steps = draw_steps(part, BATCH, np.random.default_rng([number, user]), epochs=1)
            after = train_locally(module, data, steps, HOW)
            how = replace(HOW, local_steps=len(steps))
            seen = ReceivedUpdate(before, after, training=how, num_samples=len(part)).observe("2")
            updates.append(UserUpdate(user, seen, after))
            states.append(after)
        sent = torch.nn.Sequential(
            torch.nn.Linear(CLASSES, 16), torch.nn.ReLU(), torch.nn.Linear(16, CLASSES)
        )
        sent.load_state_dict(before)
        rounds.append(UserRound(WhiteBox(sent, "2"), HOW, own, tuple(updates), shadows))
        module.load_state_dict(
            {name: torch.stack([state[name] for state in states]).mean(dim=0) for name in before}
        )
    held = np.stack([np.bincount(data.labels.numpy()[p], minlength=CLASSES) for p in parts])
    return rounds, held / held.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("attack", USER_ATTACKS, ids=lambda one: one.name)
def test_every_attack_gives_shares_better_than_the_population(federation, attack):
    rounds, held = federation
    own = attack()
    for one in rounds:
        own.add(one)
        found = own.shares()
        assert found.shape == held.shape
        assert (found >= 0).all()
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-9)
    off = np.abs(found - held).sum(axis=1).mean()
    population = np.abs(1 / CLASSES - held).sum(axis=1).mean()
    assert off < population * (0.8 if attack is PPA else 0.5)


@pytest.mark.parametrize("attack", USER_ATTACKS, ids=lambda one: one.name)
def test_the_same_rounds_give_the_same_answer(federation, attack):
    first, second = attack(), attack()
    for own in (first, second):
        own.add(federation[0][0])
    np.testing.assert_array_equal(first.shares(), second.shares())


def test_decaf_names_no_class_that_it_takes_for_absent(federation):
    rounds, held = federation
    own = Decaf()
    own.add(rounds[0])
    assert rounds[0].signs_tell
    found, absent = own.shares(), rounds[0].absent
    assert (found[absent] == 0).all()
    # A class without a sample shows none, whatever the local steps.
    assert absent[held == 0].all()


def test_without_a_head_of_one_sign_no_class_is_ruled_out(federation):
    one = federation[0][0]
    blind = replace(one)
    vars(blind)["signs_tell"] = False
    own = Decaf()
    own.add(blind)
    assert own._absent is None
    posterior = UserPosterior()
    posterior.add(blind)
    assert posterior._absent is None


def test_a_head_without_a_bias_is_read_by_its_weight(federation):
    one = federation[0][0]
    bare = [replace(u, seen=Observation(u.seen.weight, None)) for u in one.updates]
    weight, bias = replace(one, updates=tuple(bare)).heads
    assert weight.shape == (USERS, 16 * CLASSES)
    assert bias.shape == (USERS, 0)


def test_imitated_users_are_of_the_users_sizes_and_the_same_in_every_round(federation):
    rounds, _ = federation
    users = rounds[0].users
    assert {group.shape[1] % BATCH for group in users.groups if group.shape[1] >= BATCH} == {0}
    assert len(users.shares) == len(users.steps) == 30
    np.testing.assert_allclose(users.shares.sum(axis=1), 1)
    again = users.play(rounds[0].model, HOW)
    for a, b in zip(again.seen, rounds[0].shadows.seen, strict=True):
        torch.testing.assert_close(a.weight, b.weight, rtol=0, atol=0)


def test_a_class_without_data_borrows_any():
    data = LabelledData(torch.rand(20, 3), torch.arange(20) % 2)
    rng = np.random.default_rng(0)
    users = ShadowUsers.draw(data, 3, [5, 9, 40], 9, epochs=2, batch_size=4, rng=rng)
    assert [group.shape[1] for group in users.groups] == [4, 8, 40]
    assert (users.shares[:, 2] == 0).all()  # shares are of the labels that are really there
    assert users.steps.tolist() == [2.0] * 3 + [4.0] * 3 + [20.0] * 3


def test_a_negative_entry_of_the_bias_tells_presence_too():
    seen = Observation(torch.tensor([[[0.1], [0.2]]]), torch.tensor([[-0.1, 0.1]]))
    assert is_absent(seen).tolist() == [[False, True]]


def test_gradient_norms_are_those_of_autograd():
    torch.manual_seed(0)
    module, data = torch.nn.Linear(3, 2), LabelledData(torch.rand(6, 3), torch.arange(6) % 2)
    states = {name: torch.randn(4, *p.shape) for name, p in module.named_parameters()}
    assert trains_together(WhiteBox(module, ""), data, HOW)
    found = gradient_norms(WhiteBox(module, ""), data, states)
    for row, size in enumerate(found):
        module.load_state_dict({name: value[row] for name, value in states.items()})
        module.zero_grad()
        torch.nn.functional.cross_entropy(module(data.inputs), data.labels).backward()
        flat = torch.cat([p.grad.flatten() for p in module.parameters()])
        assert size == pytest.approx(float(flat.norm()), rel=1e-4)


def test_left_out_errors_are_those_of_fits_without_the_row():
    rng = np.random.default_rng(1)
    shown, shares = rng.random((14, 3)), rng.dirichlet(np.ones(4), 14)
    fit = learn_shares(shown, shares, shown)
    # An exact linear relation is learnt nearly without an error, on rows that were left out too.
    linear = shown @ rng.random((3, 4))
    known = learn_shares(shown, linear, shown[:5])
    assert np.abs(known.shares - linear[:5]).max() < 0.05
    assert np.square(known.errors).mean() < 0.1 * linear.var()
    assert fit.errors.shape == shares.shape
    assert np.square(fit.errors).mean() > np.square(fit.shares - shares).mean()


def test_features_that_tell_nothing_give_the_mean():
    shares = np.eye(3)
    fit = learn_shares(np.ones((3, 2)), shares, np.zeros((2, 2)))
    np.testing.assert_allclose(fit.shares, 1 / 3)


def test_rounds_that_err_alike_weigh_less_together():
    rng = np.random.default_rng(0)
    shared, own = rng.normal(size=(200, 2)), rng.normal(size=(200, 2))
    weights = weigh_rounds([shared, shared + 0.01 * own, own])
    assert weights.sum() == pytest.approx(1)
    assert weights[2] == pytest.approx(0.5, abs=0.08)
    assert weigh_rounds([own, 10 * shared])[0] > 0.95
    assert weigh_rounds([np.zeros((3, 2)), np.zeros((3, 2))]).tolist() == [0.5, 0.5]


@settings(max_examples=40)
@given(st.lists(st.floats(-3, 3), min_size=2, max_size=6))
def test_the_nearest_shares_are_nearer_than_others(values):
    row = np.array([values])
    near = nearest_shares(row)
    assert (near >= 0).all()
    assert near.sum() == pytest.approx(1)
    rng = np.random.default_rng(0)
    others = rng.dirichlet(np.ones(len(values)), 50)
    assert np.square(near - row).sum() <= np.square(others - row).sum(axis=1).min() + 1e-9
