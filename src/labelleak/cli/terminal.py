"""What commands share at the terminal: progress, interrupts, and the command as typed."""

from __future__ import annotations

import gc
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from labelleak.cli.options import spelled_for_shell
from labelleak.errors import printable
from labelleak.records.journal import say_kept
from labelleak.records.provenance import command_of

INTERRUPTED = 130
# Seconds between two lines of progress where standard error is no terminal.
_BETWEEN = 30.0
# Whether the process ends with the command that runs.
_ENDING = ContextVar("ending", default=False)


@dataclass(frozen=True)
class Bar:
    """A progress bar: call it with done and total, or tell it what takes long just now."""

    advance: Callable[[int, int], None]
    describe: Callable[[str], None]
    what: str

    def __call__(self, done: int, total: int) -> None:
        """Move on."""
        self.advance(done, total)

    def tell(self, doing: str) -> None:
        """Say what is being done, or again what the bar is of when given nothing."""
        self.describe(doing or self.what)


@dataclass(eq=False)
class _Lines:
    """Progress in plain lines, one now and then, for a file or a pipe.

    The time left follows from what was done since the first call, so that what an earlier run had
    done already counts for nothing.
    """

    what: str
    unit: str
    doing: str = ""
    done: int = 0
    total: int = 0
    first: int = 0
    began: float | None = None
    said: float = 0.0

    def advance(self, done: int, total: int) -> None:
        """Note what is done, and say it where the last line is some time ago."""
        now = time.monotonic()
        self.done, self.total = done, total
        if self.began is None:
            self.began = self.said = now
            self.first = done
        elif now - self.said >= _BETWEEN:
            self.said = now
            self._print(self._left(now - self.began))

    def describe(self, doing: str) -> None:
        """Note what is being done, for the lines to come."""
        self.doing = doing

    def end(self) -> None:
        """Say where it ended, if it began."""
        if self.began is not None:
            self._print("")

    def _left(self, passed: float) -> str:
        from labelleak.audits.estimates import say_duration

        made = self.done - self.first
        if made <= 0:
            return ""
        return f", {say_duration(passed / made * (self.total - self.done))} left"

    def _print(self, more: str) -> None:
        said = f"{self.doing or self.what}: {self.done}/{self.total} {self.unit}{more}"
        print(said, file=sys.stderr, flush=True)


@contextmanager
def progress_bar(what: str, unit: str = "models") -> Iterator[Bar]:
    """Show a bar with the time left on standard error; the body calls it with done and total.

    Where standard error is no terminal, plain lines say the same now and then.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with _drawn_bar(console, what, unit) as bar:
            yield bar
        return
    lines = _Lines(what, unit)
    try:
        yield Bar(lines.advance, lines.describe, "")
    finally:
        lines.end()


@contextmanager
def _drawn_bar(console: Any, what: str, unit: str) -> Iterator[Bar]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} " + unit + ", left"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=console) as bar:
        # Shown when there is something to show, so that a refusal stands alone.
        task = bar.add_task(what, total=1, visible=False)
        yield Bar(
            lambda done, total: bar.update(task, completed=done, total=total, visible=True),
            lambda doing: bar.update(task, description=doing),
            what,
        )


@contextmanager
def interruptible(records: Path) -> Iterator[None]:
    """End an interrupted command in two lines and status 130."""
    try:
        yield
    except KeyboardInterrupt:
        more = "run the same command again to go on"
        print(f"\nInterrupted. {say_kept(records)}; {more}.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def uncollected(*, last: bool = True) -> Iterator[None]:
    """Let the collector of cycles rest in a command whose records all stay until it ends.

    It would search a million values again and again, which takes a fifth of the command's time.

    Args:
        last: whether nothing comes after it that makes cycles, so that in the last act of a
            process the collector need not wake again.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was and not (last and _ENDING.get()):
            gc.enable()


@contextmanager
def settled() -> Iterator[None]:
    """Let the collector of cycles pass over what is loaded by now, which stays for the command.

    Torch alone makes some hundred thousand objects that it would look through again and again.
    Where a program around it has frozen what is its own, that stays so.
    """
    ours = not gc.get_freeze_count()
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        if ours and not _ENDING.get():
            gc.unfreeze()


@contextmanager
def last_act() -> Iterator[None]:
    """Run what the process ends with: nobody looks through what the system takes back as a whole.

    Whoever goes on all the same has its collector again, for what comes later.
    """
    was, token = gc.isenabled(), _ENDING.set(True)
    try:
        yield
    finally:
        _ENDING.reset(token)
        gc.freeze()
        if was:
            gc.enable()


def say(text: str) -> None:
    """Print a text that may hold names from outside, and options as Python spells them.

    On a terminal long lines are broken between words; a file or a pipe gets them whole.
    """
    width = shutil.get_terminal_size().columns
    for line in printable(spelled_for_shell(text)).split("\n"):
        fits = len(line) < width or not sys.stdout.isatty()
        print(line if fits else textwrap.fill(line, width, break_on_hyphens=False))


def say_remarks(defenses: Iterable[str]) -> None:
    """Say on standard error what a user may not expect of defenses: off, or in a poor order."""
    from labelleak.defenses import parse_defense, remarks

    for text in defenses:
        for said in remarks(parse_defense(text)):
            print(f"Note: {said}.", file=sys.stderr)


def command_line(full_paths: bool) -> str:
    """Return the command for the records, with the program's folder left out."""
    return command_of(["labelleak", *sys.argv[1:]], full_paths=full_paths)
