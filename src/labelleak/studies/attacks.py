"""Every attack beside every other: one step, untrained and trained, from small to large batches."""

from __future__ import annotations

from collections.abc import Iterable

from labelleak.attacks import RULES
from labelleak.audits.options import check_options
from labelleak.audits.plan import Plan, plan_audit
from labelleak.records.record import Record
from labelleak.report import Cell, tabulate, worst_cases
from labelleak.report.wording import name_attack, name_attacker
from labelleak.simulation.data.datasets import load_dataset
from labelleak.simulation.roles import divide

SIZES = (1, 8, 24, 64, 256, 1024)
TRIALS, MODELS = 50, 5
ATTACKS = (*RULES, "rlg")


def plan_table(data: str, model: str, *, seed: int, command: str) -> Plan:
    """Plan the audit behind the table.

    Batch sizes are 1, 8, 24, 64, 256 and 1,024, as far as the victims' data reach; models are
    untrained and trained for 500 steps; 50 trials are spread over 5 initialisations.

    Args:
        data: name or path of a data set.
        model: name of a model.
        seed: seed of everything random.
        command: the command, for the records.

    Raises:
        BadInput: for names that are unknown or files that cannot be read.
    """
    dataset = load_dataset(data)
    reach = len(divide(dataset.x_train, dataset.y_train, seed=seed).victims)
    options = check_options(
        data=data,
        model=model,
        batch_sizes=tuple(size for size in SIZES if size <= reach),
        schemes=("iid", "unbalanced"),
        attacks=ATTACKS,
        trials=TRIALS,
        initialisations=MODELS,
        training_steps=(0, 500),
        seed=seed,
    )
    return plan_audit(options, data=dataset, command=command)


def make_table(records: Iterable[Record]) -> str:
    """Write records as Markdown tables, one per training stage and scheme.

    Each entry is ASR, then the shares of classes with the right presence (LeAcc) and with exactly
    the right count (LnAcc), as iLRG's authors count them: both include classes rightly called
    absent, so the free guess stands beside them too.
    """
    rows = list(records)
    cells, worst = tabulate(rows), worst_cases(rows)
    places = dict.fromkeys((c.data, c.model, c.training_steps, c.scheme) for c in cells)
    return "\n\n".join(
        _place(
            [c for c in cells if (c.data, c.model, c.training_steps, c.scheme) == place],
            [c for c in worst if (c.data, c.model, c.training_steps, c.scheme) == place],
        )
        for place in places
    )


def _place(cells: list[Cell], worst: list[Cell]) -> str:
    first = cells[0]
    accuracy = "" if first.model_accuracy is None else f", accuracy {first.model_accuracy:.2f}"
    sizes = sorted({cell.batch_size for cell in cells})
    lines = [
        f"**{first.data}, {first.model}, {first.training_steps} training steps{accuracy}, "
        f"{first.scheme}** (K = {first.num_classes}; ASR / LeAcc / LnAcc)",
        "",
        "| attack | needs | " + " | ".join(f"N = {size}" for size in sizes) + " |",
        "|---|---|" + "---|" * len(sizes),
    ]
    for attack in dict.fromkeys(cell.attack for cell in cells):
        own = {cell.batch_size: cell for cell in cells if cell.attack == attack}
        entries = [_entry(own.get(size)) for size in sizes]
        needs = next(iter(own.values())).threat_model
        lines.append(f"| {name_attack(attack)} | {needs} | " + " | ".join(entries) + " |")
    for threat_model in dict.fromkeys(cell.threat_model for cell in worst):
        best = {cell.batch_size: cell for cell in worst if cell.threat_model == threat_model}
        entries = [_advantage(best.get(size)) for size in sizes]
        lines.append(f"| advantage of the strongest | {threat_model} | {' | '.join(entries)} |")
    return "\n".join(lines)


def _entry(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    parts = (cell.asr.mean, cell.presence_accuracy, cell.count_accuracy)
    return " / ".join("-" if part is None else f"{part:.2f}" for part in parts)


def _advantage(cell: Cell | None) -> str:
    if cell is None or cell.advantage is None:
        return "-"
    gained = cell.advantage
    return f"{gained.mean:.2f} ({gained.low:.2f} to {gained.high:.2f}) {name_attacker(cell)}"
