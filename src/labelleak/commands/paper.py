"""`labelleak paper`: the experiments of the literature, each by one command, or all of them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelleak.commands.run import (
    AddressOption,
    ExecutorOption,
    OverwriteOption,
    WorkersOption,
    run_into,
)
from labelleak.commands.terminal import command_line, interruptible, progress_bar
from labelleak.errors import BadInput, unknown_name

if TYPE_CHECKING:
    from labelleak.experiments.executors import Executor
    from labelleak.report.gallery import Exhibit

# Experiments that are no grids; all but the first take long and are run by name only.
OTHERS = (
    *("signals", "attacks", "verdicts", "home", "defenses", "compression_rounds"),
    *("unknown_size", "rounds", "shadow", "shadow_studies"),
)


def paper(
    name: Annotated[
        str | None, typer.Argument(help="See `labelleak list paper`; all figures if left out.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for figures, tables and records.")] = Path(
        "out"
    ),
    data: Annotated[str, typer.Option(help="Name or path; see `labelleak list data`.")] = "digits",
    quick: Annotated[
        bool, typer.Option("--quick", help="A coarse version, all in a few minutes.")
    ] = False,
    model: Annotated[str, typer.Option(help="Model of the attacks' table.")] = "lenet",
    defenses: Annotated[
        str | None,
        typer.Option(help="Rows of the defenses' table, comma-separated; all if left out."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    executor: ExecutorOption = "serial",
    workers: WorkersOption = None,
    address: AddressOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Repeat an experiment of the literature, or all: figure, table and records."""
    import torch

    from labelleak.experiments.executors import make_executor
    from labelleak.experiments.presets import PRESETS

    torch.set_num_threads(1)
    where = make_executor(executor, workers, address)
    if defenses is not None and name != "defenses":
        raise BadInput("--defenses chooses rows of `labelleak paper defenses`")
    if name is None:
        _all(out, data, where, quick=quick, seed=seed, overwrite=overwrite)
    elif name in PRESETS:
        _preset(name, out, data, where, quick=quick, seed=seed, overwrite=overwrite)
        print(f"\nfigure   {out / 'curves.svg'}\ntable    {out / 'curves.md'}")
        if name == "compression_finding":
            print(f"summary  {_summary(out)}")
    elif name == "signals":
        _signals(out, data, seed)
    elif name == "attacks":
        _attacks(data, model, out, seed)
    elif name == "verdicts":
        _verdicts(data, out, seed)
    elif name == "home":
        _home(data, out, seed)
    elif name == "unknown_size":
        _unknown_size(data, out, quick=quick, seed=seed, overwrite=overwrite)
    elif name == "rounds":
        _rounds(data, out, quick=quick, seed=seed, overwrite=overwrite)
    elif name == "shadow":
        _shadow(data, model, out, seed)
    elif name == "shadow_studies":
        _shadow_studies(data, model, out, seed)
    elif name == "defenses":
        _defenses(data, out, seed, defenses)
    elif name == "compression_rounds":
        _compression_rounds(data, out, seed, quick=quick)
    else:
        raise unknown_name("experiment", name, [*PRESETS, *OTHERS])


def _all(
    out: Path, data: str, executor: Executor, *, quick: bool, seed: int, overwrite: bool
) -> None:
    """Run every preset into a folder of its own, and show them on one page."""
    from labelleak.experiments.presets import PRESETS
    from labelleak.report.gallery import write_gallery

    exhibits = [
        _preset(name, out / name, data, executor, quick=quick, seed=seed, overwrite=overwrite)
        for name in PRESETS
    ]
    exhibits.insert(1, _signals(out / "signals", data, seed))
    write_gallery(exhibits, out / "paper.html")
    print(f"\npage     {out / 'paper.html'}")


def _preset(
    name: str,
    out: Path,
    data: str,
    executor: Executor,
    *,
    quick: bool,
    seed: int,
    overwrite: bool,
) -> Exhibit:
    from labelleak.experiments.presets import load_preset
    from labelleak.report.curves import describe_ends, trace
    from labelleak.report.gallery import Exhibit

    grid = load_preset(name, quick=quick, override={"data": data, "seed": seed})
    rows = run_into(grid, out, executor, overwrite=overwrite)
    found = tuple(describe_ends(trace(rows, grid.figure), grid.figure))
    picture = (out / "curves.svg").read_text(encoding="utf-8")
    coarse = ["--quick"] if quick else []
    command = ["labelleak", "paper", name, "--data", data, "--seed", str(seed), *coarse]
    return Exhibit(name, grid.title, grid.claim, out.name, picture, shlex.join(command), found)


def _signals(out: Path, data: str, seed: int) -> Exhibit:
    from labelleak.experiments.signals import draw_signals
    from labelleak.report.gallery import Exhibit

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


def _attacks(data: str, model: str, out: Path, seed: int) -> None:
    from labelleak.experiments.attack_table import make_table, plan_table
    from labelleak.experiments.audit import open_journal, run_plan
    from labelleak.record import read_records
    from labelleak.whole_files import write_whole

    plan = plan_table(data, model, seed=seed, command=command_line())
    with (
        open_journal(plan, out) as journal,
        interruptible(journal.records),
        progress_bar("attacks", "cells") as advance,
    ):
        run_plan(plan, journal=journal, progress=advance)
    table = make_table(read_records(out / "records.jsonl"))
    write_whole(out / "attacks.md", table)
    print(table)
    print(f"\nrecords  {out / 'records.jsonl'}\ntable    {out / 'attacks.md'}")


def _verdicts(data: str, out: Path, seed: int) -> None:
    from labelleak.experiments.verdicts import run_verdicts

    with progress_bar("verdicts", "cells") as advance:
        table = run_verdicts(data, out, seed=seed, progress=advance)
    print(f"wrote {table}")


def _home(data: str, out: Path, seed: int) -> None:
    from labelleak.experiments.home import run_home

    with progress_bar("home", "cells") as advance:
        print(f"wrote {run_home(data, out, seed=seed, progress=advance)}")


def _unknown_size(data: str, out: Path, *, quick: bool, seed: int, overwrite: bool) -> None:
    from labelleak.experiments.unknown_batch_size import run_unknown_size

    with interruptible(out / "records.jsonl"), progress_bar("unknown size", "models") as advance:
        table = run_unknown_size(
            data,
            out,
            seed=seed,
            quick=quick,
            command=command_line(),
            overwrite=overwrite,
            progress=advance,
        )
    print(table.read_text(encoding="utf-8"))
    print(f"records  {out / 'records.jsonl'}\ntable    {table}")


def _shadow(data: str, model: str, out: Path, seed: int) -> None:
    from labelleak.experiments.shadow_table import plan_shadow, run_shadow

    plan = plan_shadow(data, model, seed=seed, command=command_line())
    with interruptible(out / "records.jsonl"), progress_bar("shadow", "cells") as advance:
        table = run_shadow(plan, out, progress=advance)
    print(table.read_text(encoding="utf-8"))
    print(f"records  {out / 'records.jsonl'}\ntable    {table}")


def _rounds(data: str, out: Path, *, quick: bool, seed: int, overwrite: bool) -> None:
    from labelleak.experiments.rounds import run_rounds_experiment

    with interruptible(out / "records.jsonl"), progress_bar("rounds", "federations") as advance:
        table = run_rounds_experiment(
            data,
            out,
            seed=seed,
            quick=quick,
            command=command_line(),
            overwrite=overwrite,
            progress=advance,
        )
    print(table.read_text(encoding="utf-8"))
    print(f"records  {out / 'records.jsonl'}\nfigure   {out / 'curves.svg'}\ntable    {table}")


def _shadow_studies(data: str, model: str, out: Path, seed: int) -> None:
    from labelleak.experiments.shadow_studies import plan_studies, run_studies

    name, _, other = data.partition(",")
    plan = plan_studies(name, model, seed=seed, command=command_line())
    with progress_bar("studies", "studies") as advance:
        target = run_studies(plan, out, other=other or None, progress=advance)
    print(f"{target.read_text(encoding='utf-8')}\nwrote {target}")


def _summary(out: Path) -> Path:
    """Write the tables of the compression finding from its records."""
    from labelleak.experiments.compression_tables import make_finding_tables
    from labelleak.record import read_records
    from labelleak.whole_files import write_whole

    path = out / "summary.md"
    write_whole(path, make_finding_tables(read_records(out / "records.jsonl")))
    return path


def _defenses(data: str, out: Path, seed: int, some: str | None) -> None:
    from labelleak.experiments.defense_study import measure_leakage, write_defenses
    from labelleak.experiments.defense_table import DEFENSES, plan_defenses

    rows = DEFENSES if some is None else tuple(word.strip() for word in some.split(","))
    plan = plan_defenses(data, seed=seed, command=command_line(), defenses=rows)
    with interruptible(out / "records.jsonl"):
        with progress_bar("leakage", "cells") as advance:
            measure_leakage(plan, out, progress=advance)
        with progress_bar("cost", "federations") as advance:
            table = write_defenses(plan, out, rows, seed=seed, progress=advance)
    print(table.read_text(encoding="utf-8"))
    print(f"records  {out / 'records.jsonl'}\ntable    {table}")


def _compression_rounds(data: str, out: Path, seed: int, *, quick: bool) -> None:
    from labelleak.experiments.compression_study import run_compression_rounds

    figure, *tables = run_compression_rounds(
        data, out, seed=seed, quick=quick, command=command_line(), bar=progress_bar
    )
    print(f"figure   {figure}")
    for table in tables:
        print(f"table    {table}")


__all__ = ["paper"]
