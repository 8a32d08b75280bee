"""What the benchmark compares is the same work."""

import numpy as np
import torch
from torch import nn

from labelleak.core.knowledge import LabelledData
from labelleak.studies.bench import bare_round, simulated_round


def test_the_simulator_and_the_bare_loop_end_at_the_same_weights():
    made = torch.Generator().manual_seed(0)
    data = LabelledData(torch.rand(200, 6, generator=made), torch.arange(200) % 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    before = model[0].weight.clone()
    simulated, bare = simulated_round(model, data)(), bare_round(model, data)()
    assert len(simulated) == len(bare) == 10
    for one, other in zip(simulated, bare, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    ends = np.array([one["0.weight"].sum().item() for one in bare])
    assert len(np.unique(ends)) == 10  # each client trained on batches of its own
    assert torch.equal(model[0].weight, before)
