"""`labelleak paper`: the experiments of the literature, each by one command, or all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from labelleak.audits.executors import Executor
from labelleak.cli.options import command
from labelleak.cli.results import Shown, print_json
from labelleak.cli.run import StudyRun, run_into, show_done
from labelleak.cli.terminal import command_line, say_remarks
from labelleak.records.provenance import command_of
from labelleak.studies.options import Asked
from labelleak.studies.registry import STUDIES, load_study


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
    for study in filter(lambda one: one.claim, map(load_study, STUDIES)):
        study.refuse_all_but_own({**vars(asked), "quick": False})
        out = place.out / study.name
        done = run_into(study, asked, replace(place, out=out), where)
        typed = ["labelleak", "paper", study.name, "--data", asked.data, "--seed", str(asked.seed)]
        typed += ["--quick"] if asked.quick and "quick" in study.takes else []
        said = command_of(typed, full_paths=place.full_paths)
        exhibits.append(study.exhibit(done.found, out, said))
    page = place.out / "paper.html"
    write_gallery(exhibits, page)
    return page


__all__ = ["paper"]
