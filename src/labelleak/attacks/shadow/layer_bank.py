"""Samples as they show at every layer, from which shadow batches of the whole update are drawn."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from labelleak.attacks.layers.reading import LayerReader
from labelleak.attacks.shadow.batches import Bank, Head
from labelleak.core.counts import Ints
from labelleak.core.head_table import HeadTable
from labelleak.core.lazy import F, Tensor, torch
from labelleak.core.observation import Observation
from labelleak.core.white_box import HeadPass

_SLICE_ENTRIES = 2**23
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class SampleRows:
    """What is read of single samples below the head.

    Attributes:
        errors: errors at the logits as layers' bridges show them, ``n x K`` by layer name.
        scores: ``n x S``.
    """

    errors: Mapping[str, Tensor]
    scores: Tensor


@dataclass(frozen=True, eq=False)
class LayerBank:
    """A `Bank` whose rows hold every layer, so that copies of samples move in all alike.

    Attributes:
        bank: draws samples, and holds their errors.
        tables: of the head (under no name) and the layers that are read as heads.
        scores: of each row, ``n x S``.
    """

    bank: Bank
    tables: Mapping[str, HeadTable]
    scores: Tensor

    @classmethod
    def of(
        cls,
        reader: LayerReader,
        rows: SampleRows,
        views: Mapping[str, HeadPass],
        errors: Tensor,
        labels: Tensor,
        order: Tensor,
        rng: np.random.Generator,
    ) -> LayerBank:
        """Lay the layers beside the head's inputs and let the bank make its copies.

        What a bridge misses of an error, and a sample's scores, are moved in units of the
        error's length; the error of the copy is the head's own answer.

        Args:
            reader: the samples at every layer.
            rows: what is read of them below the head.
            views: how each head sees them.
            errors: p - y, ``n x K``.
            labels: their classes in the attack's order.
            order: the classes in that order.
            rng: source of the copies.
        """
        seen = reader.table.seen
        lengths = errors.norm(dim=1, keepdim=True) + _TINY
        blocks = {("inputs", n): v.inputs for n, v in views.items() if n}
        blocks |= {("missed", n): (e - errors) / lengths for n, e in rows.errors.items()}
        parts = [seen.inputs, *blocks.values(), rows.scores / lengths]
        head = Head.of(reader.model, order)
        beside = sum(part.shape[1] for part in parts[1:])
        padded = Head(F.pad(head.weight, (0, beside)), head.bias)
        logits = seen.logits[:, order]
        wide = torch.cat([part.to(seen.inputs) for part in parts], dim=1)
        bank = Bank.of(HeadPass(wide, logits, logits), labels, padded, rng)
        table = bank.table
        held = torch.split(table.inputs, [part.shape[1] for part in parts], dim=1)
        named = dict(zip(blocks, held[1:-1], strict=True))
        sizes = table.errors.norm(dim=1, keepdim=True)
        tables = {
            name: HeadTable(
                named["inputs", name], table.errors + sizes * named["missed", name], True
            )
            for name in rows.errors
        }
        if "" in views:
            tables[""] = HeadTable(held[0], table.errors, True)
        return cls(bank, tables, sizes * held[-1])

    @property
    def at_once(self) -> int:
        """Shadows that are made together."""
        classes = self.bank.table.errors.shape[1]
        widest = max((t.inputs.shape[1] for t in self.tables.values()), default=1)
        return max(1, _SLICE_ENTRIES // (classes * widest))

    def observe(
        self, counts: Ints, biased: Collection[str], rng: np.random.Generator
    ) -> tuple[dict[str, Observation], Tensor]:
        """Return shadow batches with given label counts: gradients of all heads, and scores.

        Args:
            counts: ``shadows x K`` in the attack's order of classes.
            biased: heads whose bias is shown.
            rng: source of the samples.
        """
        picks = self.bank.draw(counts, rng)
        heads = {}
        for name, table in self.tables.items():
            seen = table.gradients(picks)
            heads[name] = Observation(seen.weight, seen.bias if name in biased else None)
        scores = F.embedding_bag(torch.from_numpy(picks), self.scores, mode="sum")
        return heads, scores.double()


__all__ = ["LayerBank", "SampleRows"]
