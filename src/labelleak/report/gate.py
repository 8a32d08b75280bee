"""Judge records by a policy: one finding per rule and cell; what shows nothing passes nothing.

An advantage is judged by the upper end of its 95 % interval, so that few trials make a gate
harder to pass and not easier, and by the strongest attacker of the threat model, chosen on other
models than it is measured on, so that neither a weak attack nor a lucky one decides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from labelleak.errors import few
from labelleak.records.cells import Cell, tabulate
from labelleak.records.columns import ABSENT
from labelleak.records.flags import FLAGS
from labelleak.records.frame import RecordFrame
from labelleak.records.mixing import say_mixed
from labelleak.records.record import Record
from labelleak.records.repeats import count_once
from labelleak.records.strongest import worst_cases
from labelleak.report import wording
from labelleak.report.actions import LEFT, follow_actions, say_withheld
from labelleak.report.gate_standing import Finding, judge_standing
from labelleak.report.layer_leaks import split_layers
from labelleak.report.policy import Cells, Policy
from labelleak.report.unread import find_unread, say_unread

_KEYS = {
    "batch_sizes": "batch_size",
    "schemes": "scheme",
    "local_steps": "local_steps",
    "training_steps": "training_steps",
    "defenses": "defense",
    "rounds": "round",
    "clients": "client",
    "defended": "defended",
    "left": "left",
}


def judge(records: Iterable[Record], policy: Policy) -> list[Finding]:
    """Judge records by every rule of a policy, in every cell that the policy names.

    Raises:
        BadInput: if two records of one trial disagree.
    """
    rows = RecordFrame.of(count_once(records))
    mixed = say_mixed(rows)
    findings = [Finding("one_run", "all", False, mixed)] if mixed else []
    findings += _missing(rows, policy.cells)
    if withheld := say_withheld(follow_actions(rows)):
        judged = "are judged, too; [cells] left = true leaves them out"
        if policy.cells.left is not None:
            judged = "are not judged" if policy.cells.left else "alone are judged"
        findings.append(Finding("withheld", "all", True, f"{withheld} {judged}"))
    wishes = list(_wishes(policy.cells))
    kept = rows
    for key, asked in wishes:
        wanted = [place for place, value in enumerate(_values(kept, key)) if value in asked]
        kept = kept.take(wanted)
    if not kept:
        why = "the records hold nothing that the policy's [cells] ask for"
        return [*findings, Finding("records", "all", False, why)]
    if unread := find_unread(split_layers(kept)[0]):  # no client shares one layer alone
        findings.append(Finding("unread", "all", False, say_unread(unread)))
    for name, members in _parts(kept, policy.cells.per):
        findings += _judge_part(members, policy, name)
    return findings


def group(findings: Iterable[Finding]) -> list[Finding]:
    """Join findings of one rule that say the same, for people; the cell counts the others.

    >>> each = [Finding("on_unknown", f"batch size {n}", False, "not known") for n in (1, 8, 9)]
    >>> [one.cell for one in group(each)]
    ['batch size 1; and 2 more cells']
    """
    groups: dict[tuple[str, bool, str], list[str]] = defaultdict(list)
    for one in findings:
        groups[one.rule, one.passed, one.said].append(one.cell)
    return [
        Finding(rule, _cells(cells), passed, said) for (rule, passed, said), cells in groups.items()
    ]


def _cells(cells: Sequence[str]) -> str:
    more = len(cells) - 1
    return f"{cells[0]}; and {wording.count(more, 'more cell')}" if more else cells[0]


def _values(rows: RecordFrame, key: str) -> list[Any]:
    """Return what records hold under a key that a policy may name."""
    if key == "defended":
        told = rows.column(key)
        said = [ABSENT] * len(rows) if told is None else told.by_row()
        both = zip(said, rows.values("defense"), strict=True)
        return [defense != "none" if own is ABSENT else own for own, defense in both]
    if key == "left":  # nobody says it of what was simulated, or seen at the server
        return [a if a is None else a in LEFT for a in rows.values("action")]
    return rows.values(key)


def _wishes(cells: Cells) -> Iterator[tuple[str, list[Any]]]:
    for name, key in _KEYS.items():
        asked = getattr(cells, name)
        if asked is not None:
            yield key, asked if isinstance(asked, list) else [asked]


def _missing(rows: RecordFrame, cells: Cells) -> Iterator[Finding]:
    """Fail each value that the policy names and no record has."""
    for key, asked in _wishes(cells):
        values = _values(rows, key)
        for value in asked:
            if value not in values:
                yield Finding("cells", f"{key} {value}", False, f"no record has {key} {value}")


def _parts(rows: RecordFrame, per: Sequence[str]) -> list[tuple[str, RecordFrame]]:
    if not per:
        return [("", rows)]
    groups: dict[str, list[int]] = defaultdict(list)
    for place, values in enumerate(zip(*(_values(rows, key) for key in per), strict=True)):
        name = ", ".join(f"{key} {value}" for key, value in zip(per, values, strict=True))
        groups[name].append(place)
    return [(name, rows.take(members)) for name, members in sorted(groups.items())]


def _judge_part(frame: RecordFrame, policy: Policy, part: str) -> Iterator[Finding]:
    """Judge every cell of one round or client, or of all records."""
    # Of the attacks themselves intervals are judged only where nothing else bears a figure out.
    cells, worst = tabulate(frame, spans=any(frame.unsettled)), worst_cases(frame)
    places: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
    strongest: dict[tuple[Any, ...], dict[str, Cell]] = defaultdict(dict)
    for cell in cells:
        places[_place(cell)].append(cell)
    for cell in worst:
        strongest[_place(cell)][cell.threat_model] = cell
    for place, here in places.items():
        leaders = strongest[place]
        name = ", ".join(filter(None, [part, _name(here[0])]))
        for server, limit in policy.max_advantage.items():
            yield _judge_advantage(leaders.get(server), server, limit, policy.min_trials, name)
        for attack in policy.must_run:
            yield _judge_run(here, attack, policy.min_trials, name)
        yield from judge_standing(here, policy, name)
        for flag, share in policy.flags.items():
            yield _judge_flag(here, flag, share, policy.min_trials, name)


def _place(cell: Cell) -> tuple[Any, ...]:
    key = cell.sort_key
    return (*key[:3], key[4])


def _name(cell: Cell) -> str:
    size = f"batch size {cell.batch_size}"
    labels = f"{cell.num_samples} labels" if cell.num_samples != cell.batch_size else ""
    stage = wording.name_stage(cell.training_steps, cell.init)
    parts = [wording.name_setting(cell.setting), stage, f"scheme {cell.scheme}", size, labels]
    return ", ".join(filter(None, parts))


def _judge_advantage(
    cell: Cell | None, server: str, limit: float, trials: int, name: str
) -> Finding:
    rule = f"max_advantage.{server}"
    if cell is None:
        return Finding(rule, name, False, f"no attack of threat model {server} was run here")
    if cell.trials < trials:
        return Finding(rule, name, False, _too_few(cell.trials, trials))
    if cell.advantage is None:
        why = "the labels are certain without any update, so this cell measures no leak"
        return Finding(rule, name, False, f"{why}; leave it out by [cells]")
    who = wording.name_attacker(cell)
    all_pass = ", which allows everything" if limit >= 1 else ""
    said = (
        f"{who}{' on the guess:' if who == wording.NO_ATTACK else ' has'} advantage "
        f"{wording.span(cell.advantage, cell.trials)}, upper end "
        f"{cell.advantage.high:.3f}, limit {limit:g}{all_pass}; it names "
        f"{wording.share(cell.asr.mean)} of labels, the best guess without the update "
        f"{wording.share(cell.free)}"
    )
    return Finding(rule, name, cell.advantage.high <= limit, said.replace("\xa0", " "))


def _too_few(found: int, wanted: int) -> str:
    return f"{wording.count(found, 'trial')} here, the policy asks for {wanted}"


def _judge_run(cells: Sequence[Cell], attack: str, trials: int, name: str) -> Finding:
    rule = f"must_run.{attack}"
    found = max((cell.trials for cell in cells if cell.attack == attack), default=0)
    if not found:
        known = few(sorted({cell.attack for cell in cells}), 100)
        return Finding(rule, name, False, f"{attack} was not run here; run were: {known}")
    said = f"{attack} was run: {wording.count(found, 'trial')}"
    return Finding(
        rule, name, found >= trials, said if found >= trials else _too_few(found, trials)
    )


def _concerned(cell: Cell, flag: str) -> bool:
    """Return whether a flag concerns a cell's attack: as it is here, or else as records say."""
    from labelleak.attacks import ATTACKS  # loaded only where a policy names flags

    known = ATTACKS.get(cell.attack)
    if known or FLAGS[flag].breaks is None:
        return FLAGS[flag].concerns(known.card.assumes if known else ())
    return flag in (cell.concerned_by or ())


def _judge_flag(cells: Sequence[Cell], flag: str, share: float, trials: int, name: str) -> Finding:
    """Judge a flag by the attack that raised it most often."""
    rule, meaning = f"flags.{flag}", FLAGS[flag]
    able = [c for c in cells if c.threat_model != "none" and _concerned(c, flag)]
    raised = [(dict(cell.flags).get(flag, 0), cell) for cell in cells]
    looked = max((cell.trials for cell in able), default=0)
    most, cell = max(raised, key=lambda pair: pair[0] / pair[1].trials)
    found = most / cell.trials
    if found > share:
        said = f"{meaning.says}: {wording.share(found)} of trials, tolerated {share:.1%}"
        return Finding(rule, name, False, said.replace("\xa0", " "))
    if not looked:
        return Finding(rule, name, False, "no attack that the flag concerns was run here")
    if looked < trials:
        return Finding(rule, name, False, _too_few(looked, trials))
    said = f"raised in {wording.share(found)} of trials, tolerated {share:.1%}"
    return Finding(rule, name, True, said.replace("\xa0", " "))


__all__ = ["Finding", "group", "judge"]
