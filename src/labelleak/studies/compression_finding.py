"""Does compression hide labels? A grid of networks, batches and stages, and tables over all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from labelleak.records.intervals import bootstrap_means
from labelleak.records.record import Record
from labelleak.report.markdown import group, span, table
from labelleak.studies.defenses import best_of
from labelleak.studies.registry import read_shipped
from labelleak.studies.study import study_of

# Test accuracy from which on a network is taken to have learnt.
LEARNT = 0.9
PAPERS = {"llg": "LLG", "llg_star": "LLG*", "llg_plus": "LLG+"}


def make_finding_tables(rows: Sequence[Record]) -> str:
    """Write the advantage that is left, over all networks, sizes and schemes together.

    Networks that have learnt their task are also taken by themselves: there updates tell least,
    and defenses hide most. Each interval's first level is the network (architecture and
    initialisation), its second the batches. The strongest attacker is chosen under each condition
    on the other initialisations; ``adaptive`` includes those who know the defense.
    """
    parts = []
    for _, here in sorted(group(rows, lambda row: row.training_steps).items()):
        learnt = [row for row in here if (row.model_accuracy or 0.0) >= LEARNT]
        parts.append(_stage(here, ""))
        if learnt:
            parts.append(_stage(learnt, f", where test accuracy is at least {LEARNT}"))
    return "\n\n".join([*parts, _nets(rows)]) + "\n"


def _stage(here: Sequence[Record], which: str) -> str:
    first, stage = here[0], here[0].training_steps
    columns = {
        **{say: [r for r in here if r.attack == name] for name, say in PAPERS.items()},
        "strongest, non-adaptive": best_of([row for row in here if not row.adaptive]),
        "strongest, adaptive": best_of(here),
    }
    keys = list(group(here, lambda row: row.defense))
    title = (
        f"**{first.data}, {f'{stage} training steps' if stage else 'untrained'}{which}** "
        f"(advantage over the free guess, mean over {len(group(here, _place))} conditions; "
        f"{len(columns['strongest, adaptive']) // len(keys)} updates a row)"
    )
    rows = [[key, *spans(columns.values(), key)] for key in keys]
    return table(["defense", *columns], rows, title=title)


def _nets(rows: Sequence[Record]) -> str:
    """Write what the strongest adaptive attacker gains, condition by condition."""
    defenses = list(group(rows, lambda row: row.defense))
    lines = []
    for place, here in sorted(group(best_of(rows), _place).items()):
        gained = [_gains(here, key) for key in defenses]
        means = [f"{sum(own) / len(own):.2f}" for own in gained]
        lines.append([", ".join(map(str, place)), *means])
    title = f"**{rows[0].data}: the strongest adaptive attacker under each condition** (advantage)"
    return table(["network, steps, scheme, N", *defenses], lines, title=title)


def _place(row: Record) -> tuple[str, str, int, str, int]:
    activation = str(row.extra["activation"])
    return row.model, activation, row.training_steps, row.scheme, row.num_samples


def _gains(rows: Sequence[Record], defense: str) -> list[float]:
    own = [row.advantage for row in rows if row.defense == defense]
    return [gained for gained in own if gained is not None]


def spans(columns: Iterable[Sequence[Record]], defense: str) -> list[str]:
    """Write each column's mean advantage under a defense, with its interval over networks."""
    found = []
    for column in columns:
        rows = [r for r in column if r.defense == defense and r.advantage is not None]
        nets = [f"{r.model}/{r.extra['activation']}/{r.initialisation}" for r in rows]
        found.append(([r.advantage or 0.0 for r in rows], nets))
    intervals = iter(bootstrap_means([pair for pair in found if pair[0]]))
    return [span(next(intervals)) if values else "-" for values, _ in found]


STUDY = study_of(
    partial(read_shipped, "compression_finding"),
    takes=frozenset({"quick", "defenses"}),
    report=lambda found: {"summary.md": make_finding_tables(found.records)},
)
