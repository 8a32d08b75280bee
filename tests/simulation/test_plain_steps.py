"""Steps whose gradients are written down: to the last bit autograd's, or left to it."""

from types import MethodType

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
    """Give features with all that a layer may have: strides, gaps, no bias, layers in layers."""
    first = nn.Sequential(nn.Conv2d(2, 3, (3, 2), (2, 1), (1, 0), bias=False), nn.Tanh())
    second = nn.Conv2d(3, 4, 2, dilation=2)
    layers = first, second, nn.Sigmoid(), nn.Flatten(), nn.Linear(40, 6, bias=False)
    return Classifier(nn.Sequential(*layers, nn.ReLU()), 6, 3)


def narrow():
    """Give features whose parameters end within a line of memory, so that the next begin in one."""
    first, second = nn.Linear(128, 37), nn.Linear(37, 301, bias=False)
    features = nn.Sequential(nn.Flatten(), first, nn.Tanh(), second, nn.ReLU())
    return Classifier(features, 301, 3)


def of(model, own):
    return PlainSteps.of(model, own.inputs, own.labels, Training().start(model))


def trained(make, own, *, plain, monkeypatch, training):
    torch.manual_seed(0)
    model, taken = make(), []
    take = PlainSteps.of

    def watched(*asked):
        found = take(*asked) if plain else None
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
    narrow,
    lambda: Classifier(nn.Sequential(nn.Conv2d(2, 3, 1), nn.Tanh(), nn.Flatten()), 192, 3),
]


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("training", [Training(), Training(lr=0.3, momentum=0.0, batch_size=48)])
def test_steps_are_autograd_s_to_the_last_bit(make, training, monkeypatch):
    own = data()
    found, taken = trained(make, own, plain=True, monkeypatch=monkeypatch, training=training)
    wanted, left = trained(make, own, plain=False, monkeypatch=monkeypatch, training=training)
    assert (taken, left) == ([True, True], [False, False])
    for state, other in zip(found, wanted, strict=True):
        assert all(torch.equal(one, two) for one, two in zip(state, other, strict=True))
    assert not torch.equal(found[1][0], found[2][0])


def test_a_network_from_outside_learns_by_autograd(monkeypatch):
    def chain():
        return nn.Sequential(*cnn().children())

    own, training = data(), Training()
    found, taken = trained(chain, own, plain=True, monkeypatch=monkeypatch, training=training)
    assert taken == []
    assert not torch.equal(found[1][0], found[2][0])
    assert of(chain(), own) is not None  # though it could be taken


CHANGES = {
    "other weights": lambda model: [p.mul_(1.5) for p in model.parameters()],
    "frozen": lambda model: model.head.weight.requires_grad_(requires_grad=False),
    "listened to": lambda model: model.head.register_forward_hook(lambda _, __, given: 2 * given),
    "another layer": lambda model: setattr(model, "head", nn.Linear(48, 3)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whoever_has_the_model_between_stages_may_change_it(change, monkeypatch):
    states = []
    for plain in (True, False):
        model = trained_between(CHANGES[change], plain=plain, monkeypatch=monkeypatch)
        states.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*states, strict=True))


def trained_between(change, *, plain, monkeypatch):
    torch.manual_seed(0)
    model, own = cnn(), data()
    with monkeypatch.context() as patched:
        if not plain:
            patched.setattr(PlainSteps, "of", lambda *_: None)
        for stage in train_in_stages(model, own, [3, 8], Training(), rng=stream(0, "t")):
            if stage == 3:
                with torch.no_grad():
                    change(model)
    return model


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


class Twice(nn.Flatten):
    def forward(self, inputs):
        return 2 * super().forward(inputs)


def changed(place):
    """Give a network one of whose modules passes its inputs in a way of its own."""
    model = cnn()
    part = model.get_submodule(place)
    passed = part.forward
    part.forward = MethodType(lambda _, inputs: 2 * passed(inputs), part)
    return model


def head(change):
    """Give a network whose head was changed."""
    model = cnn()
    change(model.head)
    return model


def as_buffer(name):
    def change(layer):
        held = getattr(layer, name).detach().clone()
        delattr(layer, name)
        layer.register_buffer(name, held)

    return head(change)


def shared_numbers():
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128))
    model[1].weight.data = model[3].weight.data
    return model


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
    "a way of its own to flatten": lambda: nn.Sequential(Twice(), nn.Linear(128, 3)),
    "a model's own way": lambda: changed(""),
    "an activation's own way": lambda: changed("features.1"),
    "a layer's own way": lambda: changed("head"),
    "a listened to weight": lambda: head(lambda own: own.weight.register_hook(torch.neg)),
    "a weight watched when it has its slope": lambda: head(
        lambda own: own.weight.register_post_accumulate_grad_hook(lambda _: None)
    ),
    "a further parameter": lambda: head(
        lambda own: own.register_parameter("more", nn.Parameter(torch.ones(1)))
    ),
    "a weight that learns nothing": lambda: as_buffer("weight"),
    "a bias that learns nothing": lambda: as_buffer("bias"),
    "shared numbers": shared_numbers,
    "turned numbers": lambda: cnn().to(memory_format=torch.channels_last),
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
    if not list(model.parameters()):
        model.register_parameter("unused", nn.Parameter(torch.ones(1)))
    assert of(model, own) is None


def test_parameters_may_come_in_any_order():
    own, model, other = data(), cnn(), cnn()
    other.load_state_dict(model.state_dict())
    weight = other.head.weight
    del other.head.weight  # as what was pruned, or had a norm of its own, is left
    other.head.weight = weight
    for one in (model, other):
        steps = of(one, own)
        steps.step(own.inputs, own.labels)
        steps.write()
    assert all(torch.equal(model.state_dict()[n], v) for n, v in other.state_dict().items())


def test_nothing_is_taken_where_every_module_is_listened_to_or_no_slopes_are_asked_for():
    own = data()
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert of(cnn(), own) is None
    hook.remove()
    with torch.no_grad():
        assert of(cnn(), own) is None
    assert of(cnn(), own) is not None


def test_data_of_another_kind_is_left_to_autograd():
    own = data()
    for inputs, labels in (
        (own.inputs.double(), own.labels),
        (own.inputs, own.labels[:, None]),
        (own.inputs, own.labels.to(torch.uint8)),
        (own.inputs, own.labels - 1),
        (own.inputs, torch.where(own.labels == 1, -100, own.labels)),
        (own.inputs, own.labels + 1),
        (own.inputs[:0], own.labels[:0]),
        (own.inputs[:, :1], own.labels),
    ):
        assert of(cnn(), LabelledData(inputs, labels)) is None
    with torch.autocast("cpu"):
        assert of(cnn(), own) is None


def test_a_model_keeps_its_parameters_until_they_are_written():
    own, model = data(), cnn()
    before = [p.detach().clone() for p in model.parameters()]
    steps = of(model, own)
    steps.step(own.inputs, own.labels)
    assert np.isfinite(steps.loss.item())
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    steps.write()
    assert not any(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())
