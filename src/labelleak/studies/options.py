"""What is asked of a study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from labelleak.audits.options import AuditOptions, Data, Seed, check_options
from labelleak.records.options import Option, Options


@dataclass(frozen=True, kw_only=True)
class Asked(Options):
    """On what data, from which seed, how coarsely; None leaves a choice to the study."""

    data: Data = "digits"
    quick: Annotated[bool, Option("A coarse version, all in a few minutes.")] = False
    model: Annotated[
        str | None,
        Option("Model of attacks, shadow, shadow_studies (lenet if left out), users (cnn)."),
    ] = None
    defenses: Annotated[
        tuple[str, ...] | None,
        Option(
            "What defenses, defended_training and compression_finding compare, comma-separated; "
            "all if left out."
        ),
    ] = None
    seed: Seed = 0
    command: str = ""


def cnn_options(asked: Asked, activation: str, **more: Any) -> AuditOptions:
    """Return options of an audit of the paper's CNN with an activation, on the data asked for."""
    return check_options(
        data=asked.data, seed=asked.seed, model="cnn", activation=activation, **more
    )


__all__ = ["Asked", "cnn_options"]
