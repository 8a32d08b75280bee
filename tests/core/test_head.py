"""The head is found by name, by tracing or by class count, and what is no head is named."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from labelleak.core.head import find_head
from labelleak.errors import BadInput

X = torch.rand(2, 4)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.used = nn.Linear(4, 3)
        self.spare = nn.Linear(4, 3)

    def forward(self, x):
        return self.used(x)


class Wrapped(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.head = nn.Linear(3, 3)
        self.last = last

    def forward(self, x):
        return self.last(self.head(self.body(x).relu()))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(3, 4)
        self.out = nn.Linear(4, 3)
        self.out.weight = self.embed.weight

    def forward(self, x):
        return self.out(x)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x), x


def frozen():
    model = nn.Sequential(nn.Linear(4, 3))
    model[0].weight.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("model", "how", "found"),
    [
        (nn.Linear(4, 3), {"name": ""}, ""),
        (nn.Linear(4, 3), {"example": X}, ""),
        (TwoHeads(), {"example": X}, "used"),
        (TwoHeads(), {"name": "spare"}, "spare"),
        (Wrapped(nn.Identity()), {"example": X}, "head"),
        (Wrapped(nn.Softmax(dim=-1)), {"example": X}, "head"),
        (Wrapped(nn.LogSoftmax(dim=-1)), {"example": X, "num_classes": 3}, "head"),
        (nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), {"num_classes": 3}, "1"),
        (nn.Sequential(nn.Linear(4, 8)), {}, "0"),
        (nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), {"example": X}, "2"),
    ],
)
def test_the_head_is_found(model, how, found):
    assert find_head(model, **how) == found


@pytest.mark.parametrize(
    ("model", "how", "sentence"),
    [
        (nn.Sequential(nn.ReLU()), {"example": X}, "has no linear layer"),
        (nn.Linear(4, 3), {"name": "fc"}, "'fc' does not exist"),
        (Wrapped(nn.ReLU()), {"name": "last"}, "is no linear layer"),
        (TwoHeads(), {"num_classes": 3}, "several linear layers with 3 rows"),
        (TwoHeads(), {"num_classes": 7}, "no linear layer with 7 rows"),
        (TwoHeads(), {"name": "used", "num_classes": 7}, "has 3 rows, but there are 7 classes"),
        (Tied(), {"example": X}, "shares its weight"),
        (frozen(), {"example": X}, "is frozen"),
        (Pair(), {"example": X}, "returns tuple"),
        (weight_norm(nn.Linear(4, 3)), {"name": ""}, "computes its weight"),
        (nn.Linear(4, 3), {"example": torch.rand(2, 9)}, "cannot take inputs"),
        (nn.Sequential(nn.Linear(4, 6), nn.GLU()), {"example": X}, "no linear layer gives"),
    ],
)
def test_what_cannot_be_the_head_is_said_clearly(model, how, sentence):
    with pytest.raises(BadInput, match=sentence):
        find_head(model, **how)


def test_looking_changes_nothing():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model[1].eval()
    find_head(model, example=X)
    assert model.training
    assert not model[1].training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
