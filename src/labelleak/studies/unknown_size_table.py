"""Write what an unknown batch size costs as tables."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from labelleak.records.intervals import Interval, bootstrap_means
from labelleak.records.record import Record
from labelleak.report.wording import name_attack

FREE = "free"
# The extra key that says where an attack has N from: known or estimated.
SOURCE = "batch_size_source"

_Values = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
_Groups = np.ndarray[tuple[int, ...], np.dtype[np.str_]]


def make_size_table(records: Iterable[Record]) -> str:
    """Write records as Markdown tables, one per activation and training stage.

    Beside each attack's ASR with N known and estimated stands what the estimate loses, update by
    update, with its interval over initialisations and updates. N found is the share of updates
    whose N was estimated rightly; in brackets the mean probability that the estimate gave itself.
    """
    rows = [row for row in records if row.attack != FREE]
    keys = dict.fromkeys((str(row.extra["activation"]), row.training_steps) for row in rows)
    return "\n\n".join(_write_table(key, [r for r in rows if _table_of(r) == key]) for key in keys)


def _table_of(row: Record) -> tuple[str, int]:
    return str(row.extra["activation"]), row.training_steps


def _write_table(key: tuple[str, int], rows: list[Record]) -> str:
    activation, steps = key
    attacks = list(dict.fromkeys(row.attack for row in rows))
    accuracies = {row.initialisation: row.model_accuracy or 0.0 for row in rows}.values()
    stage = f"trained for {steps} steps" if steps else "untrained"
    heads = [f"{name_attack(name)}: N known, estimated, lost" for name in attacks]
    return "\n".join(
        [
            f"**{rows[0].data}, {activation} CNN, {stage}** (accuracy {min(accuracies):.2f} to "
            f"{max(accuracies):.2f}; {len(accuracies)} models)",
            "",
            "| batches | N | free guess | N found (claimed) | " + " | ".join(heads) + " |",
            "|---|---|---|---|" + "---|" * len(attacks),
            *(
                _write_row(cell, [row for row in rows if (row.scheme, row.batch_size) == cell])
                for cell in dict.fromkeys((row.scheme, row.batch_size) for row in rows)
            ),
        ]
    )


def _write_row(cell: tuple[str, int], rows: list[Record]) -> str:
    guessed = [row for row in rows if row.extra[SOURCE] == "estimated"]
    found = np.mean([row.extra["estimated_samples"] == row.num_samples for row in guessed])
    entries = [_compare([r for r in rows if r.attack == a]) for a in _names(rows)]
    claimed = np.mean([row.extra["estimate_confidence"] for row in guessed])
    scheme, size = cell
    first = f"| {scheme} | {size} | {rows[0].asr_free:.2f} | {found:.0%} ({claimed:.0%}) | "
    return first + " | ".join(entries) + " |"


def _names(rows: list[Record]) -> list[str]:
    return list(dict.fromkeys(row.attack for row in rows))


def _compare(rows: list[Record]) -> str:
    known = {_trial(row): row.asr for row in rows if row.extra[SOURCE] == "known"}
    guessed = {_trial(row): row.asr for row in rows if row.extra[SOURCE] == "estimated"}
    lost = _interval({trial: known[trial] - guessed[trial] for trial in known})
    first, second = np.mean(list(known.values())), np.mean(list(guessed.values()))
    return f"{first:.2f}, {second:.2f}, {lost.mean:.2f} ({lost.low:.2f} to {lost.high:.2f})"


def _trial(row: Record) -> tuple[int, int]:
    return row.initialisation, row.trial


def _interval(lost: dict[tuple[int, int], float]) -> Interval:
    values: _Values = np.array(list(lost.values()))
    groups: _Groups = np.array([str(initialisation) for initialisation, _ in lost])
    return bootstrap_means([(values, groups)])[0]


__all__ = ["FREE", "SOURCE", "make_size_table"]
