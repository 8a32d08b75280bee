"""Choose the head among an update's matrices: by their changes, their sizes and their names."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from labelleak.core.head_changes import Change, change_of
from labelleak.core.head_finding import AmbiguousHead, HeadFinding, listed, module_shown, word_of
from labelleak.core.head_shapes import (
    Chain,
    Layer,
    Place,
    convolutions_of,
    key_of,
    layers_of,
    norm_widths,
)
from labelleak.core.reparametrised import LORA, Folded, is_adapter
from labelleak.core.task import Task
from labelleak.core.token_heads import find_low_rank_head, find_token_head
from labelleak.errors import BadInput, shown

# A layer that feeds the likeliest head is taken for hidden if it has more than this many times its
# rows, even where the widths alone would let it be a head whose classes are as many as the inputs.
MUCH_WIDER = 5


@dataclass(frozen=True)
class Candidate:
    """A layer that may be the head, with its evidence.

    Attributes:
        layer: its shape.
        change: how it moved.
        place: where it stands in the chain of sizes.
        word: what its name says: 1 a head, -1 something else.
        takers: how many other matrices take in as many numbers as it puts out.
        normed: whether a vector of that length scales them, as a norm layer's does.
    """

    layer: Layer
    change: Change
    place: Place
    word: int
    takers: int
    normed: bool

    @property
    def name(self) -> str:
        """The module's name."""
        return self.layer.name

    @property
    def free(self) -> bool:
        """Whether its rows feed no other layer."""
        return self.place is Place.LEAF

    @property
    def rank(self) -> tuple[float, ...]:
        """Sorts the likeliest first."""
        change, bias = self.change, self.layer.bias
        return (-change.moved, self.place, -self.word, -change.balanced, change.sparse, -bias)

    @property
    def evidence(self) -> tuple[str, ...]:
        """What speaks for it."""
        said = {
            "its rows feed no other layer": self.free,
            "its change sums to zero over its rows, as a softmax head's does": self.change.balanced,
            "a bias of its length goes with it": self.layer.bias,
            "its name is one people give a head": self.word > 0,
        }
        return tuple(sentence for sentence, holds in said.items() if holds)


def find_among(
    update: Folded, num_classes: int | None = None, task: Task | None = None
) -> HeadFinding:
    """Find the head among tensors alone; linear in their number.

    Args:
        update: the tensors.
        num_classes: rows that the head must have.
        task: of a dense one it may be a convolution, as it may where there is no linear layer;
            of tokens it is looked for by `find_token_head`.

    Raises:
        AmbiguousHead: if several could be it.
        BadInput: if none could, the likeliest did not move, or it is tied to another layer.
    """
    if task is Task.tokens:
        low_rank = find_low_rank_head(update, num_classes)
        if low_rank is not None:
            return low_rank
        _check_adapters(
            update, [one for one in layers_of(update.tensors) if not is_adapter(one.name)]
        )
        return find_token_head(update, num_classes)
    candidates = _candidates(update, num_classes, task is Task.dense)
    moved = [one for one in candidates if one.change.moved]
    still = [one for one in candidates if not one.change.moved]
    if not moved:  # nothing was learnt: shape alone
        moved, still = still, []
    # Before a norm layer, a hidden layer's change sums to zero over its rows, too.
    balanced = [c for c in moved if c.change.balanced and (c.free or not c.normed)]
    alike = {c.name for c in balanced}
    open_ones = [c for c in moved if c.place is not Place.HIDDEN or c.name in alike]
    found, how = (_by_change if balanced else _by_shape)(balanced, open_ones)
    _check_still(found, still, candidates)
    if found is None or _contradicted(found, candidates):
        raise _ambiguous(open_ones or moved)
    _check_tied(update, found, candidates)
    others = sorted((c for c in open_ones if c is not found), key=lambda c: c.rank)
    return HeadFinding(found.name, how, found.evidence, tuple(c.name for c in others[:8]))


def _candidates(update: Folded, num_classes: int | None, dense: bool) -> list[Candidate]:
    _check_shapes(update)
    layers = [one for one in layers_of(update.tensors) if not is_adapter(one.name)]
    if dense or not (layers or update.unknown):
        layers += convolutions_of(update.tensors)
    _check_adapters(update, layers)
    _check_layers(update, layers)
    turned = {one.name for one in layers if one.turned}
    layers = [
        replace(one, rows=one.columns, columns=one.rows) if one.turned else one for one in layers
    ]
    chain = Chain.of(update.tensors, layers)
    norms = norm_widths(update.tensors)
    found = [
        Candidate(
            layer,
            change_of(layer, update.tensors, update.before),
            chain.place(layer),
            word_of(layer.name),
            chain.takers(layer),
            layer.rows in norms,
        )
        for layer in layers
        if layer.name not in turned and num_classes in (None, layer.rows)
    ]
    if not found:
        raise BadInput(
            f"no linear layer has {num_classes} rows; linear layers: "
            f"{listed(layer.name for layer in layers)}"
        )
    return found


def _check_shapes(update: Folded) -> None:
    """Refuse weights that came back in another shape: the chain of sizes would be another one."""
    for name, tensor in update.tensors.items():
        start = None if update.before is None else update.before.get(name)
        if start is not None and start.shape != tensor.shape and name.endswith("weight"):
            raise BadInput(
                f"{shown(name)[1:-1]} has shape {tuple(start.shape)} before and "
                f"{tuple(tensor.shape)} after the update"
            )


def _check_adapters(update: Folded, layers: list[Layer]) -> None:
    """Refuse where a head is adapted by LoRA, or only other layers are, so that none is shared."""
    adapted = [name for name, form in update.unknown.items() if form == LORA]
    heads = [name for name in adapted if word_of(name) > 0]
    if heads:
        raise AmbiguousHead(
            f"the head {module_shown(heads[0])} is {LORA}: what is shared are the changes of two "
            "matrices of low rank, not of its weight; lora_B is a head whose inputs are those of "
            f"lora_A, so name it to have it attacked ({shown(heads[0])[1:-1]}.lora_B)",
            heads,
        )
    if adapted and not layers:
        raise BadInput(
            f"no head is shared: the update holds LoRA's adapters alone (of {listed(adapted, 3)}); "
            "PEFT shares a head that is in modules_to_save"
        )


def _check_layers(update: Folded, layers: list[Layer]) -> None:
    unknown = {name: form for name, form in update.unknown.items() if form != LORA}
    if unknown:
        name, form = next(iter(unknown.items()))
        if all(layer.name != name for layer in layers):
            raise AmbiguousHead(
                f"the layer {module_shown(name)} is {form}: its weight is computed from several "
                "tensors that do not tell its gradient, and it may be the head; fold them into one "
                "weight first, or name another head",
                tuple(unknown),
            )
    if not layers:
        raise BadInput(
            "no tensor looks like a linear layer's weight (K x D, named ...weight), so there is "
            f"no head; the update holds {listed(update.tensors)}"
        )
    turned = [layer.name for layer in layers if layer.turned]
    if len(turned) > sum(layer.bias for layer in layers) and not _is_mixed(update, layers):
        raise AmbiguousHead(
            f"the weights look like kernels of Keras or JAX, inputs x outputs ({listed(turned)}: "
            "the bias fits the columns); say so with `layout` keras, or transpose them; a GPT-2 "
            "has such layers, too: say `task` tokens for it, or name the head",
            turned,
        )


def _is_mixed(update: Folded, layers: list[Layer]) -> bool:
    """Return whether hidden layers alone are inputs x outputs, as GPT-2's Conv1D has them.

    A head of Keras's layout changes in balance over its columns, not its rows.
    """
    open_ones = (layer for layer in layers if not layer.turned and not layer.bias)
    return any(change_of(one, update.tensors, update.before).balanced for one in open_ones)


Choice = tuple[Candidate | None, str]


def _by_change(balanced: list[Candidate], open_ones: list[Candidate]) -> Choice:
    """Take the only layer that changed as a softmax head does, unless another may be one, too.

    A head with another loss (one logit, several labels) does not sum to zero, and an auxiliary
    head may, so other layers that learnt and may be heads must be named as something else.
    """
    good = [c for c in balanced if c.word >= 0] if len(balanced) > 1 else balanced
    how = "gradient" if len(balanced) == 1 else "names"
    if len(good) != 1:
        good = _only_named(balanced)
        if not good:
            return None, how
    found = good[0]
    alike = {c.name for c in balanced}
    rivals = [c for c in open_ones if c.name not in alike and _is_rival(c, found)]
    named = found.word > 0 and all(c.word <= 0 and c.layer.rows > 1 for c in rivals)
    return (found if named or all(c.word < 0 for c in rivals) else None), how


def _only_named(candidates: list[Candidate]) -> list[Candidate]:
    """Return the one that is called a head, if all others are called something else."""
    good = [c for c in candidates if c.word > 0]
    named = sum(c.word < 0 for c in candidates)
    return good if len(good) == 1 and named == len(candidates) - 1 else []


def _is_rival(other: Candidate, found: Candidate) -> bool:
    """Return whether a layer that changed otherwise may be the head all the same.

    Adam and sign-SGD leave two rows that sum to zero, but no more than two.
    """
    if other.change.sparse:
        return False
    sure = found.free and found.layer.rows > 2
    return other.free or not (sure or _is_wider(other, found))


def _by_shape(_: list[Candidate], open_ones: list[Candidate]) -> Choice:
    """Take the only layer whose rows feed no other, if all others surely feed one; else by name."""
    free = [c for c in open_ones if c.free]
    good = _only_named(free) if len(free) > 1 else [c for c in free if c.word >= 0]
    if len(good) != 1:
        return None, "names"
    found = good[0]
    others = [c for c in open_ones if not c.free]
    sure = all(c.word < 0 or _is_wider(c, found) for c in others)
    named = found.word > 0 and all(c.word <= 0 for c in others)
    return (found if sure or named else None), "shape" if sure and len(free) == 1 else "names"


def _is_wider(other: Candidate, head: Candidate) -> bool:
    """Return whether a layer is hidden by its size: it widens, or feeds the head, much wider."""
    layer, last = other.layer, head.layer
    feeds = layer.rows == last.columns and other.takers <= 2
    return layer.rows > layer.columns or (feeds and layer.rows > MUCH_WIDER * last.rows)


def _contradicted(found: Candidate, candidates: list[Candidate]) -> bool:
    """Return whether another layer learnt as a softmax head and is called a head; this is not."""
    return found.word <= 0 and any(
        c.word > 0 and c.change.balanced and c is not found for c in candidates
    )


def _check_still(
    found: Candidate | None, still: list[Candidate], candidates: list[Candidate]
) -> None:
    """Say so where the likeliest head is one that did not move."""
    free = [c for c in still if c.free]
    if not free or (found is not None and (found.free or found.change.balanced)):
        better = [c for c in free if found is not None and c.word > 0 >= found.word]
        if not better or (found is not None and found.change.balanced and found.word >= 0):
            return
        free = better
    if found is None and any(c.free for c in candidates if c.change.moved):
        return  # several that moved: ambiguous, and said so
    likeliest = min(free, key=lambda c: c.rank)
    raise BadInput(
        f"the likeliest head {module_shown(likeliest.name)} did not move, though other layers did: "
        "it is frozen, so this update says nothing of its labels there; name the head if it is "
        "another layer"
    )


def _check_tied(update: Folded, found: Candidate, candidates: list[Candidate]) -> None:
    mine = update.tensors[key_of(found.name)]
    for other in candidates:
        if other is found or (other.layer.rows, other.layer.columns) != tuple(mine.shape[:2]):
            continue
        if torch.equal(mine, update.tensors[key_of(other.name)]) and found.change.moved:
            raise BadInput(
                f"the head {module_shown(found.name)} shares its weight with "
                f"{module_shown(other.name)} (tied), so its change mixes several layers; name it "
                "to read it all the same, or say `task` tokens if it is a language model's"
            )


def _ambiguous(candidates: list[Candidate]) -> AmbiguousHead:
    ranked = sorted(candidates, key=lambda c: c.rank)
    words = [f"{module_shown(c.name)} ({c.layer.rows}, {c.layer.columns})" for c in ranked[:8]]
    more = f" and {len(ranked) - 8} more" if len(ranked) > 8 else ""
    names, rows = [c.name for c in ranked], [c.layer.rows for c in ranked]
    if len(ranked) == 1:
        against = "its name says otherwise" if ranked[0].word < 0 else "its rows may feed another"
        return AmbiguousHead(
            f"the only layer that may be the head is {words[0]}, and {against}; name the head with "
            "`head`, or give `model`",
            names,
            rows,
        )
    return AmbiguousHead(
        f"several layers could be the head: {', '.join(words)}{more}, likeliest first; name it "
        "with `head`, or give `model`",
        names,
        rows,
    )


__all__ = ["Candidate", "find_among"]
