"""The table of all layers gives autograd's gradients, sketched the same way."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labelleak.core.knowledge import LabelledData
from labelleak.core.layer_table import LayerTable
from labelleak.core.sketches import Sketch
from labelleak.core.white_box import WhiteBox
from labelleak.simulation.gradients import autograd_gradients
from labelleak.simulation.models import build_model

CLASSES, SIZE = 4, 64


class Tied(nn.Module):
    """One layer run twice, another whose weight two modules hold."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(12, 12) for _ in range(3))
        self.third.weight = self.second.weight
        self.fc = nn.Linear(12, CLASSES)

    def forward(self, inputs):
        twice = self.first(torch.tanh(self.first(inputs)))
        return self.fc(torch.tanh(self.third(torch.tanh(self.second(twice)))))


def convolutions():
    return nn.Sequential(
        nn.Conv2d(1, 6, (3, 2), padding="same", dilation=2, bias=False),
        nn.GroupNorm(2, 6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, stride=2, groups=2),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.LazyLinear(CLASSES),
    )


def positions():
    return nn.Sequential(
        nn.Linear(8, 10), nn.LayerNorm(10), nn.GELU(), nn.Flatten(), nn.Linear(80, CLASSES)
    )


MODELS = {
    "mlp": (lambda: build_model("mlp", input_shape=(12,), num_classes=CLASSES, seed=0), (12,)),
    "cnn": (
        lambda: build_model("cnn", input_shape=(1, 8, 8), num_classes=CLASSES, seed=0),
        (1, 8, 8),
    ),
    "convolutions": (convolutions, (1, 8, 8)),
    "positions": (positions, (8, 8)),
    "tied": (Tied, (12,)),
    "resnet20, eval": (
        lambda: build_model("resnet20", input_shape=(1, 8, 8), num_classes=CLASSES, seed=0).eval(),
        (1, 8, 8),
    ),
}


def make(name):
    factory, shape = MODELS[name]
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(9, *shape, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        module = factory()
        module(inputs[:2])
    heads = [n for n, m in module.named_modules() if isinstance(m, nn.Linear)]
    return WhiteBox(module, heads[-1]), LabelledData(inputs, torch.arange(9) % CLASSES)


@pytest.mark.parametrize("name", MODELS)
def test_any_batch_is_a_mean_of_rows(name):
    model, data = make(name)
    before = copy.deepcopy(model.module.state_dict())
    table = LayerTable.build(model, data, size=SIZE)
    batches = np.array([[0, 1, 2, 3, 0], [5, 8, 8, 1, 2]])
    found = table.of_batches(batches)
    for trial, batch in enumerate(torch.from_numpy(batches)):
        loss = F.cross_entropy(model.module(data.inputs[batch]), data.labels[batch])
        named = dict(model.module.named_parameters())
        slopes = torch.autograd.grad(loss, list(named.values()))
        wanted = table.sketch({n: s[None] for n, s in zip(named, slopes, strict=True)})
        assert set(wanted) == set(named) == set(found)
        for key, value in wanted.items():
            assert value.shape[1] <= SIZE
            reach = float(value.abs().max()) + 1e-6
            assert torch.allclose(found[key][trial], value[0], atol=2e-5 * reach), key
    assert table.is_exact
    assert all(torch.equal(before[k], v) for k, v in model.module.state_dict().items())


def test_batch_norm_in_train_mode_shows_a_real_batch_and_says_so():
    model, data = make("resnet20, eval")
    model.module.train()
    table = LayerTable.build(model, data, size=SIZE)
    assert not table.is_exact
    together = np.arange(len(data))[None]
    full = autograd_gradients(model, data, together, full=True)
    found, wanted = table.of_batches(together), table.sketch(full.rest)
    assert "features.0.weight" in found
    for name in wanted:
        assert torch.allclose(
            found[name], wanted[name], atol=1e-5 * float(wanted[name].abs().max())
        )


def test_a_sketch_of_products_is_that_of_the_matrix_and_keeps_inner_products():
    rng = torch.Generator().manual_seed(0)
    signals, inputs = (torch.randn(200, 1, size, generator=rng) for size in (30, 40))
    sketch = Sketch.of("layer.weight", (30, 40), 500)
    products = torch.einsum("npo,npi->noi", signals, inputs)
    short = sketch.of_products(signals, inputs)
    assert torch.allclose(short, sketch.of_gradients(products), atol=1e-4)
    flat = products.flatten(1)
    lengths = flat.norm(dim=1)
    missed = (short @ short.T - flat @ flat.T) / (lengths[:, None] * lengths)
    assert abs(float(missed.mean())) < 0.005
    assert float(missed.std()) < 2 * (2 / 500) ** 0.5


def test_the_same_parameter_is_sketched_alike_by_everybody_and_others_are_not():
    ones = torch.ones(1, 900)
    first, same, other = (
        Sketch.of(name, (30, 30), 50).of_gradients(ones) for name in ("a", "a", "b")
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_layers_are_kept_on_request():
    model, data = make("mlp")
    table = LayerTable.build(model, data, keep=frozenset({"features.1", "features.3"}))
    layer = table.layers["features.3"]
    mean = torch.einsum("npo,npi->oi", layer.signals, layer.inputs) / len(data)
    whole = autograd_gradients(model, data, np.arange(9)[None], full=True)
    assert torch.allclose(mean, whole.rest["features.3.weight"][0], atol=1e-6)
