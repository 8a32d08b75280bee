"""The networks that ship: feature layers that end in an activation, and a linear head."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
Activation = Callable[[], nn.Module]
Shape = tuple[int, ...]


class Classifier(nn.Module):
    """Features that end in an activation, and one linear layer called ``head``.

    Features that are maps get a convolution of one pixel in its place.

    >>> Classifier(make_mlp((4,), nn.ReLU), num_features=128, num_classes=3).head
    Linear(in_features=128, out_features=3, bias=True)
    """

    def __init__(
        self, features: nn.Sequential, num_features: int, num_classes: int, *, maps: bool = False
    ) -> None:
        super().__init__()
        self.features = features
        size = (num_features, num_classes)
        self.head = nn.Conv2d(*size, 1) if maps else nn.Linear(*size)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return one score a class for each input."""
        scores: Tensor = self.head(self.features(inputs))
        return scores


class Residual(nn.Module):
    """Two 3x3 convolutions with batch normalisation, added to their input."""

    def __init__(self, inside: int, outside: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            *_normed_convolution(inside, outside, stride),
            activation(),
            *_normed_convolution(outside, outside, 1),
        )
        same = inside == outside and stride == 1
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(*_normed_convolution(inside, outside, stride, kernel=1))
        )
        self.activation = activation()

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the block."""
        outputs: Tensor = self.activation(self.inner(inputs) + self.shortcut(inputs))
        return outputs


def _normed_convolution(
    inside: int, outside: int, stride: int, kernel: int = 3
) -> tuple[nn.Module, nn.Module]:
    layer = nn.Conv2d(inside, outside, kernel, stride, padding=kernel // 2, bias=False)
    return layer, nn.BatchNorm2d(outside)


def make_cnn(shape: Shape, activation: Activation) -> nn.Sequential:
    """Three 5x5 convolutions with 12 channels: LLG's network (Wainakh et al. 2022)."""
    layers: list[nn.Module] = []
    for inside, stride in ((shape[0], 2), (12, 2), (12, 1)):
        layers += [nn.Conv2d(inside, 12, 5, stride, padding=2), activation()]
    return nn.Sequential(*layers, nn.Flatten())


def make_fcn(shape: Shape, activation: Activation) -> nn.Sequential:
    """Three 5x5 convolutions with 16 channels that keep every pixel."""
    layers: list[nn.Module] = []
    for inside in (shape[0], 16, 16):
        layers += [nn.Conv2d(inside, 16, 5, padding=2), activation()]
    return nn.Sequential(*layers)


def make_mlp(shape: Shape, activation: Activation) -> nn.Sequential:
    """Two hidden layers over flattened inputs."""
    inputs = torch.Size(shape).numel()
    layers = [nn.Linear(inputs, 256), activation(), nn.Linear(256, 128), activation()]
    return nn.Sequential(nn.Flatten(), *layers)


def make_lenet(shape: Shape, activation: Activation) -> nn.Sequential:
    """LeNet-5 up to its last layer, fitted to small images as well."""
    # The second convolution is padded where too little of a small image is left for it.
    halves = [side // 2 for side in shape[1:]]
    padding = 0 if min(halves) >= 6 else 2
    left = [(side + 2 * padding - 4) // 2 for side in halves]
    return nn.Sequential(
        *(nn.Conv2d(shape[0], 6, 5, padding=2), activation(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5, padding=padding), activation(), nn.AvgPool2d(2)),
        nn.Flatten(),
        *(nn.Linear(16 * left[0] * left[1], 120), activation()),
        *(nn.Linear(120, 84), activation()),
    )


def make_vgg(shape: Shape, activation: Activation) -> nn.Sequential:
    """Three pairs of 3x3 convolutions, each followed by pooling, in the manner of VGG."""
    layers: list[nn.Module] = []
    inside = shape[0]
    for width in (32, 64, 128):
        for _ in range(2):
            layers += [nn.Conv2d(inside, width, 3, padding=1), activation()]
            inside = width
        layers.append(nn.MaxPool2d(2))
    sides = [side // 8 for side in shape[1:]]
    hidden = nn.Linear(inside * sides[0] * sides[1], 256)
    return nn.Sequential(*layers, nn.Flatten(), hidden, activation())


def _resnet(
    shape: Shape, activation: Activation, widths: tuple[int, ...], blocks: int
) -> nn.Sequential:
    layers = [*_normed_convolution(shape[0], widths[0], 1), activation()]
    inside = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(Residual(inside, width, stride, activation))
            inside = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def make_resnet20(shape: Shape, activation: Activation) -> nn.Sequential:
    """The CIFAR residual network with 3 x 3 blocks."""
    return _resnet(shape, activation, (16, 32, 64), blocks=3)


def make_resnet18(shape: Shape, activation: Activation) -> nn.Sequential:
    """The 4 x 2 blocks of ResNet-18 behind a small-image stem."""
    return _resnet(shape, activation, (64, 128, 256, 512), blocks=2)
