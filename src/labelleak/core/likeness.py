"""Tell weights from a gradient or a difference, by their entries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from labelleak.core.lazy import Tensor, torch
from labelleak.core.weights import buffer_names
from labelleak.errors import BadInput, shown

Arrays = Mapping[str, Tensor]
# Entries of a tensor that are looked at, which bounds what the look costs.
LOOK = 2**18
# Sums over a matrix' rows against its size: of a softmax gradient, and of no trained weight.
CLOSED = 1e-3
_SIGMAS = 4.0
# Handfuls of the weights sent that are kept for further replies to them: 8 MB.
_MOST_KEPT = 4
# Cosine with the model's weights above which tensors are weights. A matrix alone comes near its own
# gradient where it began at zero, and so does a model of a few weights; larger ones do not.
_ALIKE, _ALIKE_SMALL, _SMALL = 0.9, 0.9999, 1000
# Weights that point as those sent do and are so many times as long are sums over clients.
_SAME_WAY, _SUMMED = 0.99, 1.5
# Means of a norm layer's scales that its weights have, and the fewest entries that tell.
_NEAR_ONE, _FEWEST = (0.5, 2.0), 8


class Laid:
    """What several replies are held against: of the weights sent, the entries that are looked at.

    They are laid out once for all replies to the same weights, and for those alone.

    Args:
        sent: the weights.
    """

    def __init__(self, sent: Arrays) -> None:
        self.sent = sent
        self._kept: dict[tuple[str, ...], tuple[Tensor, float]] = {}

    def of(self, names: list[str]) -> tuple[Tensor, float]:
        """Return the entries of some tensors behind each other, and the sum of their squares."""
        key = tuple(names)
        found = self._kept.get(key)
        if found is None:
            entries = _laid_out(self.sent, names)
            found = entries, float(entries @ entries)
            if len(self._kept) < _MOST_KEPT:
                self._kept[key] = found
        return found


def doubt_weights(before: Arrays, reply: Arrays, laid: Laid | None = None) -> str:
    """Say why a reply does not look like the weights that were sent, moved; empty if it does.

    Weights that were trained or defended are what was sent plus something, so their projection
    on what was sent is near 1. Differences and gradients are far shorter, or point anywhere:
    their projection is near 0. And a matrix whose sums over classes vanish is a gradient of a
    softmax head or a multiple of it, unless those sums vanished in what was sent, too. Weights
    times a number are no client's own either: those of several clients, added up.

    Args:
        before: the weights that were sent.
        reply: what came back.
        laid: of the weights sent, what was looked at for other replies to them.

    >>> import torch
    >>> sent = {"fc.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
    >>> doubt_weights(sent, {"fc.weight": sent["fc.weight"] + 0.1})
    ''
    >>> doubt_weights(sent, {"fc.weight": torch.tensor([[0.1, 0.2], [-0.1, -0.2]])})
    "the sums of 'fc.weight' over its rows are zero, as a gradient's are"
    """
    names = list(_compared(before, reply))
    for name in names:
        if _closes(reply[name]) and not _closes(before[name], empty=True):
            return f"the sums of {shown(name)} over its rows are zero, as a gradient's are"
    product = square = moved = whole = 0.0
    entries = 0
    held = laid if laid is not None and laid.sent is before else Laid(before)
    for some in _handfuls(before, names):
        (sent, own), got = held.of(some), _laid_out(reply, some)
        product, square = product + float(sent @ got), square + own
        change = got - sent
        moved, entries = moved + float(change @ change), entries + len(sent)
        whole += float(got @ got)
    if square == 0:
        return ""
    # Noise that a defense added tilts the projection by chance; room is left for it. NaN is
    # nobody's form; what reads the update refuses it by name.
    chance = _SIGMAS * (moved / square / entries) ** 0.5
    if product / square < min(0.5, 1 - chance):
        return f"its projection on the weights sent is {product / square:.2g}, not about 1"
    if product > _SUMMED * square and product > _SAME_WAY * (square * whole) ** 0.5:
        return f"it is the weights sent {product / square:.3g} times"
    return ""


def weights_instead(given: Arrays, own: Arrays | None) -> str:
    """Say why what is given as a gradient or a difference is weights; empty if it may be neither.

    A gradient, and a difference, hardly point the way that the weights point. A client's weights
    do, as they are those of the model, moved. Without a model, the scales of norm layers tell:
    weights have all of them near 1, a gradient has signs of both kinds.

    Args:
        given: what is said to be a gradient or a difference, by name.
        own: the model's weights, where they are at hand.

    >>> import torch
    >>> own = {"a.weight": torch.eye(3), "b.weight": torch.ones(2, 3)}
    >>> weights_instead({name: 2 * tensor for name, tensor in own.items()}, own)
    "they point where the model's weights point (cosine 1.00)"
    >>> weights_instead({"a.weight": torch.ones(3, 3), "b.weight": -torch.ones(2, 3)}, own)
    ''
    """
    if own is not None:
        cosine, small = _cosine(own, given)
        if cosine > (_ALIKE_SMALL if small else _ALIKE):
            return f"they point where the model's weights point (cosine {cosine:.2f})"
    scales = [
        tensor.detach().double()
        for name, tensor in given.items()
        if name.rpartition(".")[2] == "weight" and tensor.dim() == 1 and len(tensor) >= _FEWEST
    ]
    low, high = _NEAR_ONE
    if scales and all(bool((one > 0).all()) and low < float(one.mean()) < high for one in scales):
        return "the scales of its norm layers are all near 1"
    return ""


def refuse_weights(said: str, given: Arrays, own: Arrays | None) -> None:
    """Refuse weights that were given in the place of a gradient or a difference.

    Args:
        said: what they were given as.
        given: by name.
        own: the model's weights, where they are at hand.

    Raises:
        BadInput: naming the form, and what tells.
    """
    why = weights_instead(given, own)
    if why:
        raise BadInput(
            f"`{said}` holds weights, not a {said}: {why}; give the weights that were sent as "
            "`before` and those that came back as `after`"
        )


def _compared(before: Arrays, reply: Arrays) -> Iterator[str]:
    buffers = buffer_names(before)
    for name, start in before.items():
        if name in buffers or name not in reply or not start.is_floating_point():
            continue
        if start.shape == reply[name].shape:
            yield name


def _handfuls(tensors: Arrays, names: list[str]) -> Iterator[list[str]]:
    """Give names whose entries are looked at together: many small tensors, or a large one."""
    some, held = list[str](), 0
    for name in names:
        entries = min(LOOK, tensors[name].numel())
        if some and held + entries > LOOK:
            yield some
            some, held = [], 0
        some.append(name)
        held += entries
    if some:
        yield some


def _laid_out(tensors: Arrays, names: list[str]) -> Tensor:
    """Put the entries that are looked at behind each other: a few sums then, and not a few each.

    A model may be spread over several devices.
    """
    flat = [tensors[name].detach().flatten() for name in names]
    parts = [(one if one.numel() <= LOOK else one[:LOOK]).cpu() for one in flat]
    first = parts[0]
    if first.element_size() == 1 or any(part.dtype != first.dtype for part in parts):
        parts = [part.double() for part in parts]
    return torch.cat(parts).double()


def _cosine(own: Arrays, given: Arrays) -> tuple[float, bool]:
    """Return the cosine of all matrices together, and whether they are one alone or small."""
    product = mine = theirs = 0.0
    names = [name for name in _compared(own, given) if own[name].dim() > 1]
    for name in names:
        a, b = (side[name].detach().flatten()[:LOOK].double().cpu() for side in (own, given))
        product, mine, theirs = product + float(a @ b), mine + float(a @ a), theirs + float(b @ b)
    small = len(names) < 2 or sum(own[name].numel() for name in names) < _SMALL
    return (product / (mine * theirs) ** 0.5 if mine * theirs > 0 else 0.0), small


def _closes(tensor: Tensor, *, empty: bool = False) -> bool:
    """Return whether a matrix' columns sum to zero; an all-zero one says what is asked."""
    if tensor.dim() != 2 or min(tensor.shape) < 2 or tensor.numel() > 64 * LOOK:
        return False
    wide = tensor.detach().double()
    size, rest = (float(torch.linalg.vector_norm(one)) for one in (wide, wide.sum(0)))
    return rest < CLOSED * size if size else empty


__all__ = ["Laid", "doubt_weights", "refuse_weights", "weights_instead"]
