"""What is asked of a study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from labelleak.audits.options import Data, Seed
from labelleak.records.options import Option, Options


@dataclass(frozen=True, kw_only=True)
class Asked(Options):
    """On what data, from which seed, how coarsely; None leaves a choice to the study."""

    data: Data = "digits"
    quick: Annotated[bool, Option("A coarse version, all in a few minutes.")] = False
    model: Annotated[
        str | None, Option("Model of attacks, shadow, shadow_studies; lenet if left out.")
    ] = None
    defenses: Annotated[
        tuple[str, ...] | None,
        Option("What defenses and compression_finding compare, comma-separated; all if left out."),
    ] = None
    seed: Seed = 0
    command: str = ""


__all__ = ["Asked"]
