"""What clients share when they defend themselves: gradients of many batches, or new weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from labelleak.core.knowledge import Defense, LabelledData
from labelleak.core.local_steps import as_seen, as_update
from labelleak.core.observation import Observation
from labelleak.core.seeding import stream
from labelleak.core.task import labels_each
from labelleak.core.update import Memory, Scope, SharedTensors
from labelleak.core.white_box import WhiteBox
from labelleak.defenses.client import TrainingChange
from labelleak.defenses.composition import Part, as_part
from labelleak.errors import BadInput
from labelleak.simulation.gradients import HeadTable, shared_gradients

# Bytes of gradients of the whole model that one slice of trials may take up.
_SLICE_BYTES = 256 * 2**20


def defended_gradients(
    model: WhiteBox,
    data: LabelledData,
    batches: np.ndarray,
    defense: Defense,
    *,
    seed: int = 0,
    full: bool = False,
    table: HeadTable | None = None,
) -> Observation:
    """Return what an attacker sees of batches whose clients use a defense, each in its first round.

    The head table serves where it is exact: the defense needs no more than the head, and the
    model passes each sample alone. Everything else goes through autograd, in slices.

    Args:
        model: the clients' model.
        data: where the batches' samples lie.
        batches: ``T x B`` indices into the data, one client each.
        defense: what each client does.
        seed: seed of dropout, noise and the like.
        full: keep the defended gradients of all other parameters too.
        table: the head table of this very model and data, if it was built already.

    Returns:
        An observation of T trials with N = B samples each. A withheld bias is None; a withheld
        weight too, unless nothing of the head is shared: then its weight gradient is all zeros.

    >>> from labelleak.defenses import GaussianNoise
    >>> model = WhiteBox(torch.nn.Linear(3, 2), "")
    >>> data = LabelledData(torch.rand(5, 3), torch.tensor([0, 1, 0, 1, 1]))
    >>> batches = np.array([[0, 1], [2, 4]])
    >>> defended_gradients(model, data, batches, GaussianNoise(0.1)).weight.shape
    torch.Size([2, 2, 3])
    """
    rng = stream(seed, "defense", defense.label)
    if not full and defense.scope is not Scope.UPDATE and model.is_per_sample(data.inputs):
        chain, places = as_part(defense), batches
        if is_costly(chain):
            used, places = np.unique(batches, return_inverse=True)
            places = places.reshape(batches.shape)
            data, table = _rows(data, table, torch.from_numpy(used))
        table = altered_table(model, data, chain, table)
        if table is not None:
            update = _finished(chain, as_update(table.gradients(places), model), batches, rng)
            return as_seen(
                defense.apply(update, rng)[0], model, batches.shape[1], trials=len(batches)
            )
    sizes = sum(parameter.numel() for parameter in model.module.parameters())
    number = -(-4 * sizes * len(batches) // _SLICE_BYTES)
    seen, each = [], labels_each(data.labels, model.task)
    for part in np.array_split(batches, min(number, len(batches))):
        sent, _ = defense.apply(_raw(model, data, part, defense, rng, full), rng)
        seen.append(as_seen(sent, model, part.shape[1] * each, trials=len(part), full=full))
    return seen[0] if len(seen) == 1 else _joined(seen)


def _raw(
    model: WhiteBox,
    data: LabelledData,
    batches: np.ndarray,
    defense: Defense,
    rng: np.random.Generator,
    full: bool,
) -> SharedTensors:
    wide = full or defense.scope is Scope.UPDATE
    if defense.changes_training:
        picked = [LabelledData(data.inputs[b], data.labels[b]) for b in torch.from_numpy(batches)]
        return defense.gradients(model, picked, rng, full=wide)
    own = int(rng.integers(2**31))
    return shared_gradients(model, data, batches, seed=own, full=wide)


def training_changes(defense: Part) -> list[TrainingChange]:
    """Return the parts of a defense that change how a client computes its gradient."""
    return [part for part in defense.parts if isinstance(part, TrainingChange)]


def is_costly(defense: Part) -> bool:
    """Return whether samples are altered one by one at a cost, and by one part alone."""
    return [change.is_costly for change in training_changes(defense)] == [True]


def takes_long(defense: Part) -> bool:
    """Return whether any part alters samples one by one at a cost, so that none is done in vain."""
    return any(
        isinstance(part, TrainingChange) and part.is_costly and not part.is_off
        for part in defense.parts
    )


def _rows(
    data: LabelledData, table: HeadTable | None, used: Tensor
) -> tuple[LabelledData, HeadTable | None]:
    """Keep some samples, and their rows of the table."""
    some = LabelledData(data.inputs[used], data.labels[used])
    if table is None:
        return some, None
    return some, HeadTable(table.inputs[used], table.errors[used], table.has_bias)


def altered_table(
    model: WhiteBox, data: LabelledData, defense: Part, table: HeadTable | None = None
) -> HeadTable | None:
    """Return the head table as training-time defenses change it, or None where they cannot."""
    changes = training_changes(defense)
    if len(changes) > 1:
        return None
    table = table or HeadTable.build(model, data)
    for change in changes:
        altered = change.alter_table(model, data, table.inputs, table.errors)
        if altered is None:
            return None
        table = HeadTable(*altered, table.has_bias)
    return table


def _finished(
    defense: Part, update: SharedTensors, batches: np.ndarray, rng: np.random.Generator
) -> SharedTensors:
    for change in training_changes(defense):
        update = change.finish(update, batches.shape[1], rng)
    return update


def _joined(seen: list[Observation]) -> Observation:
    def join(parts: list[Tensor | None]) -> Tensor | None:
        there = [part for part in parts if part is not None]
        return torch.cat(there) if there else None

    rests = [one.rest for one in seen if one.rest is not None]
    rest = {name: torch.cat([r[name] for r in rests]) for name in rests[0]} if rests else None
    weight, bias = join([one.weight for one in seen]), join([one.bias for one in seen])
    return replace(seen[0], weight=weight, bias=bias, rest=rest)


def defend_update(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    defense: Defense,
    rng: np.random.Generator,
    memory: Memory | None = None,
    *,
    head: str,
    buffers: frozenset[str] = frozenset(),
) -> tuple[dict[str, Tensor], Memory | None]:
    """Defend one client's new weights: the defense acts on their difference to the old ones.

    Args:
        before: state dict that the server sent.
        after: state dict after the client's training.
        defense: what the client does; strengths are in units of weights, not of gradients.
        rng: source of noise.
        memory: what the client kept from its last round.
        head: module name of the head.
        buffers: floating-point entries that are no parameters; they are shared as they are.

    Returns:
        The state dict to share, and what to keep for the next round. Integer entries come from
        `after`, withheld ones from `before`.

    Raises:
        BadInput: if the two state dicts differ in their names.

    >>> from labelleak.defenses import Clipping
    >>> before, after = {"weight": torch.zeros(1, 2)}, {"weight": torch.tensor([[3.0, 4.0]])}
    >>> sent, _ = defend_update(before, after, Clipping(1.0), np.random.default_rng(0), head="")
    >>> sent["weight"].numpy().round(6).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    if set(before) != set(after):
        raise BadInput("the weights before and after the update must have the same names")
    moved = movement(before, after, head=head, buffers=buffers)
    sent, memory = defense.apply(moved, rng, memory)
    return moved_by(before, sent), memory


def movement(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    *,
    head: str,
    buffers: frozenset[str] = frozenset(),
    unit: float = 1.0,
) -> SharedTensors:
    """Take what one client's weights moved by, in multiples of a unit: -lr gives gradients."""
    moved = {
        name: ((value - before[name]) / unit if value.is_floating_point() else value)[None]
        for name, value in after.items()
    }
    return SharedTensors(moved, head, buffers)


def moved_by(
    before: Mapping[str, Tensor], sent: SharedTensors, *, unit: float = 1.0
) -> dict[str, Tensor]:
    """Move weights by what one client sent; the reverse of `movement`, what is withheld stays."""
    shared = {name: value.clone() for name, value in before.items()}
    for name, tensor in sent.tensors.items():
        value = tensor[0]
        shared[name] = before[name] + unit * value if value.is_floating_point() else value.clone()
    return shared


__all__ = [
    "altered_table",
    "defend_update",
    "defended_gradients",
    "is_costly",
    "moved_by",
    "movement",
    "takes_long",
]
