"""Models by name or import path, made from a seed beside torch's global random state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from labelleak.core.fingerprints import fingerprint_tensors
from labelleak.core.head_tracing import output_tensors
from labelleak.core.seeding import torch_seeded
from labelleak.core.task import Task, logits_of
from labelleak.errors import BadInput, unknown_name
from labelleak.simulation import networks
from labelleak.simulation.designs import DESIGNS, MODELS, Design
from labelleak.simulation.language_models import make_language_model
from labelleak.simulation.networks import ACTIVATIONS, Classifier, Shape
from labelleak.simulation.user_models import call_factory, describe_error

SMALLEST_SIDE = 8
UNIFORM_BOUND = 0.5


def build_model(
    name: str,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    activation: str | None = None,
    init: str = "default",
    seed: int,
    task: Task = Task.classes,
) -> nn.Module:
    """Build a model; the same arguments give the same parameters.

    torch's global random state is left as it was.

    Args:
        name: a name in MODELS, or ``package.module:factory`` for your own. The factory is called
            with ``input_shape`` and ``num_classes`` as far as its signature has them.
        input_shape: of one input, ``(C, H, W)`` or ``(D,)``.
        num_classes: scores that the model must give; 1 of a binary task.
        activation: a name in ACTIVATIONS; None takes the model's own.
        init: ``default`` (PyTorch's), ``uniform`` (every parameter from -0.5 to 0.5, as in the LLG
            paper) or ``xavier`` (uniform weights, zero biases).
        seed: decides the initial parameters.
        task: what the labels are; a model of tokens takes token ids.

    Raises:
        BadInput: if a name is unknown, the shape does not suit or your own model fails.

    >>> model = build_model("cnn", input_shape=(1, 28, 28), num_classes=10, seed=0)
    >>> model.head
    Linear(in_features=588, out_features=10, bias=True)
    """
    if init not in INITIALISATIONS:
        raise unknown_name("initialisation", init, INITIALISATIONS)
    if num_classes < 1:
        raise BadInput(f"a model needs at least one output, not {num_classes}")
    with torch_seeded(seed):
        if ":" in name:
            _refuse_activation(name, activation)
            model = call_factory(name, seed=seed, input_shape=input_shape, num_classes=num_classes)
        else:
            model = _build_designed(name, input_shape, num_classes, activation, task)
        _check_output(model, name, _zeros(input_shape, task), num_classes)
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
        raise BadInput(f"{name} has its own activation, which cannot be chosen from outside")


def _build_designed(
    name: str, shape: Shape, num_classes: int, activation: str | None, task: Task
) -> nn.Module:
    if name not in DESIGNS:
        raise unknown_name("model", name, MODELS)
    design = DESIGNS[name]
    if design.takes_tokens != (task is Task.tokens):
        fits = [
            other for other, one in DESIGNS.items() if one.takes_tokens == (task is Task.tokens)
        ]
        raise BadInput(f"{name} is no model of {task}; use {', '.join(fits)}")
    if design.takes_tokens:
        _refuse_activation(name, activation)
        return make_language_model(name, num_classes, shape[0])
    chosen = activation or design.activation
    if chosen not in ACTIVATIONS:
        raise unknown_name("activation", chosen, ACTIVATIONS)
    _check_shape(name, shape, design)
    features = getattr(networks, f"make_{name}")(shape, ACTIVATIONS[chosen])
    num_features = _run(features, torch.zeros(2, *shape)).shape[1]
    return Classifier(features, num_features, num_classes, maps=design.gives_maps)


def _check_shape(name: str, shape: Shape, design: Design) -> None:
    if len(shape) not in (1, 3) or min(shape) < 1:
        raise BadInput(f"an input is (C, H, W) or (D,), not {tuple(shape)}")
    if not design.takes_tables and (len(shape) != 3 or min(shape[1:]) < SMALLEST_SIDE):
        raise BadInput(
            f"{name} needs images of at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels, "
            f"not inputs of shape {tuple(shape)}; mlp takes any"
        )


def _zeros(shape: Shape, task: Task) -> Tensor:
    return torch.zeros(2, *shape, dtype=torch.long if task is Task.tokens else torch.float32)


def _run(model: nn.Module, inputs: Tensor) -> Any:
    """Run inputs in evaluation mode, so that no running statistic moves."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(inputs)
    finally:
        for module, training in modes:
            module.training = training
    return outputs


def _check_output(model: nn.Module, name: str, inputs: Tensor, num_classes: int) -> None:
    try:
        outputs = _run(model, inputs)
    except Exception as error:
        what = f"{name} fails on inputs of shape {tuple(inputs.shape[1:])}"
        raise BadInput(f"{what}: {describe_error(error)}") from error
    if not inputs.is_floating_point():
        given, wanted = tuple(logits_of(outputs).shape), (*inputs.shape, num_classes)
        if given != wanted:
            raise BadInput(f"{name} must give a logit for each token, {wanted}, but gives {given}")
        return
    shapes = [tuple(tensor.shape) for _, tensor in output_tensors(outputs)]
    one = num_classes == 1
    if not any(shape[:2] == (2, num_classes) or (shape == (2,) and one) for shape in shapes):
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        hint = "; a model of one logit has the `task` binary" if shapes == [(2, 1)] else ""
        if shapes == [(2, num_classes - 1)]:
            hint = "; the data's largest label counts from 0: do its labels run from 1?"
        scores = f"scores (2, {num_classes})"
        raise BadInput(f"{name} must turn 2 inputs into {scores}, but gives {got}{hint}")


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
