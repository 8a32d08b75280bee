"""Updates of which one layer is shared alone, so that each layer's own leak is measured."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from labelleak.defenses import Chain, Withholding
from labelleak.errors import BadInput


def with_layers_alone(
    defenses: Sequence[Chain], names: Collection[str], head: str
) -> tuple[Chain, ...]:
    """Put behind each defense the same with the head withheld, and with all but one layer withheld.

    Args:
        defenses: what clients do.
        names: of the model's trained parameters.
        head: module name of the head.

    Raises:
        BadInput: for a defense that withholds layers itself.

    >>> names = ["0.weight", "0.bias", "2.weight"]
    >>> [one.label for one in with_layers_alone([Chain()], names, "2")]
    ['none', 'withhold:head', 'withhold:0:others', 'withhold:head:others']
    """
    return tuple(one for defense in defenses for one in _probes(defense, names, head))


def _probes(defense: Chain, names: Collection[str], head: str) -> Iterator[Chain]:
    if any(isinstance(part, Withholding) for part in defense.links):
        raise BadInput(f"`layers` withholds layers itself; leave {defense.label} out of `defenses`")
    layers = dict.fromkeys(name.rpartition(".")[0] for name in names)
    below = [name for name in layers if name != head]
    yield defense
    alone = [Withholding(name, others=True) for name in (*below, "head")]
    for last in [Withholding("head"), *alone] if below else alone:
        yield Chain((*defense.links, last))


__all__ = ["with_layers_alone"]
