"""Models by name or import path, made from a seed beside torch's global random state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from labelleak.core.fingerprints import fingerprint_tensors
from labelleak.core.seeding import torch_seeded
from labelleak.errors import BadInput, unknown_name
from labelleak.simulation.networks import (
    ACTIVATIONS,
    Activation,
    Classifier,
    Shape,
    make_cnn,
    make_lenet,
    make_mlp,
    make_resnet18,
    make_resnet20,
    make_vgg,
)
from labelleak.simulation.user_models import call_factory, describe_error

SMALLEST_SIDE = 8
UNIFORM_BOUND = 0.5


@dataclass(frozen=True)
class _Design:
    summary: str
    make_features: Callable[[Shape, Activation], nn.Sequential]
    activation: str = "relu"
    takes_tables: bool = False


_DESIGNS: Mapping[str, _Design] = {
    "cnn": _Design("LLG's three 5x5 convolutions with 12 channels, sigmoid", make_cnn, "sigmoid"),
    "mlp": _Design(
        "two hidden layers, 256 and 128, ReLU; also for tables", make_mlp, takes_tables=True
    ),
    "lenet": _Design("LeNet-5 with ReLU and average pooling", make_lenet),
    "vgg": _Design("VGG-like: six 3x3 convolutions, 32 to 128 channels, ReLU", make_vgg),
    "resnet20": _Design("residual, 16/32/64 channels, batch normalisation, ReLU", make_resnet20),
    "resnet18": _Design("residual, 64 to 512 channels, small-image stem, ReLU", make_resnet18),
}
USER_MODEL = "PACKAGE.MODULE:FACTORY"
MODELS: Mapping[str, str] = {
    **{name: design.summary for name, design in _DESIGNS.items()},
    USER_MODEL: "your own: a function that returns a torch.nn.Module",
}


def own_init(name: str, activation: str | None) -> str:
    """Name the initialisation that goes with a model: the paper's for the paper's CNN.

    A deep sigmoid network does not train from PyTorch's initialisation, nor a ReLU network
    from the paper's, so the choice follows the activation.

    >>> own_init("cnn", None), own_init("cnn", "relu"), own_init("lenet", None)
    ('uniform', 'default', 'default')
    """
    return "uniform" if name == "cnn" and activation in (None, "sigmoid") else "default"


def own_activation(name: str) -> str:
    """Name the activation that a model has unless another is chosen.

    >>> own_activation("cnn"), own_activation("mine:make")
    ('sigmoid', 'its own')
    """
    return _DESIGNS[name].activation if name in _DESIGNS else "its own"


def build_model(
    name: str,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    activation: str | None = None,
    init: str = "default",
    seed: int,
) -> nn.Module:
    """Build a model; the same arguments give the same parameters.

    torch's global random state is left as it was.

    Args:
        name: a name in MODELS, or ``package.module:factory`` for your own. The factory is called
            with ``input_shape`` and ``num_classes`` as far as its signature has them.
        input_shape: of one input, ``(C, H, W)`` or ``(D,)``.
        num_classes: scores that the model must give.
        activation: a name in ACTIVATIONS; None takes the model's own.
        init: ``default`` (PyTorch's), ``uniform`` (every parameter from -0.5 to 0.5, as in the LLG
            paper) or ``xavier`` (uniform weights, zero biases).
        seed: decides the initial parameters.

    Raises:
        BadInput: if a name is unknown, the shape does not suit or your own model fails.

    >>> model = build_model("cnn", input_shape=(1, 28, 28), num_classes=10, seed=0)
    >>> model.head
    Linear(in_features=588, out_features=10, bias=True)
    """
    if init not in INITIALISATIONS:
        raise unknown_name("initialisation", init, INITIALISATIONS)
    if num_classes < 2:
        raise BadInput(f"a model needs at least 2 classes, not {num_classes}")
    with torch_seeded(seed):
        if ":" in name:
            _refuse_activation(name, activation)
            model = call_factory(name, seed=seed, input_shape=input_shape, num_classes=num_classes)
        else:
            model = _build_designed(name, input_shape, num_classes, activation)
        _check_output(model, name, input_shape, num_classes)
        INITIALISATIONS[init](model)
    return model


def fingerprint(model: nn.Module) -> str:
    """Hash a model's parameters and buffers with their names; 16 hexadecimal digits of sha256.

    >>> fingerprint(nn.Identity())
    'e3b0c44298fc1c14'
    """
    state = model.state_dict().items()
    return fingerprint_tensors((name, value) for name, value in state if isinstance(value, Tensor))


def _refuse_activation(name: str, activation: str | None) -> None:
    if activation is not None:
        raise BadInput(f"{name} is your own model, so its activation cannot be chosen from outside")


def _build_designed(name: str, shape: Shape, num_classes: int, activation: str | None) -> nn.Module:
    if name not in _DESIGNS:
        raise unknown_name("model", name, MODELS)
    design = _DESIGNS[name]
    chosen = activation or design.activation
    if chosen not in ACTIVATIONS:
        raise unknown_name("activation", chosen, ACTIVATIONS)
    _check_shape(name, shape, design)
    features = design.make_features(shape, ACTIVATIONS[chosen])
    num_features = _run_zeros(features, shape).shape[1]
    return Classifier(features, num_features, num_classes)


def _check_shape(name: str, shape: Shape, design: _Design) -> None:
    if len(shape) not in (1, 3) or min(shape) < 1:
        raise BadInput(f"an input is (C, H, W) or (D,), not {tuple(shape)}")
    if not design.takes_tables and (len(shape) != 3 or min(shape[1:]) < SMALLEST_SIDE):
        raise BadInput(
            f"{name} needs images of at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels, "
            f"not inputs of shape {tuple(shape)}; mlp takes any"
        )


def _run_zeros(model: nn.Module, shape: Shape) -> Tensor:
    """Run two zero inputs in evaluation mode, so that no running statistic moves."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            outputs: Tensor = model(torch.zeros(2, *shape))
    finally:
        for module, training in modes:
            module.training = training
    return outputs


def _check_output(model: nn.Module, name: str, shape: Shape, num_classes: int) -> None:
    try:
        outputs = _run_zeros(model, shape)
    except Exception as error:
        what = f"{name} fails on inputs of shape {tuple(shape)}"
        raise BadInput(f"{what}: {describe_error(error)}") from error
    got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if got != (2, num_classes):
        raise BadInput(f"{name} must turn 2 inputs into scores (2, {num_classes}), but gives {got}")


def _keep(model: nn.Module) -> None:
    """Leave PyTorch's own initialisation."""


@torch.no_grad()
def _draw_uniform(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.uniform_(-UNIFORM_BOUND, UNIFORM_BOUND)


@torch.no_grad()
def _draw_xavier(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
        elif name.rpartition(".")[2] == "bias":
            nn.init.zeros_(parameter)


INITIALISATIONS: Mapping[str, Callable[[nn.Module], None]] = {
    "default": _keep,
    "uniform": _draw_uniform,
    "xavier": _draw_xavier,
}
