"""Steps whose gradients are written down: to the last bit autograd's, or left to it."""

import numpy as np
import pytest
import torch
from torch import nn

from labelleak.core.knowledge import LabelledData
from labelleak.core.seeding import stream
from labelleak.simulation.networks import Classifier, make_cnn, make_mlp
from labelleak.simulation.plain_steps import PlainSteps
from labelleak.simulation.training import Training, train_in_stages

SHAPE = (2, 8, 8)


def data(number=90, shape=SHAPE):
    made = torch.Generator().manual_seed(0)
    inputs = torch.rand(number, *shape, generator=made)
    return LabelledData(inputs, torch.randint(3, (number,), generator=made))


def cnn(activation=nn.ReLU):
    return Classifier(make_cnn(SHAPE, activation), 48, 3)


def odd():
    """Give a chain with all that a layer may have: strides, gaps, no bias, layers in layers."""
    first = nn.Sequential(nn.Conv2d(2, 3, (3, 2), (2, 1), (1, 0), bias=False), nn.Tanh())
    second = nn.Conv2d(3, 4, 2, dilation=2)
    layers = first, second, nn.Sigmoid(), nn.Flatten(), nn.Linear(40, 6, bias=False)
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(6, 3))


def trained(make, own, *, plain, monkeypatch, training):
    torch.manual_seed(0)
    model, taken = make(), []
    of = PlainSteps.of

    def watched(*asked):
        found = of(*asked) if plain else None
        taken.append(found is not None)
        return found

    monkeypatch.setattr(PlainSteps, "of", watched)
    states = [
        [p.detach().clone() for p in model.parameters()]
        for _ in train_in_stages(model, own, [0, 3, 8], training, rng=stream(0, "t"))
    ]
    monkeypatch.undo()
    return states, taken


MODELS = [
    *(lambda kind=kind: cnn(kind) for kind in (nn.ReLU, nn.Tanh, nn.Sigmoid)),
    lambda: Classifier(make_mlp(SHAPE, nn.ReLU), 128, 3),
    odd,
]


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("training", [Training(), Training(lr=0.3, momentum=0.0, batch_size=48)])
def test_steps_are_autograd_s_to_the_last_bit(make, training, monkeypatch):
    own = data()
    found, taken = trained(make, own, plain=True, monkeypatch=monkeypatch, training=training)
    wanted, left = trained(make, own, plain=False, monkeypatch=monkeypatch, training=training)
    assert (taken, left) == ([True], [False])
    for state, other in zip(found, wanted, strict=True):
        assert all(torch.equal(one, two) for one, two in zip(state, other, strict=True))
    assert not torch.equal(found[1][0], found[2][0])


def frozen():
    model = cnn()
    model.head.bias.requires_grad_(False)
    return model


def listened():
    model = cnn()
    model.features[0].register_forward_hook(lambda *_: None)
    return model


def shared():
    layer = nn.Linear(8, 8)
    return nn.Sequential(nn.Flatten(), nn.Linear(128, 8), layer, nn.ReLU(), layer)


class Own(nn.Linear):
    def forward(self, inputs):
        return 2 * super().forward(inputs)


def image(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


LEFT = {
    "frozen": frozen,
    "listened to": listened,
    "shared": shared,
    "double": lambda: cnn().double(),
    "another activation": lambda: cnn(nn.ELU),
    "dropout": lambda: image(nn.Dropout()),
    "a layer of one's own": lambda: nn.Sequential(nn.Flatten(), Own(128, 3)),
    "groups": lambda: image(nn.Conv2d(2, 2, 3, groups=2)),
    "reflection": lambda: image(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")),
    "large maps": lambda: image(nn.Conv2d(2, 64, 5, padding=2)),
    "maps at the end": lambda: nn.Sequential(nn.Conv2d(2, 3, 8)),
    "rows at the end": lambda: nn.Linear(8, 3),
    "no parameters": lambda: nn.Flatten(),
}


@pytest.mark.parametrize("what", LEFT)
def test_what_is_not_sure_is_left_to_autograd(what):
    own, model = data(), LEFT[what]()
    if any(isinstance(part, nn.LazyLinear) for part in model.modules()):
        model(own.inputs)
    assert PlainSteps.of(model, own.inputs, own.labels, 0.9) is None


def test_data_of_another_kind_is_left_to_autograd():
    own = data()
    for inputs, labels in (
        (own.inputs.double(), own.labels),
        (own.inputs, own.labels[:, None]),
        (own.inputs[:, :1], own.labels),
    ):
        assert PlainSteps.of(cnn(), inputs, labels, 0.9) is None
    with torch.autocast("cpu"):
        assert PlainSteps.of(cnn(), own.inputs, own.labels, 0.9) is None


def test_a_model_keeps_its_parameters_until_they_are_written():
    own, model = data(), cnn()
    before = [p.detach().clone() for p in model.parameters()]
    steps = PlainSteps.of(model, own.inputs, own.labels, 0.9)
    steps.step(own.inputs, own.labels, 0.1)
    assert np.isfinite(steps.loss.item())
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    steps.write()
    assert not any(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())
