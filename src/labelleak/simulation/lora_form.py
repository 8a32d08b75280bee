"""Which layers of a model LoRA adapts, as it is written on the command line; no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from labelleak.errors import BadInput, shown_value

_TEXT = re.compile(r"(?P<parts>[\w.+]+):(?P<rank>[1-9]\d{0,4})(:(?P<alpha>\d+(\.\d+)?))?")


@dataclass(frozen=True)
class LoraForm:
    """Which layers have adapters, and how wide these are.

    Attributes:
        parts: ``head``, ``attention`` or names of modules.
        rank: r.
        alpha: adapters are multiplied by alpha / r; r if left out.
    """

    parts: tuple[str, ...]
    rank: int
    alpha: float


def parse_lora(text: str) -> LoraForm:
    """Read ``PART:RANK`` or ``PART:RANK:ALPHA``, parts joined by ``+``.

    Raises:
        BadInput: if it is anything else.

    >>> parse_lora("head+attention:8")
    LoraForm(parts=('head', 'attention'), rank=8, alpha=8.0)
    """
    found = _TEXT.fullmatch(text)
    if found is None or float(found["alpha"] or 1) <= 0:
        raise BadInput(
            f"`lora` is PART:RANK or PART:RANK:ALPHA, such as head:8 or attention:8:16, "
            f"not {shown_value(text)}"
        )
    rank = int(found["rank"])
    return LoraForm(tuple(found["parts"].split("+")), rank, float(found["alpha"] or rank))


__all__ = ["LoraForm", "parse_lora"]
