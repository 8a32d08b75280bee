"""`labelleak paper`: the experiments of the literature, each by one command, or all of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelleak.audits.executors import Executor
from labelleak.cli.options import command
from labelleak.cli.results import Shown, print_json
from labelleak.cli.run import StudyRun, run_into, show_done
from labelleak.cli.terminal import command_line, say_remarks
from labelleak.records.provenance import command_of
from labelleak.studies.options import Asked
from labelleak.studies.registry import STUDIES, load_study

if TYPE_CHECKING:
    from labelleak.studies.study import Study


@command
def paper(
    name: Annotated[
        str | None,
        typer.Argument(help="See `labelleak list paper`; all with a claim if left out."),
    ] = None,
    *,
    asked: Asked,
    place: StudyRun,
    where: Executor,
    shown: Shown,
) -> None:
    """Repeat an experiment of the literature, or all: figure, table and records."""
    asked = replace(asked, command=command_line(place.full_paths))
    if name is None:
        page = _show_all(asked, place, where)
        print_json({"page": str(page)}) if shown.json else print(f"\npage     {page}")
        return
    study, out = load_study(name), place.out
    kept = {"overwrite": place.overwrite, "kind": where.kind != "serial"}
    study.refuse_all_but_own({**vars(asked), **kept})
    say_remarks(asked.defenses or ())
    done = run_into(study, asked, place, where)
    for path in () if shown.json else done.files:
        if path.suffix == ".md" and path.name != "curves.md":
            print(path.read_text(encoding="utf-8"))
    show_done(out, done, shown)


def _show_all(asked: Asked, place: StudyRun, where: Executor) -> Path:
    """Run every study of a claim into a folder of its own, and show them on one page."""
    from labelleak.report.gallery import write_gallery

    exhibits = []
    studies = [study for study in map(load_study, STUDIES) if study.claim]
    for study in studies:
        study.refuse_all_but_own({**vars(asked), "quick": False})
    _say_how_long(studies, asked)
    for study in studies:
        out = place.out / study.name
        done = run_into(study, asked, replace(place, out=out), where)
        typed = ["labelleak", "paper", study.name, "--data", asked.data, "--seed", str(asked.seed)]
        typed += ["--quick"] if asked.quick and "quick" in study.takes else []
        said = command_of(typed, full_paths=place.full_paths)
        exhibits.append(study.exhibit(done.found, out, said))
    page = place.out / "paper.html"
    write_gallery(exhibits, page)
    return page


def _say_how_long(studies: Sequence[Study], asked: Asked) -> None:
    """Say on standard error what each study will take, from a measurement of seconds."""
    from labelleak.audits.estimates import estimate_seconds, say_duration
    from labelleak.core.seeding import torch_threads

    with torch_threads(1):
        each = {study.name: estimate_seconds(study.parts(asked)) for study in studies}
    for name, seconds in each.items():
        print(f"{name:20} {say_duration(seconds)}", file=sys.stderr)
    print(
        f"{'all':20} {say_duration(sum(each.values()))} on one core of this machine, as estimated; "
        "what is done is kept, and the same command goes on",
        file=sys.stderr,
    )


__all__ = ["paper"]
