"""Every attack beside every other: one step, untrained and trained, from small to large batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from labelleak.attacks import RULES
from labelleak.audits.options import check_options
from labelleak.audits.run import Part, load_once
from labelleak.records.record import Record
from labelleak.report import Cell, tabulate, worst_cases
from labelleak.report.markdown import group, span, table
from labelleak.report.wording import name_attack, name_attacker
from labelleak.simulation.roles import divide
from labelleak.studies.study import Asked, Study

SIZES = (1, 8, 24, 64, 256, 1024)
ATTACKS = (*RULES, "rlg")


def plan_table(asked: Asked) -> list[Part]:
    """Plan the audit behind the table.

    Batch sizes are 1, 8, 24, 64, 256 and 1,024, as far as the victims' data reach; models are
    untrained and trained for 500 steps; 50 trials are spread over 5 initialisations.
    """
    options = check_options(
        data=asked.data,
        model=asked.model or "lenet",
        batch_sizes=within_reach(SIZES, asked),
        schemes=("iid", "unbalanced"),
        attacks=ATTACKS,
        trials=50,
        initialisations=5,
        training_steps=(0, 500),
        seed=asked.seed,
    )
    return [Part(options=options)]


def within_reach(sizes: Iterable[int], asked: Asked) -> tuple[int, ...]:
    """Keep the batch sizes that the victims' data reach.

    Raises:
        BadInput: for data that cannot be read.
    """
    data = load_once(asked.data)
    reach = len(divide(data.x_train, data.y_train, seed=asked.seed).victims)
    return tuple(size for size in sizes if size <= reach)


def make_table(records: Iterable[Record]) -> str:
    """Write records as Markdown tables, one per training stage and scheme.

    Each entry is ASR, then the shares of classes with the right presence (LeAcc) and with exactly
    the right count (LnAcc), as iLRG's authors count them: both include classes rightly called
    absent, so the free guess stands beside them too.
    """
    rows = list(records)
    worst = group(worst_cases(rows), _place)
    cells = group(tabulate(rows), _place)
    return "\n\n".join(_write(own, worst.get(place, [])) for place, own in cells.items())


def _place(cell: Cell) -> tuple[str, str, int, str]:
    return cell.data, cell.model, cell.training_steps, cell.scheme


def _write(cells: list[Cell], worst: list[Cell]) -> str:
    first = cells[0]
    accuracy = "" if first.model_accuracy is None else f", accuracy {first.model_accuracy:.2f}"
    sizes = sorted({cell.batch_size for cell in cells})

    def rows() -> Iterator[list[str]]:
        for attack, own in group(cells, lambda cell: cell.attack).items():
            here = {cell.batch_size: _entry(cell) for cell in own}
            yield [name_attack(attack), own[0].threat_model, *(here.get(n, "-") for n in sizes)]
        for needs, own in group(worst, lambda cell: cell.threat_model).items():
            here = {cell.batch_size: say_advantage(cell) for cell in own}
            yield ["advantage of the strongest", needs, *(here.get(n, "-") for n in sizes)]

    title = (
        f"**{first.data}, {first.model}, {first.training_steps} training steps{accuracy}, "
        f"{first.scheme}** (K = {first.num_classes}; ASR / LeAcc / LnAcc)"
    )
    return table(["attack", "needs", *(f"N = {size}" for size in sizes)], rows(), title=title)


def _entry(cell: Cell) -> str:
    parts = (cell.asr.mean, cell.presence_accuracy, cell.count_accuracy)
    return " / ".join("-" if part is None else f"{part:.2f}" for part in parts)


def say_advantage(cell: Cell) -> str:
    """Write the strongest attacker's advantage with its name."""
    return "-" if cell.advantage is None else f"{span(cell.advantage)} {name_attacker(cell)}"


STUDY = Study(
    parts=plan_table,
    report=lambda found: {"attacks.md": make_table(found.records)},
    takes=frozenset({"model"}),
)
