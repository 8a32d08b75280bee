"""Models that keep something of their last pass are copied, audited and trained like others."""

import copy

import pytest
import torch
from torch import nn

import labelleak
from labelleak.core.copies import copy_model


class Keeps(nn.Module):
    """A model that keeps activations in every kind of place, as many do."""

    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Linear(64, 8), nn.Linear(8, 10)
        self.kept = {}

    def forward(self, x):
        h = self.body(x.flatten(1)).relu()
        self.features, self.kept["h"], self.both = h, [h], (h, "a word")
        return self.fc(h)


@pytest.fixture
def passed():
    torch.manual_seed(0)
    model = Keeps()
    model(torch.rand(3, 64))
    with pytest.raises(RuntimeError, match="graph leaves"):
        copy.deepcopy(model)
    return model


def test_a_copy_shares_nothing_and_keeps_what_was_kept(passed):
    copied = copy_model(passed)
    assert torch.equal(copied.features, passed.features)
    assert copied.kept["h"][0] is copied.features
    assert copied.both[1] == "a word"
    with torch.no_grad():
        copied.fc.weight += 1
        copied.features += 1
    assert not torch.equal(copied.fc.weight, passed.fc.weight)
    assert not torch.equal(copied.features, passed.features)
    assert copied.fc.weight.requires_grad


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_weights_made_anew_at_each_pass_still_learn():
    model = nn.utils.weight_norm(nn.Linear(4, 2))
    copied = copy_model(model)
    copied(torch.ones(1, 4)).sum().backward()
    assert copied.weight_g.grad is not None
    assert torch.equal(copied(torch.ones(1, 4)), model(torch.ones(1, 4)))


def test_such_a_model_is_audited(passed):
    found = labelleak.audit(
        data="digits", model=passed, batch_sizes=[4], trials=2, attacks=["llg", "client_simulation"]
    )
    assert {row.attack for row in found.records} == {"llg", "client_simulation"}
