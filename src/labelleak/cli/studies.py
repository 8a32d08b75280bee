"""The experiments of `labelleak paper` that are no grid of audits, one function each."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from labelleak.audits.options import Data, Seed
from labelleak.cli.options import OUT, Overwrite
from labelleak.cli.terminal import command_line, interruptible, progress_bar, say_remarks
from labelleak.errors import BadInput
from labelleak.records.options import Option, Options
from labelleak.studies.registry import STUDIES

if TYPE_CHECKING:
    from labelleak.report.gallery import Exhibit


@dataclass(frozen=True, kw_only=True)
class Asked(Options):
    """What is asked of an experiment."""

    out: Annotated[Path, Option("Folder for figures, tables and records.")] = OUT
    data: Data = "digits"
    quick: Annotated[bool, Option("A coarse version, all in a few minutes.")] = False
    model: Annotated[
        str | None, Option("Model of attacks, shadow, shadow_studies; lenet if left out.")
    ] = None
    defenses: Annotated[
        tuple[str, ...] | None,
        Option("What defenses and compression_finding compare, comma-separated; all if left out."),
    ] = None
    seed: Seed = 0
    overwrite: Overwrite = False

    @property
    def network(self) -> str:
        """The model that was asked for, or LeNet."""
        return self.model or "lenet"

    def refuse_all_but(self, taken: Collection[str], name: str) -> None:
        """Refuse options that mean nothing to an experiment.

        Raises:
            BadInput: naming the first one.
        """
        for option in ("model", "quick", "overwrite", "defenses"):
            if getattr(self, option) and option not in taken:
                raise BadInput(f"the experiment {name!r} takes no `{option}`; leave it out")


def run_study(name: str, asked: Asked) -> None:
    """Run a study by name.

    Raises:
        BadInput: for an option that means nothing to it, and whatever the study refuses.
    """
    asked.refuse_all_but(STUDIES[name].takes, name)
    RUNS[name](asked)


def _signals(asked: Asked) -> None:
    show_signals(asked.out, asked.data, asked.seed)


def show_signals(out: Path, data: str, seed: int) -> Exhibit:
    """Draw what LLG rests on, and give it as an exhibit of the page of all figures."""
    from labelleak.report.gallery import Exhibit
    from labelleak.studies.signals import draw_signals

    paths = draw_signals(data, out, seed=seed)
    for path in paths:
        print(f"wrote {path}")
    return Exhibit(
        "signals",
        "Signals: what the sign and the size of a row sum tell",
        "A negative row sum says that a class is in the batch (P1), and its size how often (P2).",
        out.name,
        next(p for p in paths if p.suffix == ".svg").read_text(encoding="utf-8"),
        shlex.join(["labelleak", "paper", "signals", "--data", data, "--seed", str(seed)]),
    )


def _attacks(asked: Asked) -> None:
    from labelleak.audits.audit import open_journal, run_plan
    from labelleak.records.files import write_whole
    from labelleak.records.record import read_records
    from labelleak.studies.attacks import make_table, plan_table

    plan = plan_table(asked.data, asked.network, seed=asked.seed, command=command_line())
    with (
        open_journal(plan, asked.out, overwrite=asked.overwrite) as journal,
        interruptible(journal.records),
        progress_bar("attacks", "cells") as advance,
    ):
        run_plan(plan, journal=journal, progress=advance)
    table = make_table(read_records(asked.out / "records.jsonl"))
    write_whole(asked.out / "attacks.md", table)
    print(table)
    print(f"\nrecords  {asked.out / 'records.jsonl'}\ntable    {asked.out / 'attacks.md'}")


def _verdicts(asked: Asked) -> None:
    from labelleak.studies.verdicts.study import run_verdicts

    _run_resumable(run_verdicts, asked, "verdicts", "cells")


def _home(asked: Asked) -> None:
    from labelleak.studies.verdicts.home import run_home

    _run_resumable(run_home, asked, "home", "cells")


def _unknown_size(asked: Asked) -> None:
    from labelleak.studies.unknown_size import run_unknown_size

    _run_resumable(run_unknown_size, asked, "unknown size", "models", quick=asked.quick)


def _shadow(asked: Asked) -> None:
    from labelleak.studies.shadow import QUICK, plan_shadow, run_shadow

    coarse = QUICK if asked.quick else {}
    plan = plan_shadow(asked.data, asked.network, seed=asked.seed, command=command_line(), **coarse)
    with interruptible(asked.out / "records.jsonl"), progress_bar("shadow", "cells") as advance:
        table = run_shadow(plan, asked.out, overwrite=asked.overwrite, progress=advance)
    _show(table, asked)


def _rounds(asked: Asked) -> None:
    from labelleak.studies.rounds import run_rounds_experiment

    _run_resumable(run_rounds_experiment, asked, "rounds", "federations", quick=asked.quick)
    print(f"figure   {asked.out / 'curves.svg'}")


def _run_resumable(
    run: Callable[..., Path], asked: Asked, what: str, unit: str, **more: bool
) -> None:
    """Run a study that keeps its records, and show its table."""
    with interruptible(asked.out / "records.jsonl"), progress_bar(what, unit) as advance:
        table = run(
            asked.data,
            asked.out,
            seed=asked.seed,
            command=command_line(),
            overwrite=asked.overwrite,
            progress=advance,
            **more,
        )
    _show(table, asked)


def _show(table: Path, asked: Asked) -> None:
    print(table.read_text(encoding="utf-8"))
    print(f"records  {asked.out / 'records.jsonl'}\ntable    {table}")


def _shadow_studies(asked: Asked) -> None:
    from labelleak.studies.shadow_parts import plan_studies, run_studies

    name, _, other = asked.data.partition(",")
    plan = plan_studies(name, asked.network, seed=asked.seed, command=command_line())
    with progress_bar("studies", "studies") as advance:
        target = run_studies(plan, asked.out, other=other or None, progress=advance)
    print(f"{target.read_text(encoding='utf-8')}\nwrote {target}")


def _defenses(asked: Asked) -> None:
    from labelleak.studies.defenses.study import run_defenses
    from labelleak.studies.defenses.table import DEFENSES, plan_defenses

    rows = asked.defenses or DEFENSES
    plan = plan_defenses(asked.data, seed=asked.seed, command=command_line(), defenses=rows)
    say_remarks(asked.defenses or ())
    with interruptible(asked.out / "records.jsonl"):
        table = run_defenses(
            plan, asked.out, rows, seed=asked.seed, overwrite=asked.overwrite, bar=progress_bar
        )
    _show(table, asked)


def _compression_rounds(asked: Asked) -> None:
    from labelleak.studies.compression.study import run_compression_rounds

    with interruptible(asked.out / "records.jsonl"):
        figure, *tables = run_compression_rounds(
            asked.data,
            asked.out,
            seed=asked.seed,
            quick=asked.quick,
            command=command_line(),
            overwrite=asked.overwrite,
            bar=progress_bar,
        )
    print(f"figure   {figure}")
    for table in tables:
        print(f"table    {table}")


RUNS: dict[str, Callable[[Asked], None]] = {
    "signals": _signals,
    "attacks": _attacks,
    "verdicts": _verdicts,
    "home": _home,
    "unknown_size": _unknown_size,
    "shadow": _shadow,
    "rounds": _rounds,
    "shadow_studies": _shadow_studies,
    "defenses": _defenses,
    "compression_rounds": _compression_rounds,
}

__all__ = ["RUNS", "Asked", "run_study", "show_signals"]
