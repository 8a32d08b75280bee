"""Let every reader meet hostile input, and good files too: ``python tests/hostile/run.py``.

Ends with 1 if anything crashed, hung, passed where it must not, or was refused though good.
"""

import sys
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from hostile.corpus import cases
from hostile.good import draw
from hostile.readers import Tally, judge
from labelleak.errors import BadInput
from labelleak.files.tensors import read_tensors

PROCESSES = 2


def read_good(count: int, folder: Path, told: Callable[[str], None] = print) -> int:
    """Read so many good files; return how many were refused or read wrongly."""
    wrong = 0
    for seed in range(count):
        kind, tensors, content = draw(seed)
        path = folder / f"good.{kind}"
        path.write_bytes(content)
        try:
            found = read_tensors(path).tensors
            same = found.keys() == tensors.keys() and all(
                torch.equal(found[name], value) for name, value in tensors.items()
            )
            fault = "" if same else "read wrongly"
        except BadInput as error:
            fault = str(error)
        if fault:
            wrong += 1
            told(f"good file {seed}: {fault}")
    return wrong


def judge_part(part: int) -> Tally:
    """Judge every so many-th input, in a process of its own."""
    warnings.simplefilter("ignore")  # of figures, about letters that no font has
    with tempfile.TemporaryDirectory() as name:
        told = partial(print, flush=True)
        return judge(cases()[part::PROCESSES], Path(name), told)


def say(tally: Tally, good: int, wrong: int) -> None:
    """Print the figures."""
    for reader, tried in sorted(tally.tried.items()):
        print(f"{reader:<8} {tried:>5} tried, {tally.refused[reader]:>5} refused with status 2")
    kinds = {
        "tracebacks": "traceback: ",
        "hangs": "hangs: ",
        "wrong holds": "wrongly holds",
    }
    said = [f"{sum(word in one for one in tally.faults)} {name}" for name, word in kinds.items()]
    print(
        f"{tally.tried.total()} tried, {tally.refused.total()} refused with status 2 in one line, "
        f"the rest read; {', '.join(said)}, {len(tally.faults)} faults in all\n"
        f"worst time {tally.slowest[0]:.2f} s of the processor ({tally.slowest[1][:80]})\n"
        f"worst memory {tally.largest[0]:.0f} MiB more ({tally.largest[1][:80]})\n"
        f"{good} good files, {wrong} refused or read wrongly"
    )


def main(good: int = 2000) -> int:
    """Run the whole corpus."""
    tally = Tally()
    with ProcessPoolExecutor(PROCESSES) as pool, tempfile.TemporaryDirectory() as name:
        for part in pool.map(judge_part, range(PROCESSES)):
            tally += part
        wrong = read_good(good, Path(name))
    say(tally, good, wrong)
    return 1 if tally.faults or wrong else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
