"""`labelleak paper`: the experiments of the literature, each by one command, or all of them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelleak.cli.run import (
    AddressOption,
    ExecutorOption,
    OverwriteOption,
    WorkersOption,
    run_into,
)
from labelleak.cli.studies import Asked, run_study, show_signals
from labelleak.cli.terminal import say_remarks
from labelleak.errors import unknown_name
from labelleak.studies.registry import STUDIES

if TYPE_CHECKING:
    from labelleak.audits.executors import Executor
    from labelleak.report.gallery import Exhibit

# The one preset of which single defenses may be asked.
FINDING = "compression_finding"


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
    model: Annotated[
        str | None,
        typer.Option(help="Model of attacks, shadow, shadow_studies; lenet if left out."),
    ] = None,
    defenses: Annotated[
        str | None,
        typer.Option(
            help="What defenses and compression_finding compare, comma-separated; all if left out."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    executor: ExecutorOption = "serial",
    workers: WorkersOption = None,
    address: AddressOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Repeat an experiment of the literature, or all: figure, table and records."""
    import torch

    from labelleak.audits.executors import make_executor
    from labelleak.studies.presets import PRESETS

    torch.set_num_threads(1)
    where = make_executor(executor, workers, address)
    asked = Asked(
        data=data,
        out=out,
        seed=seed,
        model=model,
        quick=quick,
        overwrite=overwrite,
        defenses=defenses,
        executor=executor if executor != "serial" else None,
    )
    if name in PRESETS or name is None:
        some = {"defenses"} if name == FINDING else set()
        asked.refuse_all_but({"quick", "overwrite", "executor", *some}, name or "all")
    if name is None:
        _all(out, data, where, quick=quick, seed=seed, overwrite=overwrite)
    elif name in PRESETS:
        rows = asked.split_defenses()
        say_remarks(rows or ())
        _preset(name, out, data, where, quick=quick, seed=seed, overwrite=overwrite, rows=rows)
        print(f"\nfigure   {out / 'curves.svg'}\ntable    {out / 'curves.md'}")
        if name == FINDING:
            print(f"summary  {_summary(out)}")
    elif name in STUDIES:
        run_study(name, asked)
    else:
        raise unknown_name("experiment", name, [*PRESETS, *STUDIES])


def _all(
    out: Path, data: str, executor: Executor, *, quick: bool, seed: int, overwrite: bool
) -> None:
    """Run every preset into a folder of its own, and show them on one page."""
    from labelleak.report.gallery import write_gallery
    from labelleak.studies.presets import PRESETS

    exhibits = [
        _preset(name, out / name, data, executor, quick=quick, seed=seed, overwrite=overwrite)
        for name in PRESETS
    ]
    exhibits.insert(1, show_signals(out / "signals", data, seed))
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
    rows: tuple[str, ...] | None = None,
) -> Exhibit:
    from labelleak.report.curves import describe_ends, trace
    from labelleak.report.gallery import Exhibit
    from labelleak.studies.presets import load_preset

    override = {"data": data, "seed": seed, **({"defenses": rows} if rows else {})}
    grid = load_preset(name, quick=quick, override=override)
    records = run_into(grid, out, executor, overwrite=overwrite)
    found = tuple(describe_ends(trace(records, grid.figure), grid.figure))
    picture = (out / "curves.svg").read_text(encoding="utf-8")
    coarse = ["--quick"] if quick else []
    command = ["labelleak", "paper", name, "--data", data, "--seed", str(seed), *coarse]
    command += ["--defenses", ",".join(rows)] if rows else []
    return Exhibit(name, grid.title, grid.claim, out.name, picture, shlex.join(command), found)


def _summary(out: Path) -> Path:
    """Write the tables of the compression finding from its records."""
    from labelleak.records.files import write_whole
    from labelleak.records.record import read_records
    from labelleak.studies.compression.tables import make_finding_tables

    path = out / "summary.md"
    write_whole(path, make_finding_tables(read_records(out / "records.jsonl")))
    return path


__all__ = ["paper"]
