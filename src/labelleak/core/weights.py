"""Weights by name: which are parameters and which buffers, and how they get into a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from labelleak.core.forms import named_like
from labelleak.core.lazy import Tensor, nn
from labelleak.errors import BadInput, shown

# What layers of torch keep beside their parameters; all that is known of bare tensors.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def buffer_names(names: Iterable[str], model: nn.Module | None = None) -> frozenset[str]:
    """Tell which names are buffers: not trained, so that they are no part of a gradient.

    Args:
        names: of a state dict.
        model: the model, where it is at hand; else batch norm's statistics go by their names.

    >>> sorted(buffer_names(["bn.weight", "bn.running_mean"]))
    ['bn.running_mean']
    """
    if model is not None:
        own = {name for name, _ in model.named_buffers()}
        return frozenset(name for name in names if name in own)
    return frozenset(name for name in names if name.rpartition(".")[2] in _STATISTICS)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Set a model's parameters and buffers.

    Args:
        model: changed in place.
        weights: by name, all that the model has; a wrapper's prefix is taken off.
        what: what they are, for the message.

    Raises:
        BadInput: if they do not fit the model, or a parameter is NaN or infinite.
    """
    called = named_like(weights, model.state_dict()) or weights
    for name, _ in model.named_parameters():
        if name in called and not called[name].isfinite().all():
            raise BadInput(f"{what} hold NaN or infinite numbers in {shown(name)}")
    try:
        model.load_state_dict(dict(called))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise BadInput(f"{what} do not fit the model: {reason}") from error


def trained_names(model: nn.Module) -> list[str]:
    """Name the parameters that a client trains, in the model's order."""
    return [name for name, value in model.named_parameters() if value.requires_grad]


__all__ = ["buffer_names", "load_weights", "trained_names"]
