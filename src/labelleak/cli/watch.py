"""`labelleak watch`: follow a growing file of records in the terminal, and keep its page fresh."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelleak.cli.options import command
from labelleak.cli.results import Shown, judge, print_json
from labelleak.errors import BadInput, shown_path
from labelleak.records.options import Option, Options

if TYPE_CHECKING:
    from rich.console import Group

    from labelleak.records.follow import Follower

# No more than this share of the time goes into drawing, however many records there are.
_REST_FACTOR = 4


@dataclass(frozen=True, kw_only=True)
class WatchRun(Options):
    """How often to look, and where the page goes."""

    page: Annotated[Path | None, Option("Write the page here again when records came.")] = None
    every: Annotated[float, Option("Seconds between looks.", min=0.1)] = 2.0
    once: Annotated[bool, Option("Look once and end.")] = False


@command
def watch(
    records: Annotated[
        Path,
        typer.Argument(
            help="A records.jsonl or estimates.jsonl file, there already or not, or its folder."
        ),
    ],
    asked: WatchRun,
    shown: Shown,
) -> None:
    """Follow a running federation or audit: rounds, clients, advantage, worst client, flags."""
    from rich.console import Console
    from rich.live import Live

    from labelleak.records.events import read_failures
    from labelleak.records.follow import Follower
    from labelleak.records.journal import records_file

    records = records_file(records, waiting=not asked.once)
    if asked.once and not records.exists():
        raise BadInput(f"cannot read {shown_path(records)}: there is no such file")
    if shown.json and not asked.once:
        raise BadInput("`json` needs `once`: what is followed has no end")
    follower, console = Follower(records), Console()
    if asked.once:
        follower.read_new()
        _write(follower, asked.page)
        if shown.json:
            verdict = judge(follower.records)
            found = {
                "records": len(follower.records),
                "unscored": len(follower.unscored),
                "unreadable": follower.unreadable,
                "failed": str(read_failures(records.parent)),
            }
            print_json({**found, "verdict": verdict.to_json()})
            return
        console.print(_view(follower))
        return
    try:
        now = _view(follower)
        with Live(now, console=console, auto_refresh=False) as live:
            while True:
                start = time.monotonic()
                if follower.read_new():
                    now = _view(follower)
                    live.update(now, refresh=True)
                    _write(follower, asked.page)
                spent = time.monotonic() - start
                time.sleep(max(asked.every, _REST_FACTOR * spent))
    except KeyboardInterrupt:
        # Written to a file, the view has no newline at its end.
        console.print("stopped watching" if console.is_terminal else "\nstopped watching")


def _view(follower: Follower) -> Group:
    """Lay out what was read: records, or answers without a score where there are only those."""
    from rich.console import Group

    from labelleak.records.events import read_failures
    from labelleak.report.terminal import inert
    from labelleak.report.unscored import view_unscored
    from labelleak.report.watching import view

    if follower.unscored and not follower.records:
        seen = view_unscored(follower.unscored, follower.path.name)
    else:
        seen = view(follower.records, follower.path.name, follower.unreadable)
    failures = str(read_failures(follower.path.parent))
    return Group(seen, inert(f"Not in these records: {failures}.")) if failures else seen


def _write(follower: Follower, page: Path | None) -> None:
    """Draw the page anew; it appears whole or not at all."""
    from labelleak.records.files import write_whole
    from labelleak.report import render
    from labelleak.report.unscored import render_unscored

    if page is not None and follower.records:
        write_whole(page, render(follower.records, source=follower.path.name))
    elif page is not None and follower.unscored:
        write_whole(page, render_unscored(follower.unscored, follower.path.name))
