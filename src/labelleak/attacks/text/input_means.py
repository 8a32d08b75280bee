"""What own text says of head inputs before one token: their mean, and how alike they are."""

from __future__ import annotations

import numpy as np

from labelleak.attacks.text.own_sums import OwnSums
from labelleak.core.counts import Floats
from labelleak.core.lazy import Tensor, torch

# Tokens seen so often tell how far tokens' means lie apart, and inputs before one.
_OFTEN = 5
# Neighbours, among the inputs before one token, whose products are looked at.
_APART = (1, 2, 3, 5, 8)
# Pairs that tell, at least.
_FEWEST = 100
# Rows are taken for no less than this share of what independent numbers tell.
_LEAST = 0.2


def token_means(own: OwnSums, turn: Tensor, label: float) -> tuple[Tensor, Floats]:
    """Return the mean head input before each token, and its doubt in units of one label's."""
    middle = own.middle @ turn
    sums = own.inputs.to(turn) @ turn
    often = own.seen >= _OFTEN
    apart = 1e-3
    if often.sum() > 1:
        sizes = torch.from_numpy(own.seen[often])
        between = (sums[torch.from_numpy(often)] / sizes[:, None] - middle).square().mean()
        apart = max(float(between / label - (1 / sizes).mean()), 1e-3)
    drawn = torch.from_numpy(own.seen) + 1 / apart
    means = (sums + middle / apart) / drawn[:, None]
    return means, np.asarray((1 / drawn).numpy())


def share_of_numbers(own: OwnSums, turn: Tensor, label: float) -> float:
    """Return the share of the D numbers of an input that seem to vary by themselves.

    Inputs x around their token's mean have ``E |x|^2 = D s``. If all numbers varied by themselves
    ``x . x'`` of two inputs would have the variance ``D s^2``; it has more where the same words
    stand before a token again and again, since these leave nearly the same input. D times the
    share returned is the number of independent ones that would do the same. Pairs are of different
    texts.

    Args:
        own: sums over own text, with the inputs that were kept.
        turn: to the coordinates in which inputs are compared, ``D x D``.
        label: s.

    >>> few = (torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 2) / 2)
    >>> own = OwnSums.of([(*few, torch.arange(2), torch.arange(2))], 2)
    >>> share_of_numbers(own, torch.eye(3, dtype=torch.float64), 1.0)
    1.0
    """
    inputs, labels, texts = (torch.cat(parts) for parts in zip(*own.kept, strict=True))
    times = torch.from_numpy(own.seen)[labels]
    kept = torch.nonzero(times >= _OFTEN)[:, 0]
    kept = kept[torch.argsort(labels[kept], stable=True)]
    labels, texts, often = labels[kept], texts[kept], times[kept, None]
    means = own.inputs[labels].double() / often
    # The mean holds the input itself, which draws them together.
    apart = (inputs[kept].double() - means) @ turn.double() * (often / (often - 1)).sqrt()
    products = []
    for step in _APART:
        both = (labels[step:] == labels[:-step]) & (texts[step:] != texts[:-step])
        products.append((apart[step:] * apart[:-step]).sum(1)[both])
    found = torch.cat(products)
    if len(found) < _FEWEST:
        return 1.0
    varies = float(found.square().mean()) / (apart.shape[1] * label**2)
    return min(1.0, max(_LEAST, 1 / max(varies, 1.0)))


__all__ = ["share_of_numbers", "token_means"]
