"""Find a language model's head among an update's tensors: by name, by its change, or tied."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from labelleak.core.head_changes import Change, change_of
from labelleak.core.head_finding import AmbiguousHead, HeadFinding, listed, module_shown, word_of
from labelleak.core.head_shapes import Layer, key_of, layers_of
from labelleak.core.head_tracing import Trace
from labelleak.core.reparametrised import LORA, Folded, is_adapter
from labelleak.errors import BadInput

TIED = (
    "its weight is that of the input embedding (tied), so rows of input tokens hold the "
    "embedding's gradient, too, which the update alone does not tell apart"
)
LOW_RANK = (
    "it is adapted by LoRA, and lora_B is read in its place: a step moves it by the head's "
    "gradient times lora_A, as a head whose inputs are those of lora_A; their scale is not known"
)
FROZEN = "it is frozen, so no update holds its gradient"
# A vocabulary is padded by less than this share in one of embedding and head.
_PADDED = 0.9
_POSITIONS = re.compile(r"(wpe|position\w*|pos_\w*)$")
# GPT-NeoX's head is called an embedding, of what comes out.
_OUT = re.compile(r"(embed_out|unembed\w*|output_embeddings?)$")
_MOVED = "its change sums to zero over the tokens, as a softmax head's does"


@dataclass(frozen=True)
class _Table:
    """A matrix that may have a row for each token."""

    layer: Layer
    change: Change

    @property
    def name(self) -> str:
        return self.layer.name

    @property
    def is_named(self) -> bool:
        return word_of(self.name) > 0 or _OUT.search(self.name) is not None


def find_token_head(update: Folded, num_tokens: int | None = None) -> HeadFinding:
    """Find the head of a language model: ``lm_head``, ``embed_out``, ``score`` or a tied embedding.

    Of the matrices with the most rows, the one that is called a head is taken; else the one whose
    change sums to zero over the rows; else the embedding, if no head is shared beside it, which is
    then tied to it. An embedding that moved at some rows alone is never taken for a head.

    Args:
        update: the tensors.
        num_tokens: rows that the head must have.

    Raises:
        AmbiguousHead: if several could be it.
        BadInput: if none could, or the head did not move though other layers did.

    >>> gradient = {"lm_head.weight": torch.tensor([[1.0], [-1.0]]), "wte.weight": torch.eye(2)}
    >>> find_token_head(Folded(gradient, None, {})).name
    'lm_head'
    """
    layers = [one for one in layers_of(update.tensors) if not is_adapter(one.name)]
    tables = [
        _Table(layer, change_of(layer, update.tensors, update.before))
        for layer in layers
        if not layer.turned and num_tokens in (None, layer.rows)
    ]
    if not tables:
        rows = "" if num_tokens is None else f" with {num_tokens} rows"
        raise BadInput(
            f"no matrix{rows} may be the head; the update holds {listed(update.tensors)}"
        )
    any_moved = any(table.change.moved for table in tables)
    tallest = [t for t in _tallest(tables) if t.is_named or not t.change.sparse]
    heads = [table for table in tallest if table.is_named]
    heads = [table for table in heads if table.change.moved or not any_moved] or heads
    heads = heads or [table for table in tallest if table.change.balanced]
    if len(heads) > 1:
        heads = [table for table in heads if table.change.balanced] or heads
    if len(heads) == 1:
        return _as_found(heads[0], update, any_moved)
    if heads:
        raise _several(heads)
    return _embedding(tallest, tables, update.tensors)


def find_low_rank_head(update: Folded, num_tokens: int | None = None) -> HeadFinding | None:
    """Find the second matrix of a head that is adapted by LoRA; None where there is no such head.

    Its gradient is ``G A^T`` with the head's own gradient G, exactly, while ``B A`` moves by what
    two matrices of low rank hold of it.

    >>> adapters = {f"lm_head.lora_{part}.weight": torch.ones(4, 4) for part in "AB"}
    >>> find_low_rank_head(Folded(adapters, None, {"lm_head": LORA})).name
    'lm_head.lora_B'
    """
    for module, form in update.unknown.items():
        if form != LORA or not (word_of(module) > 0 or _OUT.search(module)):
            continue
        for name in (f"{module}.lora_B", f"{module}.lora_B.default"):
            matrix = update.tensors.get(key_of(name))
            if matrix is not None and num_tokens in (None, len(matrix)):
                return HeadFinding(name, "names", (LOW_RANK,))
    return None


def beside_adapters(seen: Trace) -> Trace:
    """Leave a layer that LoRA adapts in a trace alone: what it adds is no head of its own.

    >>> beside_adapters(Trace(("fc.base_layer", "fc.lora_B.default"))).heads
    ('fc.base_layer',)
    """
    bases = {path.removesuffix(".base_layer") for path in seen.heads if path.endswith("base_layer")}
    kept = [p for p in seen.heads if not is_adapter(p) or p.rpartition(".lora_B")[0] not in bases]
    return replace(seen, heads=tuple(kept))


def as_adapted(found: HeadFinding, layers: Mapping[str, nn.Module]) -> HeadFinding:
    """Return LoRA's second matrix in place of a model's head that it adapts, if it is trained.

    Args:
        found: the model's head.
        layers: all linear layers, by module name.
    """
    owner, _, own = found.name.rpartition(".")
    for name in (f"{owner}.lora_B", f"{owner}.lora_B.default") if own == "base_layer" else ():
        layer = layers.get(name)
        if layer is not None and all(p.requires_grad for p in layer.parameters()):
            return replace(found, name=name, evidence=(*found.evidence, LOW_RANK))
    return found


def _as_found(head: _Table, update: Folded, any_moved: bool) -> HeadFinding:
    if any_moved and not head.change.moved:
        raise BadInput(
            f"the head {module_shown(head.name)} did not move, though other layers did: it is "
            "frozen, so this update says nothing of its tokens there. Layers that moved may: an "
            "embedding shows which words were read. `labelleak audit --task tokens --defenses "
            "withhold:head` measures what such clients give away"
        )
    said = (_MOVED,) if head.change.balanced else ()
    tied = tied_to(head.name, update.tensors)
    how = "names" if head.is_named else "gradient"
    return HeadFinding(head.name, how, (*said, TIED) if tied else said, tied)


def _embedding(
    tallest: list[_Table], tables: list[_Table], tensors: Mapping[str, Tensor]
) -> HeadFinding:
    """Take the embedding of tokens, to which a head that is not there itself is tied.

    An untied one moves at the rows of input tokens alone.
    """
    tied = [table for table in tallest if word_of(table.name) < 0 and table.change.moved]
    alike = tied_to(tied[0].name, tensors) if tied else ()
    if len(tied) != 1 + len(alike):
        raise AmbiguousHead(
            "no layer is called a head, none changed as a softmax head does, and no embedding "
            "moved in all its rows as a tied one does, so the update may hold no head; name it "
            f"with `head` if it is one of {listed(table.name for table in tables)}",
            [table.name for table in tables],
        )
    return HeadFinding(tied[0].name, "tied", (TIED,), alike)


def _tallest(tables: list[_Table]) -> list[_Table]:
    """Return those with a row for each token: about as many as any, positions aside."""
    tall = [t for t in tables if t.layer.rows > t.layer.columns and not _POSITIONS.search(t.name)]
    most = max((table.layer.rows for table in tall), default=0)
    return [table for table in tall if table.layer.rows > _PADDED * most]


def _several(heads: list[_Table]) -> AmbiguousHead:
    names = [table.name for table in heads]
    return AmbiguousHead(
        f"several layers could be the head: {listed(names)}; name it with `head`",
        names,
        [table.layer.rows for table in heads],
    )


def tied_to(head: str, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the modules whose weight is the head's own, number for number.

    >>> tied_to("a", {"a.weight": torch.eye(2), "wte.weight": torch.eye(2)})
    ('wte',)
    """
    mine = tensors.get(key_of(head))
    if mine is None:
        return ()
    alike = (one for one in layers_of(tensors) if (one.rows, one.columns) == tuple(mine.shape))
    return tuple(
        one.name
        for one in alike
        if one.name != head and torch.equal(mine, tensors[key_of(one.name)])
    )


__all__ = [
    "FROZEN",
    "LOW_RANK",
    "TIED",
    "as_adapted",
    "beside_adapters",
    "find_low_rank_head",
    "find_token_head",
    "tied_to",
]
