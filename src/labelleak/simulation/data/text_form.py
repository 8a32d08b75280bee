"""How texts become sequences of tokens, said without reading any."""

from __future__ import annotations

from dataclasses import dataclass

SUFFIXES = (".txt", ".jsonl")
# The text that is made up here, so that it is at hand offline.
MADE_UP = "zipf_text"


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
    """Return whether data are nothing but text, by their name.

    >>> is_text("news.TXT"), is_text("news.npz")
    (True, False)
    """
    return name == MADE_UP or name.lower().endswith(SUFFIXES)


__all__ = ["MADE_UP", "TextForm", "is_text"]
