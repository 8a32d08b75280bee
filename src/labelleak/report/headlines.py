"""Choose the cells that a report opens with, and say them in plain words."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from labelleak.records.cells import Cell
from labelleak.records.intervals import Interval
from labelleak.records.record import THREAT_MODELS
from labelleak.report import wording

HEADLINE_BATCH_SIZE = 32


def nearest_batch_size(cells: Iterable[Cell], wanted: int = HEADLINE_BATCH_SIZE) -> int:
    """Return the tested batch size nearest to the wanted one in ratio; the smaller on a tie.

    Raises:
        ValueError: if there are no cells.
    """
    sizes = sorted({cell.batch_size for cell in cells})
    return min(sizes, key=lambda size: abs(math.log2(size / wanted)))


def strongest(cells: Iterable[Cell]) -> Cell:
    """Return the cell that is worst for the client, by `harm`; of equals, the first.

    Raises:
        ValueError: if there are no cells.
    """
    return max(cells, key=lambda cell: (*harm(cell.advantage), cell.asr.mean))


def harm(advantage: Interval | None) -> tuple[float, float]:
    """Rank an advantage as every page, gate and terminal does: by its upper end, then its mean.

    >>> harm(None) < harm(Interval(0.3, 0.2, 0.4)) < harm(Interval(0.2, 0.0, 0.5))
    True
    """
    return (-math.inf, -math.inf) if advantage is None else (advantage.high, advantage.mean)


def case_of(cell: Cell) -> tuple[object, ...]:
    """Return all that a cell is of but the attacker."""
    key = cell.sort_key
    return (*key[:3], key[4])


def headline_cells(cells: Sequence[Cell]) -> list[Cell]:
    """Return each threat model's worst cell, weakest attacker first.

    The batch size is 32 where it was tested, else the nearest; the cell is that of the stage
    and scheme that are worst for the client.

    Args:
        cells: the strongest attackers' cells, as `worst_cases` gives them.
    """
    chosen = []
    for threat_model in THREAT_MODELS[1:]:
        own = [cell for cell in cells if cell.threat_model == threat_model]
        if own:
            size = nearest_batch_size(own)
            chosen.append(strongest(cell for cell in own if cell.batch_size == size))
    return chosen


def judged_cells(cells: Sequence[Cell]) -> list[Cell]:
    """Return each server's cell in the one case that is judged, weakest server first.

    That is the worst of `headline_cells`. A server that was not tried in it has its own worst case.

    Args:
        cells: the strongest attackers' cells, as `worst_cases` gives them.
    """
    chosen = headline_cells(cells)
    if not chosen:
        return []
    case = case_of(strongest(chosen))
    same = {cell.threat_model: cell for cell in cells if case_of(cell) == case}
    return [same.get(cell.threat_model, cell) for cell in chosen]


def verdict_cells(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cell per threat model, setting, stage and scheme that the page judges by.

    Each is taken at batch size 32, or at the nearest that was tested there.

    Args:
        cells: the strongest attackers' cells, as `worst_cases` gives them.
    """
    groups: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[(THREAT_MODELS.index(cell.threat_model), *cell.sort_key[:3])].append(cell)
    chosen = []
    for _, group in sorted(groups.items(), key=lambda item: item[0]):
        size = nearest_batch_size(group)
        chosen.append(strongest(cell for cell in group if cell.batch_size == size))
    return chosen


def headline(cells: Sequence[Cell]) -> list[str]:
    """Return the outcome in plain words, one text per threat model that was tested.

    Args:
        cells: the strongest attackers' cells, as `worst_cases` gives them.

    >>> headline([])
    ['No attack that reads the update was run, so no leak was measured.']
    """
    chosen = judged_cells(cells)
    if not chosen:
        return ["No attack that reads the update was run, so no leak was measured."]
    return [f"{sentence(cell)} {detail(cell, cells)}" for cell in chosen]


def say_named(
    threat_model: str, what: str, asr: float, free: float, labels: int | None
) -> tuple[str, str, str, str]:
    """Return what a server names in four pieces, of which the second and fourth are the numbers.

    Args:
        threat_model: what the server holds.
        what: the labels that it was to name, in words.
        asr: the share that it names.
        free: the share that the best guess without the update names.
        labels: how many there are; None where updates differ in that.
    """
    server = wording.SERVERS[threat_model]
    if labels == 1:
        return (
            f"The single label of a batch is named by {server} in ",
            f"{wording.share(asr)} of trials",
            "; the best guess without the update names it in ",
            wording.share(free),
        )
    named, guessed = (
        wording.share(rate) if labels is None else wording.labels_named(rate, labels)
        for rate in (asr, free)
    )
    average = "" if asr in (0.0, 1.0) or labels is None else " on average"
    return (
        f"Of {what}, {server} names ",
        named,
        f"{average}; the best guess without the update names ",
        guessed,
    )


def sentence(cell: Cell) -> str:
    """Return how many labels of a batch an attacker names, beside the guess without the update."""
    parts = say_named(cell.threat_model, labels_of(cell), cell.asr.mean, cell.free, cell.num_labels)
    return "".join(parts) + "."


def detail(cell: Cell, cells: Sequence[Cell]) -> str:
    """Return which attack, stage and scheme a headline is about, and out of how many."""
    rivals = [
        other
        for other in cells
        if (other.threat_model, other.batch_size) == (cell.threat_model, cell.batch_size)
    ]
    who = wording.name_attacker(cell)
    who = wording.capital(who) if who == wording.NO_ATTACK else who
    where = (
        f"{who}, "
        f"{wording.name_stage(cell.training_steps, cell.init)}, scheme {cell.scheme} "
        f"({wording.name_setting(cell.setting)}): advantage {_advantage(cell)}"
    )
    if len(rivals) > 1 and cell == strongest(rivals):
        where += (
            f", the worst for the client of {_name_rivals(rivals)} tested for this attacker at "
            "this batch size"
        )
    return f"{where}. {caution(cell)}".rstrip()


_RIVALS: dict[str, tuple[str, Callable[[Cell], Any]]] = {
    "scheme": ("schemes", lambda cell: cell.scheme),
    "training": ("stages of training", lambda cell: cell.training_steps),
    "labels": ("numbers of labels", lambda cell: (cell.num_samples, cell.num_classes)),
    "local steps": ("numbers of local steps", lambda cell: cell.local_steps),
    "defense": ("defenses", lambda cell: cell.defense),
    "model": ("models", lambda cell: (cell.data, cell.model, cell.init)),
    "conditions": ("conditions", lambda cell: cell.condition),
}


def _name_rivals(cells: Sequence[Cell]) -> str:
    """Return of how many cells this one is the worst, and how they differ."""
    differ = [name for name, (_, of) in _RIVALS.items() if len({of(cell) for cell in cells}) > 1]
    if differ == ["defense"] and "none" in {cell.defense for cell in cells}:
        return f"{len(cells)} cases (no defense and {wording.count(len(cells) - 1, 'defense')})"
    if len(differ) == 1:
        return f"{len(cells)} {_RIVALS[differ[0]][0]}"
    named = f"combinations of {', '.join(differ[:-1])} and {differ[-1]}" if differ else "cases"
    return f"{len(cells)} {named}"


def caution(cell: Cell) -> str:
    """Return what an advantage near or below zero does not mean, and what nobody knows of it."""
    return " ".join(filter(None, (wording.doubt(cell), near_zero(cell.advantage, cell.trials))))


def near_zero(advantage: Interval | None, trials: int) -> str:
    """Return what an advantage near or below zero does not mean; nothing for any other."""
    if advantage is None:
        return "The labels are certain without any update here, so this cell measures no leak."
    if advantage.high < 0:
        return "That is worse than guessing: it shows weak attacks, not a safe system."
    if 0 in advantage and trials > 1:
        return "The interval includes 0: this attacker showed no leak, and ruled none out."
    return ""


def _advantage(cell: Cell) -> str:
    if cell.trials == 1:
        return f"{wording.span(cell.advantage, 1)} in a single trial, so without an interval"
    return wording.span(cell.advantage, cell.trials, wording.INTERVAL)


def say_images(judged: Cell | None) -> str:
    """Say what the pooled counts of several images tell of one of them."""
    if judged is None or judged.asr_image is None or judged.asr_image_free is None:
        return ""
    if judged.batch_size * judged.local_steps == 1:
        return ""
    own, free = (wording.share(share) for share in (judged.asr_image, judged.asr_image_free))
    return (
        f" Its images are pooled: of each one by itself that names {own} of the pixels, and a "
        f"guess without the update {free}."
    )


def labels_of(cell: Cell) -> str:
    """Say how many labels stand behind an update, and whose."""
    # Labels of several clients together come in an average of their updates.
    unit = {"dense": "pixels", "tokens": "tokens"}.get(cell.task)
    clients = _clients(cell) if unit is None else 1
    owners = f" of {clients} clients" if clients > 1 else ""
    what = f"{cell.num_samples} {unit or 'labels'}"
    if cell.task == "multilabel":
        what = (
            f"{cell.num_labels} labels ({wording.count(cell.num_classes, 'class')}, with or "
            f"without, of {wording.count(cell.num_samples, 'sample')})"
        )
    if cell.local_steps == 1:
        return f"{what} in {'the batches' if owners else 'a batch'}{owners}"
    return f"{what} in {cell.local_steps} local steps{owners}"


def _clients(cell: Cell) -> int:
    return cell.num_samples // (cell.batch_size * cell.local_steps)
