"""One flat row per attack run, written and read as JSON lines; no torch.

A record is the second waist of the program: whatever made it, everything to the right of it
(tables, figures, page, gate, anybody's data frame) needs nothing but this file's format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any

from labelleak.errors import BadInput, shown, shown_path, shown_value
from labelleak.records.files import append_lines
from labelleak.records.lines import ENCODER, to_json_lines
from labelleak.records.reading import parse_json, read_lines
from labelleak.records.repeating import read_repeating
from labelleak.records.together import read_columns
from labelleak.records.values import are_sound, check_values

# Labels a batch really had, which a record holds only where that was asked for.
TRUTH = "true_counts"
# Lines that are read together.
_AT_ONCE = 512
SCHEMA = 1
THREAT_MODELS = ("none", "update", "model", "auxiliary")
# What was attacked; records that differ in one of these are never averaged.
SETTING = (
    "data",
    "model",
    "training_steps",
    "scheme",
    "num_classes",
    "batch_size",
    "local_steps",
    "num_samples",
    "defense",
)


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one attack answered on one update, how right it was, and where all of it came from.

    Every field is a key of the JSON line. ``asr`` is the attack success rate
    ``sum_i min(guess_i, c_i) / N``; ``asr_free`` the expected ASR of the best guess that needs
    no update, given the prior that the batch was drawn from; ``advantage`` is
    ``(asr - asr_free) / (1 - asr_free)``, None when that guess is always right.
    ``extra`` holds keys that only some sources write; they stand flat beside the others.
    """

    trial: int
    seed: int
    attack: str
    threat_model: str
    adaptive: bool
    data: str
    model: str
    initialisation: int
    training_steps: int
    model_accuracy: float | None
    scheme: str
    num_classes: int
    batch_size: int
    local_steps: int
    num_samples: int
    defense: str
    asr: float
    asr_free: float
    advantage: float | None
    presence_precision: float
    presence_recall: float
    seconds: float
    flags: tuple[str, ...]
    labelleak: str
    torch: str
    command: str
    schema: int = SCHEMA
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the record as one line of JSON, extra keys flat beside the contract's.

        Raises:
            ValueError: if a number is NaN or infinite, which JSON cannot say.
        """
        return ENCODER.encode(_row(self))

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Read one line; the reverse of `to_json`.

        Raises:
            BadInput: if the line is no record of this schema.
        """
        row = parse_json(line)
        if not isinstance(row, dict):
            raise BadInput("is not a JSON object")
        if row.get("schema") != SCHEMA:
            raise BadInput(
                f"has schema {shown_value(row.get('schema'))}, this labelleak reads {SCHEMA}"
            )
        missing = [name for name in _KEYS if name not in row]
        if missing:
            raise BadInput(f"lacks the keys {', '.join(missing)}")
        known = {name: _checked(name, kind, row.pop(name)) for name, kind in _TYPES.items()}
        if known["threat_model"] not in THREAT_MODELS:
            raise BadInput(f"names the unknown threat model {shown(known['threat_model'])}")
        record = cls(**known, extra=row)
        check_values(record)
        return record


def altered(record: Record, **values: Any) -> Record:
    """Return a record with other values under some keys: `dataclasses.replace`, but quicker.

    >>> from dataclasses import fields
    >>> altered(Record(**dict.fromkeys([one.name for one in fields(Record)], 0)), trial=3).trial
    3
    """
    found = object.__new__(Record)
    vars(found).update(vars(record))
    vars(found).update(values)
    return found


_KEYS = ("schema", *(f.name for f in fields(Record) if f.name not in ("schema", "extra")))
_values = attrgetter(*_KEYS)
_TYPES = {f.name: str(f.type) for f in fields(Record) if f.name != "extra"}
_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "bool": (bool,),
    "str": (str,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "tuple[str, ...]": (list,),
}


def _row(record: Record) -> dict[str, Any]:
    """Return a record as the row that is written, extra keys flat beside the contract's."""
    clash = record.extra.keys() & _TYPES.keys()
    if clash:
        raise ValueError(f"extra keys repeat contract keys: {sorted(clash)}")
    return {**dict(zip(_KEYS, _values(record), strict=True)), **record.extra}


def _checked(name: str, annotation: str, value: Any) -> Any:
    """Check one value of a row against its field's annotation."""
    good = isinstance(value, _KINDS[annotation])
    if annotation != "bool" and isinstance(value, bool):
        good = False
    if not good:
        raise BadInput(f"has {shown_value(value)} under {name!r}, where {annotation} belongs")
    if annotation == "tuple[str, ...]":
        return tuple(str(item) for item in value)
    return value


def append_records(path: Path, records: Iterable[Record]) -> list[str]:
    """Append records to a file, all of them or none; none but the owner reads a new one of truth.

    Returns:
        Their lines, without newlines.

    Raises:
        BadInput: if the file cannot be written (folder missing or read-only, disk full).
    """
    rows = list(records)
    lines = to_json_lines(map(_row, rows))
    whole = "".join(f"{line}\n" for line in lines)
    append_lines(path, whole, private=any(TRUTH in row.extra for row in rows))
    return lines


def to_lines(records: Iterable[Record]) -> str:
    """Return records as JSON lines, each with its newline."""
    return "".join(line + "\n" for line in to_json_lines(map(_row, records)))


def read_records(path: Path) -> list[Record]:
    """Read every record of a JSON-lines file.

    A last line without its newline is what a killed writer leaves; it is passed over.

    Raises:
        BadInput: if the file cannot be read, or a whole line in it is no record.
    """
    return [record for _, record in read_record_lines(path)]


def read_record_lines(path: Path) -> Iterator[tuple[str, Record]]:
    """Read every record with the line that it stands on; as `read_records`."""
    lines = read_lines(path, "records from ")
    while chunk := list(islice(lines, _AT_ONCE)):
        texts = [line for _, line in chunk]
        yield from zip(texts, _read_chunk(chunk, path), strict=True)


def _read_chunk(lines: Sequence[tuple[int, str]], path: Path) -> Iterable[Record]:
    """Read some lines by what they repeat or by column; one by one where one may be at fault."""
    texts = [line for _, line in lines]
    found = _read_repeating(texts) or _read_columns(texts)
    return found or _read_one_by_one(lines, path)


def _read_repeating(lines: Sequence[str]) -> list[Record] | None:
    """Read lines that share most of their text; None where they do not, or one may be at fault."""
    read = read_repeating(lines, list(_TYPES))
    if read is None:
        return None
    if not all(are_of_kind(part[0]) and are_sound(*part[:2]) for part in (read.own, read.shared)):
        return None
    (own, _, own_extras), (shared, _, extras) = read.own, read.shared
    shared["flags"] = list(map(tuple, shared["flags"]))
    blank: dict[str, Any] = dict.fromkeys(_TYPES)  # the order of a record's own keys
    halves = [
        blank | dict(zip(shared, half, strict=True)) for half in zip(*shared.values(), strict=True)
    ]
    found = []
    for place, values, extra in zip(
        read.place, zip(*own.values(), strict=True), own_extras, strict=True
    ):
        record = object.__new__(Record)
        held = vars(record)
        held.update(halves[place])
        held.update(zip(own, values, strict=True), extra=extras[place] | extra)
        found.append(record)
    return found


def _read_columns(lines: Sequence[str]) -> list[Record] | None:
    """Read lines by column; None where one may be at fault."""
    read = read_columns(lines, _TYPES)
    if read is None or not are_of_kind(read[0]) or not are_sound(*read[:2]):
        return None
    columns, _, extras = read
    columns["flags"] = list(map(tuple, columns["flags"]))
    found = []
    for values, extra in zip(zip(*columns.values(), strict=True), extras, strict=True):
        record = object.__new__(Record)
        # As the constructor of a frozen dataclass sets them, without a call for each.
        vars(record).update(zip(columns, values, strict=True), extra=extra)
        found.append(record)
    return found


def are_of_kind(columns: Mapping[str, Sequence[Any]]) -> bool:
    """Return whether the values of keys of the contract, all or some, are of its kinds."""
    return (
        all(set(map(type, values)) <= set(_KINDS[_TYPES[name]]) for name, values in columns.items())
        and set(columns.get("schema", ())) <= {SCHEMA}
        and set(columns.get("threat_model", ())) <= set(THREAT_MODELS)
        and {type(flag) for flags in columns.get("flags", ()) for flag in flags} <= {str}
    )


def _read_one_by_one(lines: Iterable[tuple[int, str]], path: Path) -> Iterator[Record]:
    for number, line in lines:
        try:
            yield Record.from_json(line)
        except BadInput as error:
            raise BadInput(f"{shown_path(path)}, line {number} {error}") from error
