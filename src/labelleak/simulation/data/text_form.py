"""How texts become sequences of tokens, said without reading any."""

from __future__ import annotations

from dataclasses import dataclass

SUFFIXES = (".txt", ".jsonl")


@dataclass(frozen=True)
class TextForm:
    """How texts become sequences of tokens.

    Attributes:
        length: labels of a sequence.
        vocabulary: tokens of a vocabulary that is made of the texts' most common words.
        tokenizer: path of a ``tokenizer.json``, in place of such a vocabulary.
    """

    length: int = 64
    vocabulary: int = 2000
    tokenizer: str | None = None


def is_text(name: str) -> bool:
    """Return whether a file holds nothing but text, by its ending.

    >>> is_text("news.TXT"), is_text("news.npz")
    (True, False)
    """
    return name.lower().endswith(SUFFIXES)


__all__ = ["TextForm", "is_text"]
