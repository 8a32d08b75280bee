"""Let the readers meet hostile input as commands do, and judge what came of each case."""

from __future__ import annotations

import faulthandler
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from commands import command
from files.memory import forget_peak, resident
from hostile.corpus import Case, records, text_of
from labelleak.audits.audited_model import build
from labelleak.audits.grids import read_grid
from labelleak.audits.options import AuditOptions
from labelleak.errors import BadInput
from labelleak.files.truth import read_truth
from labelleak.records.journal import Journal
from labelleak.simulation.data.datasets import load_dataset

# Of the processor; and of waiting, for what only sleeps.
SECONDS, WAIT_SECONDS = 60, 600
# What no handler of a signal can end ends with its process, and the run with it.
HARD_SECONDS = 900
LONGEST = 1700
POLICY = "min_trials = 2\n[max_advantage]\nupdate = 0.1\n"
ATTACK = ("--batch-size", "4", "--lr", "0.1", "--attacks", "llg,row_min")
# Every way in which a file of tensors comes in.
DOORS = (
    ("--gradient", "INPUT"),
    ("--update", "INPUT"),
    ("--difference", "INPUT"),
    ("--before", "INPUT", "--after", "GOOD"),
    ("--before", "GOOD", "--after", "INPUT"),
)
# Judges a good file of records that leak, whatever else it asks for.
HOLDS = "gate PASSED"


class Hangs(BaseException):
    """Not an Exception, so that no reader takes it for a fault of the input."""


@dataclass
class Tally:
    """What came of all cases."""

    tried: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    largest: tuple[float, str] = (0.0, "")

    def __iadd__(self, other: Tally) -> Tally:
        self.tried += other.tried
        self.refused += other.refused
        self.faults += other.faults
        self.slowest = max(self.slowest, other.slowest)
        self.largest = max(self.largest, other.largest)
        return self


def call(read: Callable[[], object]) -> tuple[int, str, str]:
    """Run a reader that no quick command reaches; as `command`."""
    try:
        read()
    except BadInput as error:
        return 2, "", f"Error: {error}\n"
    return 0, "", ""


def _open_mark(path: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir=path.parent))
    path.rename(folder / "run.json")
    with Journal.open(folder, {"a": 1}):
        pass


def ask(case: Case, path: Path, good: Path, policy: Path) -> Iterator[tuple[int, str, str]]:
    """Let whoever reads such a file read it."""
    page, update = path.with_name("page.html"), good.with_name("good.safetensors")
    if case.reader == "records":
        yield command("gate", path, "--policy", policy, "--junit", path.with_name("j.xml"))
        yield command("report", path, "--out", page)
    elif case.reader == "watch":
        yield command("watch", path, "--once", "--page", page)
    elif case.reader == "evidence":
        yield command("verify", path, "--records", good)
    elif case.reader == "policy":
        yield command("gate", good, "--policy", path)
    elif case.reader == "grid":
        yield call(lambda: read_grid(path))
    elif case.reader == "mark":
        yield call(lambda: _open_mark(path))
    elif case.reader == "truth":
        yield call(lambda: read_truth(path, 3, 3))
    elif case.reader == "weights":
        options = AuditOptions(model="mlp", weights=str(path), initialisations=1)
        yield call(lambda: build(options, load_dataset("digits"), 0))
    elif case.reader == "prior":
        yield command("attack", "--gradient", update, "--prior", path, *ATTACK)
    elif case.reader == "table":
        yield call(lambda: load_dataset(str(path.rename(path.with_name("input.csv")))))
    elif case.reader == "data":
        named = path.rename(path.with_name("input.npz"))
        yield call(lambda: load_dataset(str(named)))
        yield command("attack", "--gradient", update, "--auxiliary", named, *ATTACK)
    else:
        for door in DOORS if case.reader == "tensors" else _two_of(DOORS, case.name):
            files = [{"INPUT": path, "GOOD": update}.get(word, word) for word in door]
            yield command("attack", *files, *ATTACK)


def _two_of(doors: tuple[tuple[str, ...], ...], name: str) -> Iterator[tuple[str, ...]]:
    """Take turns, for there are many notes."""
    yield from (doors[(len(name) + more) % len(doors)] for more in (0, 1))


def fault_of(case: Case, status: int, out: str, err: str) -> str:
    """Say what is wrong with an answer; nothing if it is as it must be."""
    lines = err.strip("\n").split("\n")
    if status not in (0, 1, 2):
        return f"status {status}"
    if status == 2 and (len(lines) != 1 or not lines[0].startswith("Error: ")):
        return f"not one sentence: {err[:200]!r}"
    if status == 1 and case.reader not in ("records", "policy", "evidence"):
        return "status 1"
    odd = [c for c in out + err if not c.isprintable() and c not in "\n\xa0"]
    if odd or len(err) > LONGEST:
        return f"prints {odd[:3]} and {len(err)} characters of error"
    if HOLDS in out and case.reader == "records":
        return "wrongly holds"
    return ""


def judge(cases: Iterable[Case], folder: Path, told: Callable[[str], None] = print) -> Tally:
    """Let every case meet its reader.

    Args:
        cases: the inputs.
        folder: empty, for files.
        told: called with each fault.
    """
    good, policy, tally = folder / "good.jsonl", folder / "policy.toml", Tally()
    arrays = {"fc.weight": np.ones((3, 4), np.float32), "fc.bias": np.ones(3, np.float32)}
    save_file(arrays, folder / "good.safetensors")
    good.write_text(text_of(records(), "trial", "0", set()))
    policy.write_text(POLICY)
    command("gate", good, "--policy", policy)  # loads what the first one would pay for
    before = {number: signal.signal(number, _hang) for number in (signal.SIGALRM, signal.SIGPROF)}
    try:
        for number, case in enumerate(cases):
            place = folder / str(number)
            place.mkdir()
            path = place / "input"
            case.write(path)
            _judge_one(case, path, good, policy, tally, told)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return tally


def _hang(*_: object) -> None:
    raise Hangs


def _judge_one(
    case: Case, path: Path, good: Path, policy: Path, tally: Tally, told: Callable[[str], None]
) -> None:
    forget_peak()
    name, held, start = f"{case.reader}, {case.name}", resident("VmRSS"), time.process_time()
    statuses, faults = [], []
    faulthandler.dump_traceback_later(HARD_SECONDS, exit=True, file=sys.__stderr__)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WAIT_SECONDS)
    try:
        for status, out, err in ask(case, path, good, policy):
            statuses.append(status)
            faults.append(fault_of(case, status, out, err))
    except Hangs:
        faults.append("hangs: " + traceback.format_exc().strip().splitlines()[-3].strip())
    except Exception:  # noqa: BLE001  whatever it is, it is a fault
        faults.append("traceback: " + " ".join(traceback.format_exc().splitlines()[-4:])[-400:])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
    tally.tried[case.reader] += 1
    tally.refused[case.reader] += bool(statuses) and set(statuses) == {2} and not any(faults)
    tally.slowest = max(tally.slowest, (time.process_time() - start, name))
    tally.largest = max(tally.largest, ((resident("VmHWM") - held) / 2**20, name))
    for fault in filter(None, faults):
        tally.faults.append(f"{name[:100]}: {fault}")
        told(tally.faults[-1])
