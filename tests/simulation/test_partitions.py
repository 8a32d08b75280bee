"""Every sample goes to exactly one client, and each partition is what its name says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelleak.errors import BadInput
from labelleak.simulation.partitions import parse_partition, partition_samples, split_by_user

NAMES = ["iid", "dirichlet:0.3", "dirichlet:100", "pathological:2", "shards:2"]


def labels_of(seed, number=400, classes=10):
    return np.random.default_rng(seed).integers(classes, size=number)


@settings(max_examples=40)
@given(name=st.sampled_from(NAMES), clients=st.integers(5, 20), seed=st.integers(0, 50))
def test_every_sample_goes_to_exactly_one_client(name, clients, seed):
    labels = labels_of(seed)
    parts = partition_samples(parse_partition(name), labels, clients, np.random.default_rng(seed))
    assert len(parts) == clients
    assert all(part.size for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    again = partition_samples(parse_partition(name), labels, clients, np.random.default_rng(seed))
    assert all(map(np.array_equal, parts, again))


def distinct(name, clients=10):
    labels = labels_of(0, 2000)
    parts = partition_samples(parse_partition(name), labels, clients, np.random.default_rng(1))
    return [len(np.unique(labels[part])) for part in parts], [len(part) for part in parts], parts


def test_pathological_clients_hold_just_so_many_classes():
    assert distinct("pathological:2")[0] == [2] * 10
    assert distinct("pathological:10")[0] == [10] * 10


def test_shards_are_of_one_size_and_few_classes():
    classes, sizes, _ = distinct("shards:2")
    assert max(classes) <= 4  # a shard may straddle two classes
    assert max(sizes) - min(sizes) <= 2


def test_iid_clients_are_of_one_size_and_hold_all_classes():
    classes, sizes, _ = distinct("iid")
    assert classes == [10] * 10
    assert sizes == [200] * 10


def test_a_smaller_alpha_makes_clients_less_alike():
    labels = labels_of(0, 2000)

    def spread(name):
        rng = np.random.default_rng(3)
        parts = partition_samples(parse_partition(name), labels, 10, rng)
        return np.mean([np.bincount(labels[p], minlength=10).max() / len(p) for p in parts])

    assert spread("dirichlet:0.1") > 0.4 > 0.2 > spread("dirichlet:100")


def test_users_keep_their_own():
    names, parts = split_by_user(np.array([7, 3, 7, 7]))
    assert names == ("3", "7")
    assert [part.tolist() for part in parts] == [[1], [0, 2, 3]]
    with pytest.raises(BadInput, match="no sample has a user"):
        split_by_user([])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("dirichlet", "ALPHA above 0"),
        ("dirichlet:-1", "ALPHA above 0"),
        ("dirichlet:nan", "ALPHA above 0"),
        ("shards:0", "at least 1"),
        ("pathological:x", "at least 1"),
        ("idd", "did you mean 'iid'"),
    ],
)
def test_names_that_mean_nothing_are_refused(name, sentence):
    with pytest.raises(BadInput, match=sentence):
        parse_partition(name)


@pytest.mark.parametrize(
    ("name", "clients", "sentence"),
    [
        ("iid", 401, "cannot be parted among 401"),
        ("iid", 0, "cannot be parted among 0"),
        ("shards:5", 300, "leaves .* without a sample"),
        ("dirichlet:0.001", 100, "leaves .* without a sample"),
        ("pathological:2", 4, "cannot hold 10 classes"),
        ("pathological:11", 4, "cannot hold 11 classes"),
    ],
)
def test_what_cannot_be_parted_is_refused(name, clients, sentence):
    scheme, rng = parse_partition(name), np.random.default_rng(0)
    with pytest.raises(BadInput, match=sentence):
        partition_samples(scheme, labels_of(0), clients, rng)
