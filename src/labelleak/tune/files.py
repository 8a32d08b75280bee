"""Write what a search for a defense found: for machines, for readers, and as a picture."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from labelleak.defenses import parse_defense
from labelleak.defenses.describe import describe_defense
from labelleak.records.files import write_whole
from labelleak.records.provenance import VERSION, bare
from labelleak.records.record import Record
from labelleak.report import wording
from labelleak.report.markdown import table
from labelleak.report.tradeoffs import Place, draw_tradeoffs
from labelleak.tune.answers import Answer, Confirmed, Missed, Point
from labelleak.tune.leaks import PHASE
from labelleak.tune.measurements import FRESH, NONE, SEARCH, MeanCost, Measurements
from labelleak.tune.options import TuneOptions
from labelleak.tune.words import audit_command, caveats, say_answer, say_leak, say_readers


def write_answer(
    answer: Answer, measured: Measurements, out: Path, *, command: str, full_paths: bool = False
) -> None:
    """Write tune.json, tune.md and tune.svg, and costs into the records.

    Raises:
        BadInput: if a file cannot be written.
    """
    options = measured.options
    costs = _costs(answer)
    proved = cache(lambda label: describe_defense(parse_defense(label), rounds=options.rounds))
    measured.journal.amend(lambda row: _with_cost(row, costs, proved(row.defense)))
    shown = out if full_paths else Path(bare(out))
    options = options if full_paths else replace(options, data=bare(options.data))
    tree = describe_answer(answer, options, shown, command=command)
    write_whole(out / "tune.json", json.dumps(tree, indent=1, allow_nan=False) + "\n")
    write_whole(out / "tune.svg", draw_answer(answer, options))
    write_whole(out / "tune.md", "\n".join(_page(answer, options, shown, command)) + "\n")


def describe_answer(
    answer: Answer, options: TuneOptions, out: Path, *, command: str
) -> dict[str, Any]:
    """Return all that was found as plain JSON."""
    chosen = answer.recommended
    return {
        "labelleak": VERSION,
        "command": command,
        "options": asdict(options),
        "met": chosen is not None,
        "sentence": say_answer(answer, options),
        "recommended": _confirmed(chosen, options, out) if chosen else None,
        "closest": _point(answer.closest, options) if answer.closest else None,
        "surpassed": [_confirmed(one, options, out) for one in answer.surpassed],
        "missed": [_missed(one, options) for one in answer.missed],
        "front": [point.label for point in answer.front],
        "baseline": _point(answer.baseline, options),
        "points": [_point(point, options) for point in answer.points],
        "grid": _grid(answer, options, out),
    }


def _grid(answer: Answer, options: TuneOptions, out: Path) -> dict[str, Any] | None:
    if not answer.grid_points:
        return None
    best = _confirmed(answer.grid, options, out) if answer.grid else None
    return {"points": answer.grid_points, "best": best}


def _point(point: Point, options: TuneOptions) -> dict[str, Any]:
    return {
        "defense": point.label,
        "family": point.family,
        "leak": point.leak.to_json(),
        "cost": point.cost.to_json() if point.cost else None,
        "head_is_shared": not parse_defense(point.label).hides_head,
        "every_layer_attacked": point.attacked,
        **_privacy(point.label, options),
    }


def _confirmed(one: Confirmed, options: TuneOptions, out: Path) -> dict[str, Any]:
    return {
        "defense": one.point.label,
        "search": _point(one.point, options),
        "fresh": {
            "seed": one.seed,
            "leak": one.leak.to_json(),
            "without": one.without.to_json(),
            "cost": one.cost.to_json(),
        },
        "command": audit_command(one.point.label, options, one.seed, out),
        "caveats": caveats(one.point.label, options),
    }


def _missed(one: Missed, options: TuneOptions) -> dict[str, Any]:
    return {
        "defense": one.point.label,
        "search": _point(one.point, options),
        "fresh": {
            "seed": one.seed,
            "leak": one.leak.to_json() if one.leak else None,
            "cost": one.cost.to_json() if one.cost else None,
        },
    }


def _privacy(label: str, options: TuneOptions) -> dict[str, Any]:
    """Return epsilon over all rounds with its method, recomputed from the defense itself."""
    said = describe_defense(parse_defense(label), rounds=options.rounds)
    return {"epsilon": said.get("epsilon"), "epsilon_method": said.get("epsilon_method", "none")}


def _with_cost(
    row: Record, costs: Mapping[tuple[str, str], MeanCost], proved: Mapping[str, Any]
) -> Record:
    """Add what is proved over all rounds, and what was paid on the seeds of the same phase."""
    more = dict(proved)
    cost = costs.get((row.defense, str(row.extra[PHASE])))
    if cost is not None:
        more |= {
            "accuracy_cost": round(cost.loss, 6),
            "wire_bytes": round(cost.wire_bytes, 1),
            "seconds_ratio": round(cost.seconds_ratio, 3),
        }
    return replace(row, extra={**row.extra, **more})


def _costs(answer: Answer) -> dict[tuple[str, str], MeanCost]:
    """Gather what was paid by defense and phase; no defense costs nothing in any."""
    found = {(p.label, SEARCH): p.cost for p in (answer.baseline, *answer.points)}
    confirmed: list[Confirmed | Missed] = [*answer.missed, *answer.surpassed]
    confirmed += [one for one in (answer.recommended, answer.grid) if one]
    found |= {(one.point.label, FRESH): one.cost for one in confirmed}
    baseline = answer.baseline.cost
    if baseline is not None:
        found.setdefault((NONE, FRESH), replace(baseline, loss=0.0))
    return {place: cost for place, cost in found.items() if cost is not None}


def draw_answer(answer: Answer, options: TuneOptions) -> str:
    """Draw what was trained with, the front, and the recommended setting on fresh seeds."""
    places = [_place(p) for p in (answer.baseline, *answer.points) if p.cost]
    chosen = answer.recommended
    circled = None
    if chosen is not None:
        circled = _place(chosen.on_fresh_seeds)
    budget, plain = options.accuracy_budget, answer.baseline.cost
    return draw_tradeoffs(
        places,
        front=[point.label for point in answer.front],
        chosen=circled,
        target=options.target_advantage,
        least_accuracy=plain.accuracy - budget if plain and budget is not None else None,
        title=f"{options.data}, {options.model}, {options.batch_size} labels "
        f"({options.scheme}); attacker: {wording.SHORT_SERVERS[options.attacker]}",
    )


def _place(point: Point) -> Place:
    assert point.cost is not None
    gained = point.leak.advantage
    family = "" if point.label == NONE else point.family
    ends = (gained.mean, gained.low, gained.high)
    return Place(point.label, family, ends, point.cost.accuracy, point.attacked)


def _page(answer: Answer, options: TuneOptions, out: Path, command: str) -> Iterator[str]:
    yield from ("# The cheapest defense that works", "", say_answer(answer, options), "")
    chosen = answer.recommended
    if chosen is not None:
        audit = audit_command(chosen.point.label, options, chosen.seed, out)
        yield from ("Measure it again:", "", "```", audit, "```", "")
        said = caveats(chosen.point.label, options)
        if said:
            yield from ("What this does not cover:", "", *(f"- {one}" for one in said), "")
    yield from ("![leakage against accuracy](tune.svg)", "")
    yield _table(answer, options)
    for outcome, ones in (
        ("holds on fresh seeds too, and did worse there", answer.surpassed),
        ("held in the search and missed on fresh seeds", answer.missed),
    ):
        yield from (f"- {one.point.label} {outcome}: {_fresh(one, options)}" for one in ones)
    if answer.grid_points:
        best = f"`{answer.grid.point.label}`: {_fresh(answer.grid, options)}" if answer.grid else ""
        found = best or "none of them holds on fresh seeds"
        yield from ("", f"Best of a plain grid of {answer.grid_points} points: {found}.", "")
    yield from (
        "",
        "Accuracy and loss are means over federations of the same seeds with and without the "
        "defense. Intervals of the search were looked at many times, and attackers who know the "
        "defense took part on fresh seeds only; where it says at least, those that learn from "
        "batches of their own did, too. So the figures on fresh seeds speak of the recommended "
        "setting. " + say_readers(options),
        "",
        f"Made by `{command}`.",
    )


def _fresh(one: Confirmed | Missed, options: TuneOptions) -> str:
    said = []
    if one.leak:
        said.append(f"advantage {say_leak(one.leak, options)}")
    if one.cost:
        said.append(f"accuracy {wording.share(one.cost.accuracy)}")
        said.append(f"loss {100 * one.cost.loss:.1f} points")
    target = options.target_advantage
    held = target is not None and one.leak is not None and one.leak.bound <= target
    if isinstance(one, Missed) and one.cost and held:
        said.append("which leaves less than half of what the model learns")
    return ", ".join(said)


def _table(answer: Answer, options: TuneOptions) -> str:
    front = {point.label for point in answer.front}
    heads = ["defense", "advantage (95 % interval)", "attacker", "accuracy", "loss", "bytes"]
    rows = []
    for point in (answer.baseline, *sorted(answer.points, key=lambda p: (p.family, p.leak.bound))):
        cost = point.cost
        cells = ["not trained with", "", "", ""]
        if cost:
            cells = [
                f"{wording.share(cost.accuracy)}{_federations(cost, options)}",
                f"{100 * cost.loss:.1f}",
                f"{cost.wire_bytes:,.0f}",
                f"{cost.seconds_ratio:.2f}",
            ]
        attacker = point.leak.attacker if point.attacked else "of the head alone"
        row = [f"`{point.label}`", say_leak(point.leak, options), attacker]
        rows.append([*row, *cells, "yes" if point.label in front else ""])
    return table([*heads, "time", "front"], rows)


def _federations(cost: MeanCost, options: TuneOptions) -> str:
    few = cost.federations < options.repeats
    return f" ({cost.federations} of {options.repeats} federations)" if few else ""


__all__ = ["describe_answer", "draw_answer", "write_answer"]
