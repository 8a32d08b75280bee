"""What the search for a head answers: the head with its evidence, or the candidates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from labelleak.errors import BadInput, shown

_HEAD = re.compile(
    "class(es|ifiers?|ification)?|cls|fc|heads?|logits?|labels?|scores?|out|outputs?|"
    "pred(ict|ictions?)?|final|last|softmax"
)
# A head of something else, or no head at all; the first win over the words above in one part of a
# name, the second do not.
_OTHER = re.compile(
    "emb|embed(ding|dings|der)?|wte|wpe|domain|proj(ect|ection|ector)?|lora|recon|reconstruction|"
    "aux|auxiliary|gate|gating|router|adversar(y|ial)|discriminator|critic|qkv|regression|bbox|"
    "box|objectness|teacher|momentum|rotation|jigsaw"
)
_PERHAPS_OTHER = re.compile(
    "tok|tokens?|pos|position|positional|decoder?|encoder?|value|query|key|q|k|v|attn|attention"
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


@dataclass(frozen=True)
class HeadFinding:
    """The head of a model or update, and how it was found.

    Attributes:
        name: module name of the head; ``""`` where the model is that layer.
        how: ``named``, ``traced`` (through the model), ``gradient`` (its update alone sums to zero
            over classes), ``shape`` (its rows feed no other layer) or ``names`` (shape left
            several, and names decided).
        evidence: what speaks for it, in sentences.
        rivals: module names of other layers that could be heads, likeliest first.
        below: module names of the layers that it rests on, where a model was traced.
        apart: module names of layers that it does not rest on, such as other heads, likewise.
        beside: module names of other heads, which have a share of the loss; see `other_heads`.

    >>> HeadFinding("fc", "named").describe()
    "'fc' (named)"
    """

    name: str
    how: str
    evidence: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()
    below: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return one line: the head, how it was found, and the evidence."""
        said = f": {'; '.join(self.evidence)}" if self.evidence else ""
        return f"{module_shown(self.name)} ({self.how}{said})"


class AmbiguousHead(BadInput):
    """Which layer is the head cannot be told.

    Attributes:
        candidates: module names, likeliest first.
        rows: outputs of each candidate, where the head is surely one of them and each can be read
            as it is; else empty.
    """

    def __init__(
        self, message: str, candidates: Sequence[str] = (), rows: Sequence[int] = ()
    ) -> None:
        super().__init__(message)
        self.candidates = tuple(candidates)
        self.rows = tuple(rows)

    def __reduce__(
        self,
    ) -> tuple[type[AmbiguousHead], tuple[str, tuple[str, ...], tuple[int, ...]]]:
        """Keep the candidates through a process pool."""
        return type(self), (str(self), self.candidates, self.rows)


def word_of(name: str) -> int:
    """Return what a module's name says: 1 a head, -1 something else, 0 nothing.

    The last part that says anything decides.

    >>> [word_of(n) for n in ("lm_head", "classifier.2", "domain_classifier", "block.fc", "zz")]
    [1, 1, -1, 1, 0]
    """
    for part in reversed(name.split(".")):
        if said := _word_of_part(part.rstrip("0123456789")):
            return said
    return 0


@lru_cache(maxsize=4096)
def _word_of_part(part: str) -> int:
    if part == "out_proj":  # of an attention layer, or of a classifier of two layers
        return 0
    words = {word.lower() for word in _WORD.findall(part)}
    for pattern, said in ((_OTHER, -1), (_HEAD, 1), (_PERHAPS_OTHER, -1)):
        if any(pattern.fullmatch(word) for word in words):
            return said
    return 0


def module_shown(name: str) -> str:
    """Quote a module's name."""
    return shown(name) if name else "(the model itself)"


def listed(names: Iterable[str], most: int = 8) -> str:
    """List modules' names, at most so many."""
    words = [module_shown(name) for name in names]
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more or "none"


__all__ = ["AmbiguousHead", "HeadFinding", "listed", "module_shown", "word_of"]
