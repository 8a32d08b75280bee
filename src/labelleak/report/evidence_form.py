"""Evidence from outside: what a file of it may hold, and the schema that says so to others."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model, field_validator

from labelleak.errors import BadInput, shown_path, shown_value
from labelleak.records.reading import read_json
from labelleak.report.evidence import Attacks, Check, Evidence, File, Subject, Who


def read_evidence(path: Path) -> Evidence:
    """Read a file of evidence.

    Raises:
        BadInput: if it cannot be read, or is none.
    """
    found = read_json(path)
    try:
        held = _model_of(Evidence).model_validate(found).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise BadInput(
            f"{shown_path(path)} is no evidence of this format: {shown_value(place)}: "
            f"{first['msg'].lower()}"
        ) from error
    released = held["released"]
    parts = {
        "who": Who(**held["who"]),
        "attacks": Attacks(**held["attacks"]),
        "checks": [Check(**one) for one in held["checks"]],
        "records": File(**held["records"]),
        "released": None if released is None else Subject(**released),
    }
    return Evidence(**{**held, **parts})


def schema() -> str:
    """Return the JSON schema of evidence, as `docs/evidence.schema.json` holds it."""
    return json.dumps(_model_of(Evidence).model_json_schema(), indent=1) + "\n"


@cache
def _model_of(kind: Any) -> type[BaseModel]:
    """Return the model that checks what a class of evidence may hold, and writes its schema."""
    hints = get_type_hints(kind)
    held: dict[str, Any] = {
        one.name: (_checked(hints[one.name]), ... if one.default is MISSING else one.default)
        for one in fields(kind)
    }
    checks = {"word": field_validator("verdict")(_check_word)} if kind is Evidence else {}
    return create_model(
        kind.__name__,
        __config__=ConfigDict(extra="forbid", frozen=True),
        __doc__=kind.__doc__,
        __validators__=checks,
        **held,
    )


def _checked(kind: Any) -> Any:
    """Return an annotation with the models of classes in the place of the classes."""
    args, origin = get_args(kind), get_origin(kind)
    if origin in (Union, UnionType):
        return Union[tuple(map(_checked, args))]  # noqa: UP007
    if origin in (list, dict):
        return origin[tuple(map(_checked, args))]
    return _model_of(kind) if _has_fields(kind) else kind


def _has_fields(kind: Any) -> bool:
    return is_dataclass(kind)


def _check_word(verdict: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(verdict.get("word"), str):
        raise ValueError("it must have a word")
    return verdict


__all__ = ["read_evidence", "schema"]
