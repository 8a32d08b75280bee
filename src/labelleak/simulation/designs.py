"""The names of models and what each is, without torch; `networks` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Design:
    """What is known of a shipped model before it is made."""

    summary: str
    activation: str = "relu"
    takes_tables: bool = False
    gives_maps: bool = False
    takes_tokens: bool = False


DESIGNS: Mapping[str, Design] = {
    "cnn": Design("LLG's three 5x5 convolutions with 12 channels, sigmoid", "sigmoid"),
    "mlp": Design("two hidden layers, 256 and 128, ReLU; also for tables", takes_tables=True),
    "lenet": Design("LeNet-5 with ReLU and average pooling"),
    "vgg": Design("VGG-like: six 3x3 convolutions, 32 to 128 channels, ReLU"),
    "resnet20": Design("residual, 16/32/64 channels, batch normalisation, ReLU"),
    "resnet18": Design("residual, 64 to 512 channels, small-image stem, ReLU"),
    "fcn": Design("three 5x5 convolutions, 16 channels, ReLU: a class a pixel", gives_maps=True),
    **{
        name: Design(summary, "its own", takes_tokens=True)
        for name, summary in (
            ("gpt2-small", "text: GPT-2's layout, 2 layers, 128 wide, head tied to the embedding"),
            ("gpt2-untied", "text: the same with a head of its own"),
            ("llama-small", "text: Llama's layout, 2 layers, 128 wide"),
            ("lstm", "text: one LSTM layer, 128 wide, a head with a bias"),
        )
    },
}
USER_MODEL = "PACKAGE.MODULE:FACTORY"
MODELS: Mapping[str, str] = {
    **{name: design.summary for name, design in DESIGNS.items()},
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
    return DESIGNS[name].activation if name in DESIGNS else "its own"
