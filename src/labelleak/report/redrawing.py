"""Put the curves of one drawing of a figure in the place of those of another."""

from __future__ import annotations

import re

# matplotlib indents what it writes, so a group ends where its closing tag stands as far left.
_GROUP = re.compile(
    r'^( *)<g id="((?:line2d|\w*PolyCollection)_\d+)">\n(.*?)^\1</g>\n', re.MULTILINE | re.DOTALL
)


def exchange(whole: str, old: str, new: str) -> str | None:
    """Return a figure with other curves; None where it is not sure that nothing else changes.

    Args:
        whole: the figure.
        old: its curves alone, as matplotlib writes them.
        new: those that take their place, which differ in their values only.

    >>> curve = '<svg>\\n<g id="line2d_1">\\n%s\\n</g>\\n</svg>'
    >>> exchange('<svg>\\n<g id="line2d_9">\\n1 2\\n</g>axes</svg>', curve % "1 2", curve % "3 4")
    '<svg>\\n<g id="line2d_9">\\n3 4\\n</g>axes</svg>'
    """
    before, after = (list(_GROUP.finditer(text)) for text in (old, new))
    if _GROUP.sub(r"\1\2", old) != _GROUP.sub(r"\1\2", new) or not before:
        return None
    found, place = [], 0
    for one, other in zip(before, after, strict=True):
        start = whole.find(one[3], place)
        if start < 0 or whole.count(one[3]) != 1:
            return None
        found += [whole[place:start], other[3]]
        place = start + len(one[3])
    return "".join([*found, whole[place:]])


__all__ = ["exchange"]
