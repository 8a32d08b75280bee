"""Gradients of single samples: put together from layers, they are autograd's."""

import numpy as np
import pytest
import torch
from torch import nn

from labelleak.attacks.many_clients import SampleGradients
from labelleak.core.knowledge import LabelledData
from labelleak.core.white_box import WhiteBox
from labelleak.simulation.gradients import autograd_gradients
from labelleak.simulation.models import build_model

IMAGES = LabelledData(
    torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 4
)


@pytest.mark.parametrize("name", ["mlp", "cnn", "lenet"])
def test_put_together_from_layers_they_are_autograd_s(name):
    box = WhiteBox(build_model(name, input_shape=(1, 8, 8), num_classes=4, seed=0), "head")
    list(box.module.parameters())[1].requires_grad_(False)  # one is frozen
    batches = np.random.default_rng(0).integers(12, size=(3, 5))
    held = SampleGradients.of_layers(box, IMAGES)
    assert held is not None
    found, wanted = held.of_batches(batches), autograd_gradients(box, IMAGES, batches, full=True)
    assert set(found) == {*wanted.rest, "head.weight", "head.bias"}
    for part, value in {**wanted.rest, "head.weight": wanted.weight}.items():
        assert torch.allclose(found[part], value, rtol=1e-4, atol=1e-6), part


@pytest.mark.parametrize("extra", [nn.BatchNorm1d(64), nn.LayerNorm(64)])
def test_what_layers_do_not_show_is_not_put_together(extra):
    model = nn.Sequential(nn.Flatten(), extra, nn.Linear(64, 4))
    assert SampleGradients.of_layers(WhiteBox(model, "2"), IMAGES) is None


def test_shared_parameters_and_several_labels_are_left_to_autograd():
    twin = nn.Linear(64, 64)
    shared = nn.Sequential(nn.Flatten(), twin, nn.ReLU(), twin, nn.Linear(64, 4))
    assert SampleGradients.of_layers(WhiteBox(shared, "4"), IMAGES) is None
    alone = WhiteBox(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), "1")
    many = LabelledData(IMAGES.inputs, torch.eye(4)[IMAGES.labels])
    assert SampleGradients.of_layers(alone, many) is None
    assert SampleGradients.of_layers(alone, IMAGES) is not None
