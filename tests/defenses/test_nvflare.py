"""NVFlare's filters: what leaves, and what is proved of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from labelleak.core.update import SharedTensors
from labelleak.defenses import PercentilePrivacy, SparseVector, parse_defense
from labelleak.defenses.accounting import account


def update_of(rows):
    return SharedTensors({"weight": torch.as_tensor(np.array(rows))[:, None, :]}, "")


def sent_of(defense, rows, seed=0):
    sent, _ = defense.apply(update_of(rows), np.random.default_rng(seed))
    return sent.tensors["weight"][:, 0].double().numpy()


def test_percentile_counts_what_stays_at_home():
    row = np.arange(1.0, 11.0) * np.resize([1, -1], 10) / 10
    sent = sent_of(PercentilePrivacy(10.0, np.inf), [row])[0]
    assert (sent == 0).sum() == 1, "at 10, nine in ten leave"
    sent = sent_of(PercentilePrivacy(50.0, 0.75), [row])[0]
    assert sent.tolist() == [0, 0, 0, 0, 0, -0.6, 0.7, -0.75, 0.75, -0.75]


def test_percentile_is_that_of_all_tensors_together():
    tensors = {"a.weight": torch.full((1, 1, 9), 0.1), "weight": torch.full((1, 1, 1), 5.0)}
    sent, _ = PercentilePrivacy(95.0, 1.0).apply(
        SharedTensors(tensors, ""), np.random.default_rng(0)
    )
    assert not sent.tensors["a.weight"].any()
    assert float(sent.tensors["weight"]) == 1.0


ROW = np.random.default_rng(5).normal(size=400)


def test_a_sparse_vector_sends_the_large_ones_where_it_adds_next_to_no_noise():
    clear = SparseVector(keep=0.1, epsilon=1e9, noise=1e9, gamma=9.0, tau=1.5)
    sent = sent_of(clear, [ROW])[0]
    there = np.flatnonzero(sent)
    assert 0 < len(there) <= 40
    assert (np.abs(ROW[there]) > 1.5).all()
    np.testing.assert_allclose(sent[there], ROW[there], atol=1e-5)


def test_a_sparse_vector_draws_with_replacement_and_cuts_off_before_its_noise():
    many = np.resize(ROW, (200, 400)) * 100
    sent = sent_of(SparseVector(keep=0.5, epsilon=0.1, noise=2.0, gamma=0.5, tau=0.1), many)
    share = (sent != 0).mean()
    # About half pass each question; 200 draws of those that passed hit so many different ones.
    assert 0.2 < share < 0.4
    noise = np.abs(sent[sent != 0]) - 0.5 * np.sign(sent[sent != 0]) * np.sign(
        np.broadcast_to(ROW, sent.shape)[sent != 0]
    )
    assert np.abs(noise).mean() == pytest.approx(0.5, rel=0.35)


def test_asking_ends_where_nothing_passes():
    sent = sent_of(SparseVector(0.5, epsilon=1e9, noise=1.0, gamma=1.0, tau=5.0), [ROW])
    assert not sent.any()


def test_its_epsilon_counts_all_that_may_pass_and_every_value():
    chain = parse_defense("svt:0.1:0.1:0.1:0.01")
    found = account(chain, rounds=2, entries=1000)
    (part,) = chain.parts
    first, second = part.split(1000)
    assert first + second == pytest.approx(0.1)
    assert found.epsilon == pytest.approx(2 * (first + 10 * second + 100 * 0.1))
    assert (found.delta, found.protects) == (0.0, "update")
    assert found.epsilon > 2 * part.claimed(1000)
    assert "20.2" in found.sentence
    unknown = account(chain)
    assert (unknown.epsilon, unknown.protects) == (None, "nothing")
    assert "size of the model" in unknown.sentence
    assert account(parse_defense("percentile:90")).epsilon is None


def test_the_selections_privacy_by_counting():
    """How often one entry of two is sent, for the two updates that differ most."""
    vector = SparseVector(keep=0.5, epsilon=8.0, noise=1.0, gamma=1.0, tau=0.5)
    small, large = (
        (sent_of(vector, np.resize([value, 0.0], (1500, 2))) != 0).mean(axis=0)[0]
        for value in (0.0, 1.0)
    )
    assert 1.2 * small < large < np.exp(vector.epsilon_of(2)) * small
