"""A policy: how much leakage a gate lets pass, on how much evidence; read from TOML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from labelleak.errors import BadInput, shown, shown_path, shown_value, unknown_name
from labelleak.records.flags import FLAGS
from labelleak.records.options import Option, adapter, declared, is_plainly
from labelleak.records.reading import read_toml

Server = Literal["update", "model", "auxiliary"]


_SHARE = Option("A share.", min=0, max=1)


@dataclass(frozen=True, kw_only=True)
class _Strict:
    """Values that must be of their types as they are: none is converted.

    Raises:
        BadInput: naming the first value that cannot be, and why.
    """

    place: ClassVar[str] = ""  # what its keys stand under in a policy

    def __post_init__(self) -> None:
        for name, kind, option in declared(type(self)):
            value = _taken(f"{self.place}{name}", kind, getattr(self, name))
            if option is not None:
                for place, number in _numbers(name, value):
                    if why := option.refuse(number):
                        raise BadInput(f"{_shown(place)} = {shown_value(number)}: {why}")
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Self:
        """Take values from outside by their names; a name that nothing bears is refused."""
        names = [one.name for one in fields(cls)]
        for name in asked:
            if name not in names:
                raise unknown_name("key", str(name), names)
        return cls(**asked)


@dataclass(frozen=True, kw_only=True)
class Cells(_Strict):
    """Which records are judged; None leaves a key open. Each value that is named must be there.

    ``left`` tells updates that left their client from those that its policy withheld. ``per``
    judges each round or client by itself instead of their average.
    """

    place: ClassVar[str] = "cells."

    batch_sizes: list[int] | None = None
    schemes: list[str] | None = None
    local_steps: list[int] | None = None
    training_steps: list[int] | None = None
    defenses: list[str] | None = None
    rounds: list[int] | None = None
    clients: list[int | str] | None = None
    defended: bool | None = None
    left: bool | None = None
    per: list[Literal["round", "client"]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
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

    max_advantage: Annotated[dict[Server, float], _SHARE] = field(default_factory=dict)
    min_trials: Annotated[int, Option("Trials that each cell must have.", min=2)] = 20
    must_run: list[str] = field(default_factory=list)
    flags: Annotated[dict[str, float], _SHARE] = field(default_factory=dict)
    on_unknown: Literal["pass", "fail"] = "pass"
    on_refuted: Literal["pass", "fail"] = "fail"
    cells: Cells = field(default_factory=Cells)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.flags:
            if name not in FLAGS:  # a flag that no release raises would never fail
                raise unknown_name("flag", name, FLAGS)


def make_policy(asked: dict[str, Any], source: str) -> Policy:
    """Check a policy that came from outside.

    Raises:
        BadInput: naming the first key that cannot be, and the nearest known one.

    >>> make_policy({"max_advantage": {"update": 0.3}}, "policy.toml").min_trials
    20
    """
    try:
        policy = Policy.of(asked)
    except BadInput as error:
        raise BadInput(f"{source}: {error}") from error
    asks = policy.max_advantage or policy.must_run or policy.flags or policy.on_unknown == "fail"
    if not asks:
        raise BadInput(
            f"{source} asks for nothing; give [max_advantage], must_run, [flags] or on_unknown"
        )
    return policy


def _taken(place: str, kind: Any, value: Any) -> Any:
    """Return a value that is of a type as it is; pydantic says what is wrong with any other."""
    if kind is Cells:
        if not isinstance(value, Cells | dict):
            raise BadInput(f"{place} = {shown_value(value)}: must be a table")
        return Cells.of(value) if isinstance(value, dict) else value
    if is_plainly(kind, value):
        return value
    from pydantic import ValidationError

    try:
        return adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        parts = [place, *map(str, first["loc"])]
        if place == "max_advantage" and parts[-1] == "[key]":
            raise unknown_name("threat model", parts[-2], get_args(Server)) from error
        raise BadInput(
            f"{_shown('.'.join(parts))} = {shown_value(first['input'])}: {first['msg']}"
        ) from error


def _shown(place: str) -> str:
    return shown(place)[1:-1]


def _numbers(name: str, value: Any) -> list[tuple[str, Any]]:
    """Return each value that a range may hold for, with its place."""
    if isinstance(value, dict):
        return [(f"{name}.{key}", one) for key, one in value.items()]
    return [(name, value)]


def read_policy(path: Path) -> Policy:
    """Read a policy from a TOML file.

    Raises:
        BadInput: if it cannot be read, is no TOML, or holds what no policy has.
    """
    return make_policy(read_toml(path, "the policy "), shown_path(path.name))
