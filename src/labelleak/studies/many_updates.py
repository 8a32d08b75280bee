"""The quick attacks of the standard battery on many updates of one model: one call, or one each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from labelleak.attacks.catalogue import RULES, make_attack
from labelleak.core.answers import Answer
from labelleak.core.battery import Battery
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.seeding import torch_seeded
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import WhiteBox

INPUTS, BATCH, OWN = 64, 32, 4
# Updates that are attacked one by one; the rest would only repeat them.
_ALONE = 20
_HEAD = "2"


def battery_works(
    number: int, classes: int, width: int
) -> tuple[Callable[[], list[Answer]], Callable[[], list[list[Answer]]], float]:
    """Make the attack of clients' gradients in one call, and in a call for each of a few.

    Every layer is shared, labels are drawn evenly, and inputs stray around a place of their class.

    Args:
        number: of clients.
        classes: K.
        width: head inputs.

    Returns:
        Both works, and how many times the few make up all.
    """
    model, own, gradients = _round(number, classes, width)
    made = LocalTraining(batch_size=BATCH, local_steps=1)
    known = Knowledge(
        model=WhiteBox(model, _HEAD), auxiliary=own, training=made, input_shape=(INPUTS,)
    )
    battery = Battery.prepare([make_attack(name) for name in RULES], known, classes)

    def seen(place: int | slice) -> Observation:
        own = {name: value[place] for name, value in gradients.items()}
        head = (own.pop(f"{_HEAD}.{part}") for part in ("weight", "bias"))
        return replace(Observation.from_gradient(*head, num_samples=BATCH), rest=own)

    few = min(number, _ALONE)

    def each() -> list[list[Answer]]:
        return [battery.answer(seen(place)) for place in range(few)]

    return lambda: battery.answer(seen(slice(None))), each, number / few


def _round(
    number: int, classes: int, width: int
) -> tuple[nn.Module, LabelledData, dict[str, Tensor]]:
    """Make a fresh model, the attacker's own data and the clients' gradients."""
    made = torch.Generator().manual_seed(0)
    with torch_seeded(0):
        model = nn.Sequential(nn.Linear(INPUTS, width), nn.ReLU(), nn.Linear(width, classes))
    places = torch.rand(classes, INPUTS, generator=made)

    def draw(labels: Tensor) -> Tensor:
        return places[labels] + 0.3 * torch.randn(*labels.shape, INPUTS, generator=made)

    weights = {name: value.detach() for name, value in model.named_parameters()}

    def loss(own: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, own, (inputs,)), labels)

    labels = torch.randint(classes, (number, BATCH), generator=made)
    slopes = vmap(grad(loss), in_dims=(None, 0, 0), chunk_size=100)
    gradients: dict[str, Tensor] = slopes(weights, draw(labels), labels)
    known = torch.arange(classes).repeat(OWN)
    return model, LabelledData(draw(known), known), gradients


__all__ = ["battery_works"]
