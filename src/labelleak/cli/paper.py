"""`labelleak paper`: the experiments of the literature, each by one command, or all of them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelleak.audits.executors import Executor
from labelleak.cli.options import command
from labelleak.cli.run import run_into
from labelleak.cli.studies import Asked, run_study, show_signals
from labelleak.cli.terminal import say_remarks
from labelleak.errors import BadInput, unknown_name
from labelleak.studies.registry import STUDIES

if TYPE_CHECKING:
    from labelleak.report.gallery import Exhibit

# The one preset of which single defenses may be asked.
FINDING = "compression_finding"


@command
def paper(
    name: Annotated[
        str | None, typer.Argument(help="See `labelleak list paper`; all figures if left out.")
    ] = None,
    *,
    asked: Asked,
    where: Executor,
) -> None:
    """Repeat an experiment of the literature, or all: figure, table and records."""
    import torch

    from labelleak.studies.presets import PRESETS

    torch.set_num_threads(1)
    if name in STUDIES:
        if where.kind != "serial":
            raise BadInput(f"the experiment {name!r} takes no `kind`; leave it out")
        run_study(name, asked)
    elif name is None:
        asked.refuse_all_but({"quick", "overwrite"}, "all")
        _all(asked, where)
    elif name in PRESETS:
        some = {"defenses"} if name == FINDING else set()
        asked.refuse_all_but({"quick", "overwrite", *some}, name)
        say_remarks(asked.defenses or ())
        _preset(name, asked.out, asked, where)
        print(f"\nfigure   {asked.out / 'curves.svg'}\ntable    {asked.out / 'curves.md'}")
        if name == FINDING:
            print(f"summary  {_summary(asked.out)}")
    else:
        raise unknown_name("experiment", name, [*PRESETS, *STUDIES])


def _all(asked: Asked, where: Executor) -> None:
    """Run every preset into a folder of its own, and show them on one page."""
    from labelleak.report.gallery import write_gallery
    from labelleak.studies.presets import PRESETS

    exhibits = [_preset(name, asked.out / name, asked, where) for name in PRESETS]
    exhibits.insert(1, show_signals(asked.out / "signals", asked.data, asked.seed))
    write_gallery(exhibits, asked.out / "paper.html")
    print(f"\npage     {asked.out / 'paper.html'}")


def _preset(name: str, out: Path, asked: Asked, where: Executor) -> Exhibit:
    """Run one preset into a folder, and return what it shows."""
    from labelleak.report.curves import describe_ends, trace
    from labelleak.report.gallery import Exhibit
    from labelleak.studies.presets import load_preset

    override: dict[str, Any] = {"data": asked.data, "seed": asked.seed}
    typed = ["labelleak", "paper", name, "--data", asked.data, "--seed", str(asked.seed)]
    typed += ["--quick"] if asked.quick else []
    if asked.defenses:
        override["defenses"] = asked.defenses
        typed += ["--defenses", ",".join(asked.defenses)]
    grid = load_preset(name, quick=asked.quick, override=override)
    records = run_into(grid, out, where, overwrite=asked.overwrite)
    found = tuple(describe_ends(trace(records, grid.figure), grid.figure))
    picture = (out / "curves.svg").read_text(encoding="utf-8")
    return Exhibit(name, grid.title, grid.claim, out.name, picture, shlex.join(typed), found)


def _summary(out: Path) -> Path:
    """Write the tables of the compression finding from its records."""
    from labelleak.records.files import write_whole
    from labelleak.records.record import read_records
    from labelleak.studies.compression.tables import make_finding_tables

    path = out / "summary.md"
    write_whole(path, make_finding_tables(read_records(out / "records.jsonl")))
    return path


__all__ = ["paper"]
