"""Small convolutions as matrices: torch's numbers and slopes, and only where they are small."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labelleak.core import small_maps
from labelleak.core.small_maps import SmallMaps, pass_small
from labelleak.simulation.models import build_model

LAYERS = [
    # inside, outside, kernel, stride, padding, dilation, map
    (1, 12, 5, 2, 2, 1, (8, 8)),
    (3, 4, 3, 1, 0, 1, (5, 7)),
    (2, 5, (3, 1), (1, 2), (1, 0), 1, (6, 4)),
    (2, 3, 3, 1, 2, 2, (6, 6)),
    (4, 2, 1, 1, 0, 1, (3, 3)),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_numbers_and_slopes_are_those_of_torch(layer):
    inside, outside, kernel, stride, padding, dilation, size = layer
    torch.manual_seed(0)
    own = nn.Conv2d(inside, outside, kernel, stride, padding, dilation).double()
    inputs = torch.randn(6, inside, *size, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(own(inputs))
    plain = torch.autograd.grad((own(inputs) * weights).sum(), [inputs, *own.parameters()])
    with SmallMaps():
        outputs = own(inputs)
        found = torch.autograd.grad((outputs * weights).sum(), [inputs, *own.parameters()])
    torch.testing.assert_close(outputs, own(inputs))
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_what_is_large_grouped_or_refused_is_left_to_torch():
    inputs, weight = torch.ones(2, 4, 8, 8), torch.ones(4, 4, 3, 3)
    assert pass_small(inputs, weight) is None  # 36 x 64 x 16 entries
    assert pass_small(inputs[..., :3, :3], weight[:, :1], groups=4) is None
    assert pass_small(inputs[..., :3, :3], weight, padding="same") is None
    assert pass_small(inputs[:, :3, :3, :3], weight) is None
    assert pass_small(inputs[..., :3, :3].double(), weight) is None
    assert pass_small(inputs[..., :3, :3], weight) is not None
    with SmallMaps(), pytest.raises(RuntimeError):
        F.conv2d(inputs[:, :3, :3, :3], weight)
    with SmallMaps(), pytest.raises(RuntimeError):
        F.conv2d(inputs[..., :2, :2], weight)


def test_who_asks_first_does_not_matter_and_precision_is_torch_s():
    own, inputs = nn.Conv2d(1, 2, 3), torch.ones(1, 1, 4, 4)
    small_maps._places.cache_clear()
    with SmallMaps(), torch.inference_mode():
        own(inputs)
    with SmallMaps():
        own(inputs).sum().backward()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert own(inputs).dtype == torch.bfloat16
        own.bias.data = own.bias.data.double()
        with pytest.raises(RuntimeError):
            own(inputs)


def test_only_models_with_convolutions_are_served():
    shape = {"input_shape": (1, 8, 8), "num_classes": 10, "seed": 0}
    assert SmallMaps.serves(build_model("cnn", **shape))
    assert not SmallMaps.serves(build_model("mlp", **shape))
