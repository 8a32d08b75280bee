"""Pooled over rounds, answers come nearer to what a client holds."""

import numpy as np
import pytest
import torch
from torch import nn

from labelleak.attacks import LLBG
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.pooling import pool_rounds, scale_to
from labelleak.core.score import Truth, score
from labelleak.core.training import LocalTraining
from labelleak.errors import BadInput
from labelleak.simulation.cohort import Federation, run_rounds
from labelleak.simulation.partitions import parse_partition, partition_samples


def test_rounds_of_one_client_pool_towards_its_label_distribution():
    made = torch.Generator().manual_seed(0)
    data = LabelledData(
        torch.rand(600, 8, generator=made), torch.randint(6, (600,), generator=made)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 6))
    scheme = parse_partition("dirichlet:0.5")
    parts = partition_samples(scheme, data.labels, 4, np.random.default_rng(0))
    how = Federation(LocalTraining(lr=0.01, batch_size=8), rounds=25)
    answer = prepare(LLBG(), Knowledge(), 6, np.random.default_rng(0))
    found: list[list[np.ndarray]] = [[] for _ in parts]
    consumed: list[list[np.ndarray]] = [[] for _ in parts]
    for one in run_rounds(model, data, parts, how):
        for client in one.clients:
            found[client.client].append(answer(client.observe("2")).counts)
            consumed[client.client].append(client.consumed)
    once, pooled = [], []
    for own, answers, labels in zip(parts, found, consumed, strict=True):
        held = Truth.from_labels(data.labels.numpy()[own], 6)
        once += [score(scale_to([one], len(own)), held).asr for one in answers]
        pooled.append(score(scale_to(answers, len(own)), held).asr)
        whole = Truth.from_labels(np.concatenate(labels), 6)
        assert score(pool_rounds(answers), whole).asr > 0.9
    assert np.mean(pooled) > np.mean(once) + 0.1


def test_relative_noise_falls_as_the_root_of_the_rounds():
    rng = np.random.default_rng(0)
    truth = np.array([40.0, 30.0, 20.0, 10.0])

    def error(rounds):
        noise = rng.normal(0, 5, size=(200, rounds, 4))
        noise -= noise.mean(axis=2, keepdims=True)
        pooled = [pool_rounds(list(truth + one)) / (100 * rounds) for one in noise]
        return np.abs(np.array(pooled) - truth / 100).mean()

    assert error(1) / error(16) == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("wrong", [[], [[1, 2], [1, 2, 3]], [[0.2, 0.3]], [[0, 0]]], ids=str)
def test_rounds_that_do_not_fit_are_refused(wrong):
    with pytest.raises(BadInput, match="round"):
        pool_rounds(wrong)
