"""Kill runs at random moments and let them go on: ``python tests/hostile/kills.py [KILLS]``.

A run that was killed is begun again until it ends, and must then hold the records of one that
nobody disturbed; a server of a federation must hold whole lines, and no record twice. Ends with 1
if one does not.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LONGEST = 600
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
GRID = """
model = "mlp"
batch_sizes = [1, 4]
schemes = ["iid"]
attacks = ["free", "llg", "llg_plus"]
trials = 40
initialisations = 20
training_steps = [0, 4]
"""
_TUNE = """tune --target-advantage 0.5 --families gaussian:3,sign --trials 8 --initialisations 2
--training-steps 0,5 --users 3 --rounds 25 --repeats 1 --attacker update --executor serial"""
COMMANDS = {
    "run": "run g.toml --out out",
    "tune": _TUNE + " --out out",
    "paper": "paper baselines --quick --out out",
    "server": "",
}


@dataclass
class Outcome:
    """What came of the kills of one command."""

    kills: Counter[str] = field(default_factory=Counter)
    began_again: int = 0
    records: int = 0
    faults: list[str] = field(default_factory=list)


class Running:
    """A command in a process that is forked off, so that what it imports is there already."""

    def __init__(self, kind: str, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "g.toml").write_text(GRID)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of threads, which do nothing here
            self.pid = os.fork()
        if self.pid == 0:
            _become(kind, folder)

    def wait(self, seconds: float) -> int | None:
        """Return the status, negative for a signal; None if it still runs after that time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        return None

    def end(self) -> int | None:
        """Wait for its end, and end it if that takes too long."""
        status = self.wait(LONGEST)
        if status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        return status


def _become(kind: str, folder: Path) -> None:
    """Run a command in place of this process."""
    status = 70
    try:
        os.chdir(folder)
        said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for place in (1, 2):
            os.dup2(said, place)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.argv = ["labelleak", *COMMANDS[kind].split()]
        (serve if kind == "server" else cli)()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except KeyboardInterrupt:
        status = 130
    except BaseException:  # noqa: BLE001  whatever it is stands in the file
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def cli() -> None:
    """Run the command line."""
    from labelleak.cli.app import main

    main()


def rows(folder: Path, *, whole: bool) -> list[dict[str, object]]:
    """Read the records, without what the clock and the place may change."""
    files = sorted(path for path in folder.glob("**/*.jsonl") if path.name != "events.jsonl")
    found = []
    for path in files:
        lines = path.read_bytes().split(b"\n")
        for line in lines if whole else lines[:-1]:
            if line:
                row = json.loads(line)
                found.append({k: v for k, v in row.items() if k not in VARIES})
    return found


VARIES = ("seconds", "command", "seconds_ratio", "time")


def serve() -> None:
    """Observe a federation for a few rounds, in one process; a round that is over is not redone."""
    from labelleak import flower  # isort: skip  # first: it keeps Flower from phoning home
    from flower import federation

    auditor = federation.make_auditor(Path("out"))
    grid = flower.observe(flower.InProcessGrid(federation.make_app(), 4), auditor)
    done = Path("rounds")
    for number in range(len(done.read_text()) if done.exists() else 0, 12):
        messages = []
        for node in grid.get_node_ids():
            messages.append(federation.train_message(server_round=number))
            messages[-1].metadata.__dict__["_dst_node_id"] = node
        grid.send_and_receive(messages)
        with done.open("a") as file:
            file.write("x")


def measure(kind: str, kills: int, folder: Path, chance: random.Random) -> Outcome:
    """Kill a command so many times, each time in another run of it.

    Args:
        kind: of `COMMANDS`.
        kills: how many.
        folder: empty.
        chance: draws the moments and the signals.
    """
    outcome, began = Outcome(), time.monotonic()
    if Running(kind, folder / "undisturbed").end() != 0:
        outcome.faults.append(f"{kind}: fails undisturbed")
        return outcome
    seconds = time.monotonic() - began
    wanted = rows(folder / "undisturbed", whole=True)
    outcome.records = len(wanted)
    number = 0
    while sum(outcome.kills.values()) < kills:
        place, number = folder / str(number), number + 1
        for _ in range(chance.randrange(1, 4)):
            if sum(outcome.kills.values()) < kills:
                killed = _kill(kind, place, chance.uniform(0.1, 1) * seconds, chance, outcome)
                outcome.began_again += killed
        status = Running(kind, place).end()
        if status != 0:
            said = (place / "said").read_text()[-300:]
            outcome.faults.append(f"{kind} {number}: status {status}: {said}")
        elif kind == "server":
            outcome.faults += _lost(rows(place, whole=True), wanted, f"{kind} {number}")
        elif rows(place, whole=True) != wanted:
            outcome.faults.append(f"{kind} {number}: other records than undisturbed")
    return outcome


def _kill(kind: str, place: Path, after: float, chance: random.Random, outcome: Outcome) -> bool:
    """Begin, wait, kill; tell whether it was still running."""
    running, sent = Running(kind, place), chance.choice(SIGNALS)
    if running.wait(after) is not None:
        return False
    os.kill(running.pid, sent)
    running.end()
    outcome.kills[sent.name] += 1
    rows(place, whole=False)  # whole lines of JSON, but for the last
    return True


def _lost(
    found: list[dict[str, object]], wanted: list[dict[str, object]], name: str
) -> Iterator[str]:
    """Compare a server's records: a round that broke off is done again, all others once."""
    keys = ("round", "client", "attack")
    have, want = (Counter(tuple(row[k] for k in keys) for row in part) for part in (found, wanted))
    by_key = {tuple(row[k] for k in keys): row for row in wanted}
    if have.keys() != want.keys():
        yield f"{name}: {len(want.keys() - have.keys())} records are missing"
    elif any(row != by_key[tuple(row[k] for k in keys)] for row in found):
        yield f"{name}: other records than undisturbed"


def main(kills: int = 30, seed: int = 0) -> int:
    """Kill every command and print the figures."""
    import labelleak.flower  # isort: skip  # first: it keeps Flower from phoning home
    import flower.federation  # noqa: F401

    labelleak.audit(
        batch_sizes=1, trials=1, training_steps=1, schemes="iid"
    )  # loads what runs need
    faults, total = 0, 0
    with tempfile.TemporaryDirectory() as name:
        for place, kind in enumerate(COMMANDS):
            folder = Path(name) / kind
            folder.mkdir()
            share = kills // len(COMMANDS) + (place < kills % len(COMMANDS))
            found = measure(kind, share, folder, random.Random(seed + place))
            signals = ", ".join(f"{count} {name}" for name, count in sorted(found.kills.items()))
            print(
                f"{kind:<7} {found.kills.total()} kills ({signals}), {found.began_again} times "
                f"begun again, {found.records} records undisturbed, {len(found.faults)} differ",
                *found.faults,
                sep="\n  ",
                flush=True,
            )
            faults, total = faults + len(found.faults), total + found.kills.total()
    print(f"{total} kills, {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
