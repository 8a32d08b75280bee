"""Experiments that are no grid of audits, by name: what each shows and which options it takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Study:
    """One experiment of `labelleak paper` beside the presets.

    Attributes:
        line: what it shows, in a line.
        takes: which of the options model, quick, overwrite and defenses mean something to it.
    """

    line: str
    takes: frozenset[str] = frozenset()


# All but the first take long and are run by name only.
STUDIES = {
    "signals": Study("What LLG rests on: row sums of present and absent classes (P1, P2)"),
    "attacks": Study(
        "Table: every attack, untrained and trained, N from 1 to 1,024",
        frozenset({"model", "overwrite"}),
    ),
    "verdicts": Study("Tables: which attack is strongest where", frozenset({"overwrite"})),
    "home": Study(
        "Table: LLBG and RLU on the clients of their own papers", frozenset({"overwrite"})
    ),
    "defenses": Study(
        "Table: every defense, what it leaves the attacks and what it costs",
        frozenset({"defenses", "overwrite"}),
    ),
    "compression_rounds": Study(
        "Figure and tables: compression with error feedback, round by round",
        frozenset({"quick", "overwrite"}),
    ),
    "unknown_size": Study(
        "Table: what it costs in ASR that N is read from the update",
        frozenset({"quick", "overwrite"}),
    ),
    "rounds": Study(
        "Figure: answers about the same clients pooled over rounds",
        frozenset({"quick", "overwrite"}),
    ),
    "shadow": Study(
        "Table: the shadow attack beside every other, early and late in training",
        frozenset({"model", "quick", "overwrite"}),
    ),
    "shadow_studies": Study(
        "Its parts, calibration, data, defenses; --data A,B: B's data too", frozenset({"model"})
    ),
}

__all__ = ["STUDIES", "Study"]
