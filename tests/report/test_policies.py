"""A policy takes what pydantic's strict mode takes, which is loaded only to refuse."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from labelleak.errors import BadInput
from labelleak.records.flags import FLAGS
from labelleak.report.policy import Cells, Policy, make_policy

Limit = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
EXAMPLE = Path(__file__).parents[2] / "examples" / "gate" / "policy.toml"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class NaiveCells(Strict):
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


class NaivePolicy(Strict):
    max_advantage: dict[Literal["update", "model", "auxiliary"], Limit] = {}
    min_trials: Annotated[int, Field(ge=2)] = 20
    must_run: list[str] = []
    flags: dict[str, Limit] = {}
    on_unknown: Literal["pass", "fail"] = "pass"
    on_refuted: Literal["pass", "fail"] = "fail"
    cells: NaiveCells = NaiveCells()


numbers = st.sampled_from([0, 1, 2, 20, -1, 0.0, 0.3, 1.0, 1.5, -0.5, 1e-300, True, False])
odd = numbers | st.sampled_from(
    [float("nan"), float("inf"), None, "", "0.3", "pass", "fail", "round", "é", "\ud800", 10**30]
)
lists = st.lists(odd | st.sampled_from(["llg", "client"]), max_size=3)
names = st.sampled_from(["update", "model", "auxiliary", "updat", "noise_dominates", "", 1])
tables = st.dictionaries(names, odd, max_size=2)
keys = st.sampled_from([*NaivePolicy.model_fields, "max_advantag"])
cells = st.dictionaries(st.sampled_from([*NaiveCells.model_fields, "batch_size"]), odd | lists)
values = odd | lists | tables | cells


@given(st.dictionaries(keys, values, max_size=4))
def test_a_policy_is_taken_or_refused_as_by_pydantic(asked: dict[str, Any]) -> None:
    naive = taken(NaivePolicy.model_validate, asked, ValidationError)
    if naive is not None and not set(naive.flags) <= set(FLAGS):
        naive = None
    found = taken(Policy.of, asked, BadInput)
    assert (found is None) == (naive is None), asked
    assert found is None or repr(asdict(found)) == repr(naive.model_dump())


def taken(take: Callable[[Any], Any], asked: Any, refusal: type[Exception]) -> Any:
    """Return what is made of a value, or None where it is refused."""
    try:
        return take(asked)
    except refusal:
        return None


def test_what_is_built_in_python_is_checked_too() -> None:
    assert Policy(cells=Cells(per=["round"])).cells.per == ["round"]
    for asked in ({"min_trials": 1}, {"max_advantage": {"update": True}}, {"cells": 3}):
        with pytest.raises(BadInput):
            Policy(**asked)
    with pytest.raises(BadInput, match=r"^cells\.per\.0 = 'x': "):
        Cells(per=["x"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"max_advantage": {"update": 2.0}}, "max_advantage.update = 2.0: must be at most 1"),
        ({"flags": {"momentum": 1.0000001}}, "flags.momentum = 1.0000001: must be at most 1"),
        ({"min_trials": 10**400}, "min_trials = 1000"),
        ({"cells": {1: [8]}}, "unknown key '1'. Known: batch_sizes, "),
        ({"cells": [8]}, "cells = [8]: must be a table"),
        ({"flags": {1: 0.5}}, "flags.1.[key] = 1: Input should be a valid string"),
        ({"max_advantage": {"all": 0.5}}, "unknown threat model 'all'. Known: update, "),
    ],
)
def test_a_refusal_shows_what_was_given(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=f"^here: {re.escape(said)}"):
        make_policy(asked, "here")


def test_a_good_policy_loads_no_pydantic() -> None:
    read = f"from pathlib import Path; read_policy(Path({str(EXAMPLE)!r}))"
    program = f"import sys; from labelleak.report.policy import read_policy; {read}"
    said = subprocess.run(
        [sys.executable, "-c", f"{program}; print('pydantic' in sys.modules)"],
        capture_output=True,
        text=True,
    )
    assert said.stdout == "False\n", said.stderr
