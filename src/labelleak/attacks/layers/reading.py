"""What an attacker can read of an update at every layer, sketched as its own samples are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from labelleak.core.entries import stands_out, sum_rests
from labelleak.core.fingerprints import fingerprint_tensors
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.layer_table import LayerTable
from labelleak.core.lazy import Tensor, nn, torch
from labelleak.core.observation import Observation
from labelleak.core.white_box import WhiteBox
from labelleak.errors import NotApplicable

# A head whose gradient does not sum to zero over classes was changed, and is not read.
_ZERO_SUM = 0.01
# Errors below this are no more than a hundred times what posteriors are rounded by.
_SURE = 1e-4
# Samples up to which all inner products are kept: a square of so many numbers.
_FEW = 1000
# Inputs that tell whether a model answers as it did.
_LOOK = 4
# Numbers of a layer's inputs and signals that are kept for whoever may want them.
_LITTLE = 2**22


@dataclass(frozen=True, eq=False)
class LayerReader:
    """The attacker's samples at every layer, and updates in the same sketches.

    Attributes:
        model: the model that the update belongs to.
        data: the attacker's samples.
        table: their gradients.
        num_classes: K.
        held: inner products of sketches so far, by parameters.
    """

    model: WhiteBox
    data: LabelledData
    table: LayerTable
    num_classes: int
    held: dict[tuple[str, ...], Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        known: Knowledge,
        num_classes: int,
        rng: np.random.Generator,
        keep: frozenset[str] = frozenset(),
    ) -> LayerReader:
        """Pass the auxiliary data once, forward and backward, for all attacks that read layers."""
        assert known.model is not None
        assert known.auxiliary is not None
        seed = int(rng.integers(2**31))
        table = _share_table(known.made, known.model, known.auxiliary, keep, seed)
        return cls(known.model, known.auxiliary, table, num_classes)

    @cached_property
    def head(self) -> tuple[str, str]:
        """Names of the head's weight and bias."""
        prefix = f"{self.model.head}." if self.model.head else ""
        return f"{prefix}weight", f"{prefix}bias"

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """Shapes of the parameters that the table holds."""
        named = dict(self.model.module.named_parameters())
        return {name: named[name].shape for name in self.table.rows}

    def shown(self, observation: Observation, *, changed: bool = False) -> dict[str, Tensor]:
        """Return the gradients that tell something, ``T x ...`` by name.

        A parameter that did not move in any trial was frozen or withheld. The head is left out
        where its gradient does not sum to zero over the classes, since noise or pruning changed it.

        Args:
            observation: what was shared.
            changed: read the head as it is, by who knows what was done to it.

        Raises:
            NotApplicable: if nothing that the attacker can compute was shared.
        """
        held: dict[str, Tensor | None] = dict(observation.rest or {})
        if changed or self._is_head_clean(observation):
            own = self.model.form.raw(observation.weight, observation.bias)
            held |= dict(zip(self.head, own, strict=True))
        trials = prod(observation.trials)
        found = {}
        for name, shape in self.shapes.items():
            value = held.get(name)
            if value is not None:
                flat = value.detach().cpu().float().reshape(trials, *shape)
                if bool(flat[:1].any()) or bool(flat.any()):  # of many trials one mostly tells it
                    found[name] = flat
        return found

    def sketch(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sketch gradients by name as the table's rows are."""
        return self.table.sketch(gradients)

    def products(self, names: Sequence[str]) -> Tensor | None:
        """Return inner products of all samples' sketches, ``n x n`` float64, worked out once.

        What is measured of any part of the samples takes them from here. None where the samples
        are too many for all of them to be kept.
        """
        key = tuple(names)
        if len(self.data.labels) > _FEW:
            return None
        if key not in self.held:
            rows = joined(self.table.rows, key).numpy()
            self.held[key] = torch.from_numpy(rows @ rows.T)  # numpy works out one half alone
        return self.held[key]

    def weighted(self, weights: Tensor, names: Sequence[str], rows: Tensor) -> Tensor:
        """Return weighted sums of samples' sketches, ``* x R`` float64.

        Args:
            weights: ``* x n``.
            names: the parameters, side by side.
            rows: which samples.
        """
        table = self.table.rows
        held = table if len(rows) == len(self.data) else {n: table[n][rows] for n in names}
        return torch.cat([weights @ held[name].double() for name in names], dim=1)

    def _is_head_clean(self, observation: Observation) -> bool:
        """Tell whether the head's gradient sums to zero in every trial that is large enough to say.

        One sample of which the model is sure would else leave the head of all trials unread: its
        posteriors are rounded about as much as they are wrong.
        """
        rests = [rest for rest in sum_rests(observation) if rest is not None]
        if observation.bias is not None:
            size = np.abs(observation.bias_gradient).max(axis=-1)
        else:
            largest = float(self.table.seen.inputs.abs().max().clamp(min=1e-30))
            size = observation.sums.largest / largest
        clear = size > _SURE
        clear = clear if clear.any() else stands_out(observation)
        return not bool((clear & (np.max(rests, axis=0) > _ZERO_SUM)).any())


def _share_table(
    made: dict[str, Any], model: WhiteBox, data: LabelledData, keep: frozenset[str], seed: int
) -> LayerTable:
    """Take the table that another attack has built of the same, or build it for the next as well.

    A table with randomness in it is each attack's own. What layers were given and sent back is kept
    where that is little, as attacks want it of different ones.
    """
    if type(model) is not WhiteBox:
        return LayerTable.build(model, data, keep=keep, seed=seed)
    module = model.module
    named = [*module.named_parameters(), *module.named_buffers(), ("inputs", data.inputs)]
    # Hooks and plain attributes say nothing of themselves, but in what the model answers.
    named.append(("answered", model.run(data.inputs[:_LOOK]).outputs))
    modes = [part.training for part in module.modules()]
    purpose = repr((model.head, id(module), module, modes, sorted(model.trained)))
    key = fingerprint_tensors([(purpose, data.labels), *named])
    found: tuple[Any, frozenset[str], LayerTable | None]
    found = made.get(key, (module, frozenset(), None))
    _, held, table = found
    if table is None or not keep <= held:
        little = {
            name
            for name, part in module.named_modules()
            if isinstance(part, nn.Linear)
            and len(data) * (part.in_features + part.out_features) <= _LITTLE
        }
        held = held | keep | little
        table = LayerTable.build(model, data, keep=held, seed=seed)
        if table.is_exact:
            made[key] = module, held, table  # while the module is held its id is no other's
    layers = {name: own for name, own in table.layers.items() if name in keep}
    return replace(table, layers=layers)


def refuse_nothing(names: Sequence[str], attack: str) -> None:
    """Check that anything is there to read.

    Raises:
        NotApplicable: if not.
    """
    if not names:
        raise NotApplicable(f"{attack} found no layer's gradient in this update that it can read")


def joined(parts: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Put sketches side by side, ``T x R`` in float64."""
    return torch.cat([parts[name] for name in names], dim=1).double()


__all__ = ["LayerReader", "joined", "refuse_nothing"]
