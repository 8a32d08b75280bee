"""The command `attack`, which says which labels one given update gives away."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from labelleak.audits.options import Learnt
from labelleak.audits.update_options import ModelOptions, UpdateOptions
from labelleak.cli.options import FullPaths, command
from labelleak.cli.results import Json
from labelleak.cli.terminal import command_line, say
from labelleak.core.training import LocalTraining
from labelleak.errors import BadInput, printable, shown
from labelleak.records.options import Option, Options
from labelleak.records.states import State

if TYPE_CHECKING:
    from labelleak.audits.answers import UpdateReport
    from labelleak.audits.standing import Standing
    from labelleak.core.answers import AttackResult

# Classes that a row of the table lists at most.
_MANY = 12


@dataclass(frozen=True, kw_only=True)
class AttackRun(Options):
    """What is kept and what is printed."""

    learnt: Learnt = None
    json: Json = False
    save: Annotated[Path | None, Option("Append a record an attack here; needs `truth`.")] = None
    keep_counts: Annotated[bool, Option("Write counts into the records; private!")] = False
    dense: Annotated[bool, Option("Tell all classes in `json`, also above 1,000.")] = False
    tokenizer: Annotated[
        str | None, Option("tokenizer.json or vocab.json, whose strings are told with tokens.")
    ] = None
    full_paths: FullPaths = False


@command
def attack(
    options: UpdateOptions, training: LocalTraining, model: ModelOptions, place: AttackRun
) -> None:
    """Attack one update: which labels do these very weights or gradients give away?"""
    from labelleak.audits.one_update import attack_update
    from labelleak.core.seeding import use_threads
    from labelleak.files.fit_cache import FolderFitCache
    from labelleak.records.files import lock_of
    from labelleak.records.record import append_records

    if place.save is not None and options.truth is None:
        raise BadInput(
            "`save` needs `truth`: a record says how right an answer was, and without the truth "
            "nobody knows; keep the output of `json` instead"
        )
    use_threads(1)
    report = attack_update(
        **vars(options),
        made=training,
        model=model,
        fit_cache=FolderFitCache(place.learnt, _tell),
    )
    if place.save is not None:
        records = report.records(
            command=command_line(place.full_paths), keep_counts=place.keep_counts
        )
        with lock_of(place.save.with_name(f".{place.save.name}.lock")):
            append_records(place.save, records)
    if place.json:
        told = report.to_json(dense=place.dense, names=_names(report, place.tokenizer))
        print(json.dumps(told, allow_nan=False))
    else:
        _show(report, place.save, _names(report, place.tokenizer))


def _names(report: UpdateReport, tokenizer: str | None) -> tuple[str, ...] | None:
    from labelleak.files.vocabulary import read_vocabulary

    return None if tokenizer is None else read_vocabulary(tokenizer, report.num_classes)


def _tell(what: str) -> None:
    if what:
        print(f"{what} ...", file=sys.stderr)


def _show(report: UpdateReport, save: Path | None, names: Sequence[str] | None) -> None:
    from rich.console import Console
    from rich.table import Table

    from labelleak.audits.answers import MOST_DENSE

    console = Console()
    _open(report)
    _warn(report)
    scored = report.truth is not None
    table = Table("attack", "attacker holds", "labels guessed (class: count, confidence)")
    tells = any(result.expected_asr is not None for result in report.results)
    if tells:
        table.add_column("expected right", justify="right")
    if scored:
        table.add_column("right", justify="right")
        table.add_column("advantage", justify="right")
    for result in report.results:
        told = [] if not tells else [_expected(result)]
        table.add_row(
            result.attack,
            result.threat_model,
            _guessed(result, names),
            *told,
            *_score(result, scored),
        )
    console.print(table, markup=False)
    if report.truth is not None and report.num_classes <= MOST_DENSE:
        counts = report.truth.counts.tolist()
        there = counts[1::2] if report.task == "multilabel" else counts
        print(f"True counts: {there}")
    if report.asr_free is not None:
        print(
            f"A guess without the update names {report.asr_free:.1%} of the labels on average "
            f"(batches drawn {report.scheme}); only what is above it was leaked."
        )
    if report.asr_of_guess is not None:
        print(
            f"Of this batch it names {report.asr_of_guess:.1%}: one batch's score is partly luck, "
            "and an advantage over the average is, too."
        )
    print("Confidence: the attack's own score scaled to 0..1 within this update; no probability.")
    if tells:
        print("Where the attack says what share it expects right: the probability of the class.")
    _show_scope(report)
    if save is not None:
        say(f"records  {save}")


def _open(report: UpdateReport) -> None:
    """Say what was read: the head, K, N and the steps."""
    size = "unknown" if report.num_samples is None else report.num_samples
    steps = f"{report.made.local_steps or 1} local step(s)"
    if "steps_unknown" in report.told_doubts:
        steps = "1 local step (assumed)"
    print(
        f"{printable(report.source)}: head {shown(report.head or '(the model itself)')} "
        f"({printable(report.head_found)}), "
        f"{report.num_classes} classes, {size} labels, {steps}"
    )


def _warn(report: UpdateReport) -> None:
    """Say what makes the answers void or part of them wrong."""
    if report.disbelief:
        say(f"Verdict: {report.disbelief}. What to do stands below.")
    if report.caution:
        say(f"Caution: {report.caution}.")
    taken = _open_ones(report)
    said = [f"{' and '.join(taken)}, taken as told"] if taken else []
    said += [f"the loss: {report.assumed_loss}"] if report.assumed_loss else []
    if said and not report.disbelief:
        say(f"Not verified: {'; '.join(said)}; if wrong, so are the counts.")


def _open_ones(report: UpdateReport) -> list[str]:
    """Name what was taken as told, and nothing verified."""
    known = {"scale": report.scale, "sign": report.sign}
    return [name for name, one in known.items() if one.state is State.not_known]


def _guessed(result: AttackResult, names: Sequence[str] | None) -> str:
    there = [(k, n) for k, n in enumerate(result.counts) if n]
    first = nsmallest(_MANY, there, lambda pair: (-pair[1], -result.confidence[pair[0]], pair[0]))
    guess = result.threat_model == "none"  # no look at the update, so no confidence from it
    called = [k if names is None else f"{k} {shown(names[k])}" for k, _ in first]
    words = [
        f"{name}: {n}" if guess else f"{name}: {n} ({result.confidence[k]:.2f})"
        for name, (k, n) in zip(called, first, strict=True)
    ]
    more = [f"{len(there) - _MANY} more"] if len(there) > _MANY else []
    return ", ".join([*words, *more])


def _expected(result: AttackResult) -> str:
    return "" if result.expected_asr is None else f"{result.expected_asr:.1%}"


def _score(result: AttackResult, scored: bool) -> list[str]:
    if not scored or result.asr is None:
        return []
    gained = "-" if result.advantage is None else f"{result.advantage:+.2f}"
    return [f"{result.asr:.1%}", gained]


def _standing(standing: Standing) -> str:
    return f"{standing.state.replace('_', ' ')}; {standing.says}"


def _show_scope(report: UpdateReport) -> None:
    """Say what was checked, what did not hold, and who could not answer."""
    from labelleak.records.flags import FLAGS
    from labelleak.report.remedies import group_reasons

    say(f"\nScale: {_standing(report.scale)}")
    say(f"Sign: {_standing(report.sign)}")
    by_state: dict[str, list[str]] = {}
    for name, found in report.checked.items():
        by_state.setdefault(found["state"], []).append(name)
    failed = by_state.pop("failed", [])
    print(f"Assumptions checked: {', '.join([*by_state.get('held', []), *failed])}")
    for name in failed:
        concerned = [result.attack for result in report.results if name in result.flags]
        if concerned:
            of = f"{FLAGS[name].advice} (for {', '.join(concerned)})"
            say(f"  did not hold: {name}: {FLAGS[name].says}; {of}")
        else:
            say(f"  did not hold, and no row assumes it: {name}: {FLAGS[name].says}")
    if not failed:
        print("  these held")
    for state in ("repaired", "not_known"):
        if state in by_state:
            print(f"{state.capitalize().replace('_', ' ')}: {', '.join(by_state[state])}")
    for why in group_reasons(report.not_applicable):
        say(f"Not applicable: {why}")
    for note in report.notes:
        say(f"Note: {note}")
    _say_rows(report)


def _say_rows(report: UpdateReport) -> None:
    """Say which rows to read: those that nothing concerns but what concerns every row."""
    rows = [one for one in report.results if one.threat_model != "none"]
    shared = set.intersection(*({*one.flags} for one in rows)) if rows else set()
    best = [one.attack for one in rows if {*one.flags} == shared]
    audit = "an audit of the same model and data tells which is right most often"
    open_ones = _open_ones(report)
    were = "were" if len(open_ones) > 1 else "was"
    taken = f"; {' and '.join(open_ones)} {were} taken as told" if open_ones else ""
    nothing = "nothing that could be checked of what" if taken else "nothing that"
    if report.disbelief:
        said = "none, for the reason above the table"
    elif shared == {"several_local_steps"}:
        held = report.model != "unknown"
        give = "name them in `attacks`" if held else "give `model` and `auxiliary`"
        said = (
            "none without doubt, since each assumes one step; interpolation, soft_label_shares and "
            f"client_simulation follow the steps: {give}"
        )
    elif shared:
        said = (
            f"each assumes something that failed ({', '.join(sorted(shared))}), so none without "
            f"doubt; {audit}"
        )
        if len(best) < len(rows):
            said = f"{', '.join(best)}, once it is settled what failed for each row: {said}"
    elif best and len(best) < len(rows):
        said = f"{', '.join(best)}, since {nothing} they assume failed{taken}"
    elif best:
        said = f"{nothing} any of them assumes failed{taken}; {audit}"
    else:
        said = f"each assumes something that failed, so none without doubt; {audit}"
    say(f"Which row to read: {said}.")
