"""The shadow attack beside every other: untrained, early and late in training, by batch size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from labelleak.attacks import STANDARD
from labelleak.audits.audit import Progress, open_journal, run_plan
from labelleak.audits.options import check_options
from labelleak.audits.plan import Plan, plan_audit
from labelleak.records.files import write_whole
from labelleak.records.record import Record, read_records
from labelleak.report.wording import name_attack

# Untrained, early, late; and overfit, for data that are hardly learnt by then.
STAGES, SIZES = (0, 60, 600, 3000), (1, 8, 32, 128)
SCHEMES = ("iid", "unbalanced", "dirichlet:0.3")
TRIALS, MODELS = 120, 3
SHADOW, FREE = "shadow", "free"
SHADOW_BATCHES = 4000
# Every attack on one step; dlg is left out (20 s an update at N = 128, and never the best).
_SLOWER = ("rlg", "soft_label", "llbg_measured", "client_simulation")
ATTACKS = (*(name for name in STANDARD if name != SHADOW), *_SLOWER, SHADOW)
# Shown by name beside the shadow attack and the best of all others.
_NAMED = (FREE, "llg", "llg_star", "llg_plus")

# Options of a coarse table, a minute or two on digits.
QUICK: dict[str, Any] = {
    "stages": (0, 600),
    "sizes": (8, 32),
    "trials": 30,
    "initialisations": 1,
}

_Cell = tuple[str, int]


def plan_shadow(
    data: str,
    model: str,
    *,
    seed: int,
    command: str,
    activation: str | None = None,
    stages: Sequence[int] = STAGES,
    sizes: Sequence[int] = SIZES,
    schemes: Sequence[str] = SCHEMES,
    trials: int = TRIALS,
    initialisations: int = MODELS,
) -> Plan:
    """Plan the audit behind the table.

    Args:
        data: name or path of a data set.
        model: name of a model.
        seed: seed of everything random.
        command: the command, for the records.
        activation: of the model; None for its own.
        stages: training steps before the audit; 600 is called late.
        sizes: batch sizes.
        schemes: how batches are drawn; no attack but the free guess is told.
        trials: batches of each cell, over all models.
        initialisations: models.

    Raises:
        BadInput: for names that are unknown, files that cannot be read, or batches larger than
            the victims' data.
    """
    options = check_options(
        data=data,
        model=model,
        activation=activation,
        batch_sizes=tuple(sizes),
        schemes=tuple(schemes),
        attacks=ATTACKS,
        shadow_batches=SHADOW_BATCHES,
        trials=trials,
        initialisations=initialisations,
        training_steps=tuple(stages),
        seed=seed,
    )
    return plan_audit(options, command=command)


def run_shadow(
    plan: Plan,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Run what is not yet in the folder's journal and write shadow.md beside the records.

    Raises:
        BadInput: if the folder cannot be written, or holds another audit.
    """
    with open_journal(plan, out, overwrite=overwrite) as journal:
        run_plan(plan, journal=journal, progress=progress)
    target = out / "shadow.md"
    write_whole(target, make_shadow_table(read_records(journal.records)) + "\n")
    return target


def make_shadow_table(records: Iterable[Record]) -> str:
    """Write records as Markdown: a summary, then for each stage the contest and all attacks.

    ASR is a mean over trials. The free guess knows the scheme; under schemes that treat all
    classes alike its counts are those of the free guess that does not.
    """
    rows = list(records)
    parts = [_summary(rows)]
    for stage in sorted({row.training_steps for row in rows}):
        own = [row for row in rows if row.training_steps == stage]
        parts += [_title(own), _contest(own), _everything(own)]
    return "\n\n".join(parts)


def margins(records: Iterable[Record]) -> dict[tuple[int, str, int], float]:
    """Return the shadow attack's mean ASR less the best other's, by stage, scheme and N."""
    rows = list(records)
    found = {}
    for stage in sorted({row.training_steps for row in rows}):
        own = [row for row in rows if row.training_steps == stage]
        for cell in _cells(own):
            asr = _means(own, cell, lambda row: row.asr)
            found[(stage, *cell)] = asr[SHADOW] - asr[_best_other(asr)]
    return found


def _summary(rows: list[Record]) -> str:
    """Write how far the shadow attack is above all others, a row for each stage."""
    lines = [
        "| steps | accuracy | shadow, mean ASR | best other, mean ASR | margin, mean | "
        "margin, least | over the free guess, least |",
        "|---|---|---|---|---|---|---|",
    ]
    for stage in sorted({row.training_steps for row in rows}):
        own = [row for row in rows if row.training_steps == stage]
        cells = [_means(own, cell, lambda row: row.asr) for cell in _cells(own)]
        shadow = [asr[SHADOW] for asr in cells]
        best = [asr[_best_other(asr)] for asr in cells]
        gaps = [a - b for a, b in zip(shadow, best, strict=True)]
        free = [asr[SHADOW] - asr[FREE] for asr in cells]
        lines.append(
            f"| {stage} | {_accuracy(own)} | {mean(shadow):.3f} | {mean(best):.3f} | "
            f"{mean(gaps):+.3f} | {min(gaps):+.3f} | {min(free):+.3f} |"
        )
    return "\n".join(lines)


def _accuracy(rows: list[Record]) -> str:
    found = {row.initialisation: row.model_accuracy or 0.0 for row in rows}.values()
    return f"{min(found):.2f} to {max(found):.2f}"


def _title(rows: list[Record]) -> str:
    first = rows[0]
    models = len({row.initialisation for row in rows})
    trials = len({row.trial for row in rows})
    return (
        f"**{first.data}, {first.model} ({first.extra['activation']}), {first.training_steps} "
        f"training steps, accuracy {_accuracy(rows)}** "
        f"(K = {first.num_classes}, {models} models, {trials} batches a cell)"
    )


def _contest(rows: list[Record]) -> str:
    """Set the shadow attack beside LLG's family and the best other attack, a row a cell."""
    names = " | ".join(map(name_attack, _NAMED))
    lines = [
        f"| batches | N | {names} | best other | shadow | margin | advantage |",
        "|---|---|" + "---|" * (len(_NAMED) + 4),
    ]
    gaps = []
    for scheme, size in _cells(rows):
        asr = _means(rows, (scheme, size), lambda row: row.asr)
        best = _best_other(asr)
        gaps.append(asr[SHADOW] - asr[best])
        named = " | ".join(f"{asr[name]:.2f}" for name in _NAMED)
        gained = _means(rows, (scheme, size), lambda row: row.advantage or 0.0)[SHADOW]
        lines.append(
            f"| {scheme} | {size} | {named} | {asr[best]:.2f} {name_attack(best)} | "
            f"**{asr[SHADOW]:.2f}** | {gaps[-1]:+.3f} | {gained:.2f} |"
        )
    lines.append(
        f"\nMargin over the best other attack: mean {mean(gaps):+.3f}, least {min(gaps):+.3f}."
    )
    return "\n".join(lines)


def _everything(rows: list[Record]) -> str:
    """Write ASR and advantage of every attack in every cell."""
    cells = _cells(rows)
    lines = [
        "| ASR (advantage) | " + " | ".join(f"{s}, {n}" for s, n in cells) + " |",
        "|---|" + "---|" * len(cells),
    ]
    asr = [_means(rows, cell, lambda row: row.asr) for cell in cells]
    gained = [_means(rows, cell, lambda row: row.advantage or 0.0) for cell in cells]
    for name in sorted({row.attack for row in rows}, key=ATTACKS.index):
        entries = (
            f"{a[name]:.2f} ({g[name]:.2f})" if name in a else "-"
            for a, g in zip(asr, gained, strict=True)
        )
        lines.append(f"| {name_attack(name)} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def _cells(rows: list[Record]) -> list[_Cell]:
    return list(dict.fromkeys((row.scheme, row.batch_size) for row in rows))


def _means(rows: list[Record], cell: _Cell, value: Callable[[Record], float]) -> dict[str, float]:
    """Average a value over the trials of a cell, attack by attack."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if (row.scheme, row.batch_size) == cell:
            found.setdefault(row.attack, []).append(value(row))
    return {name: mean(values) for name, values in found.items()}


def _best_other(asr: dict[str, float]) -> str:
    return max((name for name in asr if name != SHADOW), key=lambda name: asr[name])


__all__ = ["QUICK", "make_shadow_table", "margins", "plan_shadow", "run_shadow"]
