"""Tables of what compression hides: in one round, over several, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from labelleak.records.intervals import Interval, bootstrap_means
from labelleak.records.record import Record
from labelleak.records.strongest import strongest_records
from labelleak.report.curve_figures import write_curves
from labelleak.report.curves import CurveOptions
from labelleak.studies.compression.rounds import ANSWERS, EACH, UPDATES

# Test accuracy from which on a network is taken to have learnt.
LEARNT = 0.9
PAPERS = {"llg": "LLG", "llg_star": "LLG*", "llg_plus": "LLG+"}


def make_finding_tables(records: Iterable[Record]) -> str:
    """Write the advantage that is left, over all networks, sizes and schemes together.

    Networks that have learnt their task are also taken by themselves: there updates tell least,
    and defenses hide most. Each interval's first level is the network (architecture and
    initialisation), its second the batches. The strongest attacker is chosen under each condition
    on the other initialisations; ``told`` is the strongest that also knows the defense.
    """
    rows = list(records)
    parts = []
    for stage in sorted({row.training_steps for row in rows}):
        here = [row for row in rows if row.training_steps == stage]
        learnt = [row for row in here if (row.model_accuracy or 0.0) >= LEARNT]
        parts.append(_stage(here, ""))
        if learnt:
            parts.append(_stage(learnt, f", where test accuracy is at least {LEARNT}"))
    return "\n\n".join([*parts, _nets(rows)]) + "\n"


def _stage(here: Sequence[Record], which: str) -> str:
    stage = here[0].training_steps
    deaf = _best([row for row in here if not row.adaptive])
    told = _best(here)
    keys = list(dict.fromkeys(row.defense for row in here))
    columns = {
        **{say: [r for r in here if r.attack == name] for name, say in PAPERS.items()},
        "strongest": deaf,
        "strongest, told": told,
    }
    first = here[0]
    lines = [
        f"**{first.data}, {f'{stage} training steps' if stage else 'untrained'}{which}** "
        f"(advantage over the free guess, mean over {_conditions(here)} conditions; "
        f"{len(told) // len(keys)} updates a row)",
        "",
        "| defense | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for key in keys:
        entries = _spans([[r for r in column if r.defense == key] for column in columns.values()])
        lines.append(f"| {key} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def _nets(rows: Sequence[Record]) -> str:
    """Write what the strongest attacker that knows the defense gains, condition by condition."""
    best = _best(rows)
    places = sorted({_place(row) for row in best})
    lines = [
        f"**{rows[0].data}: the strongest attacker, told the defense, under each condition** "
        "(advantage)",
        "",
        "| network, steps, scheme, N | "
        + " | ".join(dict.fromkeys(r.defense for r in rows))
        + " |",
        "|---|" + "---|" * len({r.defense for r in rows}),
    ]
    for place in places:
        here = [row for row in best if _place(row) == place]
        keys = dict.fromkeys(r.defense for r in rows)
        means = [_mean([r for r in here if r.defense == key]) for key in keys]
        name = ", ".join(str(part) for part in place)
        lines.append(f"| {name} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")
    return "\n".join(lines)


def make_round_tables(records: Iterable[Record]) -> str:
    """Write the strongest attacker's advantage round by round and over all rounds."""
    rows = list(records)
    places = dict.fromkeys((str(row.extra["activation"]), row.scheme) for row in rows)
    return "\n\n".join(_rounds(rows, *place) for place in places) + "\n"


def draw_rounds(records: Iterable[Record], folder: Path) -> list[Path]:
    """Draw the strongest attacker round by round, a line a defense."""
    rows = [row for row in records if row.extra["kind"] == EACH]
    numbers = sorted({int(row.extra["round"]) for row in rows})
    best = [row for number in numbers for row in _best(_of(rows, EACH, number))]
    figure = CurveOptions(
        x="round", lines=("defense",), panels=("activation", "scheme"), attacks=("strongest",)
    )
    return write_curves(best, folder, title="The strongest attacker, round by round", figure=figure)


def _rounds(rows: Sequence[Record], activation: str, scheme: str) -> str:
    here = [r for r in rows if r.extra["activation"] == activation and r.scheme == scheme]
    last = max(int(row.extra.get("round", 0)) for row in here)
    shown = [number for number in (1, 2, 4, 8, 16, 32) if number <= last]
    columns: list[tuple[str, list[Record]]] = [
        (f"round {number}", _of(here, EACH, number)) for number in shown
    ]
    columns += [(kind, _of(here, kind)) for kind in (ANSWERS, UPDATES)]
    best = {title: _best(column) for title, column in columns}
    first = here[0]
    lines = [
        f"**{first.data}, cnn, {activation}, {scheme}, {first.batch_size} labels a round, "
        f"{last} rounds** (advantage of the strongest; share of rounds without the head's weight)",
        "",
        "| defense | " + " | ".join(best) + " | head wiped |",
        "|---|" + "---|" * (len(best) + 1),
    ]
    for key in dict.fromkeys(row.defense for row in here):
        entries = _spans([[r for r in column if r.defense == key] for column in best.values()])
        seen = [r.extra["head_wiped"] for r in _of(here, EACH) if r.defense == key]
        lines.append(f"| {key} | {' | '.join(entries)} | {sum(seen) / len(seen):.2f} |")
    return "\n".join(lines)


def _of(rows: Sequence[Record], kind: str, number: int | None = None) -> list[Record]:
    return [
        row
        for row in rows
        if row.extra["kind"] == kind and number in (None, row.extra.get("round"))
    ]


def make_cost_table(costs: Sequence[dict[str, Any]]) -> str:
    """Write accuracy and bytes of each defense, beside none's."""
    places = dict.fromkeys((row["data"], row["activation"], row["rounds"]) for row in costs)
    return "\n\n".join(_costs(costs, place) for place in places) + "\n"


def _costs(costs: Sequence[dict[str, Any]], place: tuple[str, str, int]) -> str:
    data, activation, rounds = place
    here = [row for row in costs if (row["data"], row["activation"]) == place[:2]]
    seeds = len({row["seed"] for row in here})
    lines = [
        f"**{data}, cnn, {activation}, {rounds} rounds of ten clients** "
        f"(mean and range over {seeds} federations)",
        "",
        "| defense | accuracy | least to most | bytes an update |",
        "|---|---|---|---|",
    ]
    for key in dict.fromkeys(row["defense"] for row in here):
        own = [row for row in here if row["defense"] == key]
        found = sorted(row["accuracy"] for row in own)
        sent = sum(row["wire_bytes"] for row in own) / len(own)
        lines.append(
            f"| {key} | {sum(found) / len(found):.3f} | {found[0]:.3f} to {found[-1]:.3f} "
            f"| {sent:,.0f} |"
        )
    return "\n".join(lines)


def _best(rows: Sequence[Record]) -> list[Record]:
    """Return the strongest attacker's records, of whoever holds most."""
    return [row for row in strongest_records(rows) if row.threat_model == "auxiliary"]


def _place(row: Record) -> tuple[str, str, int, str, int]:
    activation = str(row.extra["activation"])
    return row.model, activation, row.training_steps, row.scheme, row.num_samples


def _conditions(rows: Sequence[Record]) -> int:
    return len({_place(row) for row in rows})


def _network(row: Record) -> str:
    return f"{row.model}/{row.extra['activation']}/{row.initialisation}"


def _mean(rows: Sequence[Record]) -> float:
    found = [row.advantage for row in rows if row.advantage is not None]
    return sum(found) / len(found)


def _spans(columns: Sequence[Sequence[Record]]) -> list[str]:
    told = [
        (
            [row.advantage for row in column if row.advantage is not None],
            [_network(row) for row in column if row.advantage is not None],
        )
        for column in columns
    ]
    intervals = iter(bootstrap_means([pair for pair in told if pair[0]]))
    return [_span(next(intervals)) if pair[0] else "-" for pair in told]


def _span(interval: Interval) -> str:
    return f"{interval.mean:.2f} ({interval.low:.2f} to {interval.high:.2f})"


__all__ = ["draw_rounds", "make_cost_table", "make_finding_tables", "make_round_tables"]
