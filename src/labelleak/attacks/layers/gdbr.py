"""GDBR: from a layer below the head back to the gradient of the logits."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from labelleak.attacks.layers.reading import LayerReader, refuse_nothing
from labelleak.core.card import MANY_CLASSES, Card
from labelleak.core.interfaces import Attack, Estimate, Prepared, samples
from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import Tensor, torch
from labelleak.core.needs import OWN_DATA, Need
from labelleak.core.observation import Observation
from labelleak.core.rounding import round_counts
from labelleak.core.wide_products import wide_product
from labelleak.records.assumptions import MEASURED

# Directions of the bridge weaker than this beside the strongest are not inverted.
_RANK = 1e-4


@dataclass(frozen=True)
class GDBR(Attack):
    """Bridge a lower layer's gradient to the gradient of the logits, and count labels there.

    For a layer below the head, a sample's gradient is ``J_k^T e_k``, J_k the slopes of its logits
    in the layer's parameters and ``e_k = p_k - y_k``. Zhang, Chow & Li take the mean of the bridge
    for every sample's: with ``J`` the mean of J_k over auxiliary data, the mean error e of the
    batch is the least-squares solution of ``J^T e = g`` with sum e = 0, and ``N (p - e)`` the
    counts, p the mean posterior of auxiliary data. For the bias of a fully connected layer J is
    ``W_L D``, W_L the head's weight and D the mean slope of the activation, which is their own
    bridge. The equations are ours, after the paper's abstract; its tables were not at hand.

    The layer is the nearest below the head that was shared. The head itself is never read.

    Assumes what its authors do: a model that is not yet trained, since p is that of all data, and
    activations whose slopes vary little; one step.

    Edge cases: a layer with fewer outputs than classes leaves directions of e at zero. Cost: K
    backward passes over auxiliary data for each layer that is met; ``K P`` a trial for P
    parameters of the layer.
    """

    name = "gdbr"
    needs = OWN_DATA | {Need.FULL_GRADIENT}
    cite = "Zhang, Chow & Li, arXiv 2412.12640"
    card = Card(
        "GDBR",
        MEASURED,
        standard=True,
        quick_up_to=MANY_CLASSES,
        plain="Works back from a lower layer's gradient to the errors of the model's answers.",
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Pass the auxiliary data once; each layer's bridge waits for the first update with it."""
        reader = LayerReader.of(known, num_classes, rng)
        posterior = reader.table.seen.probabilities.double().mean(dim=0).numpy()
        bridges: dict[tuple[str, ...], Tensor] = {}

        def answer(observation: Observation) -> Estimate:
            total, shown = samples(observation), reader.shown(observation)
            names = _nearest(shown, reader)
            refuse_nothing(names, self.name)
            if names not in bridges:
                bridges[names] = _bridge(reader, names)
            errors = wide_product(
                [shown[name].flatten(1) for name in names], bridges[names]
            ).numpy()
            counts = (total * (posterior - errors)).reshape(*observation.trials, num_classes)
            return Estimate(round_counts(counts, total), counts)

        return answer


def _nearest(shown: Mapping[str, Tensor], reader: LayerReader) -> tuple[str, ...]:
    """Name the parameters of the layer nearest the head that were shared."""
    below = [name for name in shown if name not in reader.head]
    layer = below[-1].rpartition(".")[0] if below else ""
    return tuple(name for name in below if name.rpartition(".")[0] == layer)


def _bridge(reader: LayerReader, names: tuple[str, ...]) -> Tensor:
    """Return the map from a layer's gradient to the mean error, ``P x K``."""
    from labelleak.core.small_maps import SmallMaps  # a class of torch's, so torch is loaded

    named = dict(reader.model.module.named_parameters())
    wanted = [named[name] for name in names]
    slopes = torch.zeros(reader.num_classes, sum(value.numel() for value in wanted)).double()
    chunks = torch.tensor_split(reader.data.inputs, -(-len(reader.data) // 512))
    small = SmallMaps.serves(reader.model.module)
    for number, chunk in enumerate(chunks):
        with SmallMaps() if small else nullcontext():
            seen = reader.model.run(chunk, seed=number, grad=True)
        sums = seen.logits.sum(dim=0)
        for row, one in enumerate(sums):
            found = torch.autograd.grad(
                one, wanted, retain_graph=row + 1 < len(sums), materialize_grads=True
            )
            slopes[row] += torch.cat([part.flatten() for part in found]).double()
    slopes /= len(reader.data)
    # The errors sum to zero, so the mean row of the slopes says nothing of them.
    centred = slopes - slopes.mean(dim=0)
    return torch.as_tensor(torch.linalg.pinv(centred, rtol=_RANK))


__all__ = ["GDBR"]
