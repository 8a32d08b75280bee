"""A policy: how much leakage a gate lets pass, on how much evidence; read from TOML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from labelleak.errors import BadInput, shown, shown_path, shown_value, unknown_name
from labelleak.records.flags import FLAGS
from labelleak.records.reading import read_toml

Limit = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Server = Literal["update", "model", "auxiliary"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Cells(_Strict):
    """Which records are judged; None leaves a key open. Each value that is named must be there.

    ``left`` tells updates that left their client from those that its policy withheld. ``per``
    judges each round or client by itself instead of their average.
    """

    batch_sizes: list[int] | None = None
    schemes: list[str] | None = None
    local_steps: list[int] | None = None
    training_steps: list[int] | None = None
    defenses: list[str] | None = None
    rounds: list[int] | None = None
    clients: list[int | str] | None = None
    defended: bool | None = None
    left: bool | None = None
    per: list[Literal["round", "client"]] = []


class Policy(_Strict):
    """What records must show for a gate to open.

    Attributes:
        max_advantage: largest advantage per threat model; the upper end of the 95 % interval of
            the strongest attacker must not lie above it.
        min_trials: trials that each cell must have.
        must_run: attacks that each cell must hold, each with ``min_trials`` trials.
        flags: largest share of trials in which a flag may be raised, flag by flag.
        on_unknown: ``fail`` where the scale, sign, task or loss of an update is not known to hold;
            what is impossible always fails.
        on_refuted: ``pass`` where an update cannot be as it was told (its labels, their number, the
            loss) or every attack is worse than the guess without it, which shows no safety.
        cells: which records are judged.
    """

    max_advantage: dict[Server, Limit] = {}
    min_trials: Annotated[int, Field(ge=2)] = 20
    must_run: list[str] = []
    flags: dict[str, Limit] = {}
    on_unknown: Literal["pass", "fail"] = "pass"
    on_refuted: Literal["pass", "fail"] = "fail"
    cells: Cells = Cells()

    @field_validator("flags")
    @classmethod
    def _known(cls, flags: dict[str, float]) -> dict[str, float]:
        for name in flags:
            if name not in FLAGS:
                # A flag that no release raises would never fail.
                raise ValueError(str(unknown_name("flag", name, FLAGS)))
        return flags


def make_policy(asked: dict[str, Any], source: str) -> Policy:
    """Check a policy that came from outside.

    Raises:
        BadInput: naming the first key that cannot be, and the nearest known one.

    >>> make_policy({"max_advantage": {"update": 0.3}}, "policy.toml").min_trials
    20
    """
    try:
        policy = Policy.model_validate(asked)
    except ValidationError as error:
        raise BadInput(f"{source}: {_reason(error)}") from error
    asks = policy.max_advantage or policy.must_run or policy.flags or policy.on_unknown == "fail"
    if not asks:
        raise BadInput(
            f"{source} asks for nothing; give [max_advantage], must_run, [flags] or on_unknown"
        )
    return policy


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        owner = Cells if place[:-1] == ["cells"] else Policy
        return str(unknown_name("key", place[-1], owner.model_fields))
    if place[-1:] == ["[key]"]:
        return str(unknown_name("threat model", place[-2], ("update", "model", "auxiliary")))
    reason = str(first["msg"]).removeprefix("Value error, ")
    return f"{shown('.'.join(place))[1:-1]} = {shown_value(first['input'])}: {reason}"


def read_policy(path: Path) -> Policy:
    """Read a policy from a TOML file.

    Raises:
        BadInput: if it cannot be read, is no TOML, or holds what no policy has.
    """
    return make_policy(read_toml(path, "the policy "), shown_path(path.name))
