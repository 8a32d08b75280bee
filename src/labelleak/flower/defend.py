"""Apply a defense to a reply's update: what the client sends is before + defended update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord
from torch import Tensor

from labelleak.core.update import Memory, SharedTensors
from labelleak.core.weights import buffer_names
from labelleak.defenses import Part, parse_defense
from labelleak.errors import BadInput, shown
from labelleak.flower.forms import Returns, form_of
from labelleak.flower.messages import Arrays, only_record

# A defense of labelleak (an object with `apply`), or a function from updates to updates; either
# sees name -> tensor with one leading dimension of trials, of size 1 here.
DefenseLike = Any
Tensors = Mapping[str, Tensor]
MEMORY = "labelleak.memory"


def defend(
    before: Arrays,
    reply: Message,
    defense: DefenseLike,
    rng: np.random.Generator,
    *,
    context: Context,
    head: str = "",
    returns: str | None = None,
) -> None:
    """Replace the update in a reply by the defended one.

    Floating-point parameters are defended together; integer buffers and batch norm's running
    statistics stay as the client computed them. A parameter that the defense withholds goes back
    as it was sent. What the defense keeps from round to round lies in the client's own state.

    Args:
        before: the weights that the server sent.
        reply: the client's reply; its array record is replaced.
        defense: see `DefenseLike`.
        rng: source of the defense's randomness.
        context: the client's context.
        head: module name of the head, for defenses that treat it apart.
        returns: the reply's form (`labelleak.flower.forms`); a difference or a gradient is
            defended as it stands.

    Raises:
        BadInput: if the reply does not look like weights and nobody declared its form, if
            its arrays do not fit those sent, or nothing can be defended.
    """
    key, record = only_record(reply)
    after = Arrays(record)
    if list(before) != list(after):
        raise BadInput("the reply's arrays have other names than those that were sent")
    weights = form_of(before, after, returns, strict=True).kind is Returns.weights
    start = before if weights else {name: torch.zeros_like(t) for name, t in before.items()}
    buffers = buffer_names(after)
    update = {
        name: (after[name].float() - start[name].float())[None]
        for name in after
        if after[name].is_floating_point() and name not in buffers
    }
    if not update:
        raise BadInput("the reply holds no floating-point parameter that could be defended")
    shared = _apply(defense, update, rng, context, head)
    reply.content[key] = ArrayRecord(
        {name: Array(_merged(name, start, after, update, shared).numpy()) for name in after}
    )


def read_defense(defense: DefenseLike) -> DefenseLike:
    """Take a defense, a function or the text form of a chain (``clip:1|gaussian:0.1``).

    Raises:
        BadInput: for anything else, a text that cannot be read, or no defense at all.
    """
    if isinstance(defense, str):
        chain = parse_defense(defense)
        if not chain.links:
            raise BadInput("none is no defense; leave the mod out")
        return chain
    if not hasattr(defense, "apply") and not callable(defense):
        raise BadInput(f"{shown(defense)} is no defense; give one, its text or a function")
    return defense


def label_of(defense: DefenseLike) -> str:
    """Name a defense for the records."""
    label = getattr(defense, "label", None)
    return str(label or getattr(defense, "__name__", type(defense).__name__))


def _merged(name: str, before: Tensors, after: Tensors, update: Tensors, shared: Tensors) -> Tensor:
    if name not in update:
        return after[name]
    if name not in shared:
        return before[name]
    return (before[name].float() + shared[name][0]).to(after[name].dtype)


def _apply(
    defense: DefenseLike, update: Tensors, rng: np.random.Generator, context: Context, head: str
) -> Tensors:
    if not hasattr(defense, "apply"):
        changed: Tensors = defense(dict(update))
        _check(update, changed)
        return changed
    held = load_memory(context)
    if isinstance(defense, Part):
        defense.check_names(list(update), head)
    answer, kept = defense.apply(SharedTensors(update, head), rng, held)
    if kept is not None:
        save_memory(context, kept)
    _check(update, answer.tensors)
    tensors: Tensors = answer.tensors
    return tensors


def _check(update: Tensors, shared: Tensors) -> None:
    for name, tensor in shared.items():
        if name not in update or tensor.shape != update[name].shape:
            raise BadInput(f"the defense returned {name!r} with a shape that was not asked for")
        if not bool(torch.isfinite(tensor).all()):
            raise BadInput(f"the defense returned NaN or infinite values for {name!r}")


def save_memory(context: Context, memory: Any) -> None:
    """Keep a defense's memory in the client's state, which outlives the process."""
    rounds: dict[str, int] = {}
    arrays: dict[str, Array] = {}
    _flatten(memory, "", rounds, arrays)
    context.state[MEMORY] = MetricRecord(dict(rounds))
    context.state[f"{MEMORY}.arrays"] = ArrayRecord(arrays)


def load_memory(context: Context) -> Any:
    """Read a defense's memory back; None before the first round."""
    if MEMORY not in context.state:
        return None
    rounds = dict(context.state.metric_records[MEMORY])
    arrays = Arrays(context.state.array_records[f"{MEMORY}.arrays"])
    return _unflatten("", rounds, arrays)


def _flatten(memory: Any, path: str, rounds: dict[str, int], arrays: dict[str, Array]) -> None:
    rounds[f"{path}rounds"] = memory.rounds
    for kind in ("residual", "momentum"):
        for name, tensor in getattr(memory, kind).items():
            arrays[f"{path}{kind}|{name}"] = Array(tensor.detach().cpu().numpy())
    rounds[f"{path}parts"] = len(memory.parts)
    for place, part in enumerate(memory.parts):
        if part is not None:
            _flatten(part, f"{path}{place}/", rounds, arrays)


def _unflatten(path: str, rounds: Mapping[str, Any], arrays: Arrays) -> Any:
    if f"{path}rounds" not in rounds:
        return None

    def tensors(kind: str) -> dict[str, Tensor]:
        start = f"{path}{kind}|"
        return {name[len(start) :]: arrays[name] for name in arrays if name.startswith(start)}

    parts = range(int(rounds[f"{path}parts"]))
    return Memory(
        rounds=int(rounds[f"{path}rounds"]),
        residual=tensors("residual"),
        momentum=tensors("momentum"),
        parts=tuple(_unflatten(f"{path}{place}/", rounds, arrays) for place in parts),
    )


__all__ = ["DefenseLike", "defend", "label_of", "load_memory", "read_defense", "save_memory"]
