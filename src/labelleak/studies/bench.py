"""Measure speed; what is compared is measured in the same run on the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelleak.attacks import LLG
from labelleak.audits.audit import audit
from labelleak.core.copies import copy_model
from labelleak.core.counts import extract_counts
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.seeding import stream, torch_threads
from labelleak.core.training import FullTraining
from labelleak.core.white_box import WhiteBox
from labelleak.errors import MissingExtra
from labelleak.simulation.client import draw_steps
from labelleak.simulation.cohort import Federation, run_rounds
from labelleak.simulation.gradients import HeadTable, autograd_gradients
from labelleak.simulation.models import build_model
from labelleak.studies.speed import grown, measure_costs, write_costs

SWEEP = ("llg", "llg_star", "llg_plus", "random", "free")
SWEEP_SECONDS = 5.0
SMALL_MILLISECONDS = 0.15
EXTRACTION_MILLISECONDS = 20.0
TABLE_RATIO = 50.0
SIMULATOR_OVERHEAD = 0.10
# What one turn of a comparison does: trials of a call, and calls.
_TRIALS, _CALLS = 100, 20
_CLIENT = FullTraining(lr=0.1, local_steps=10, batch_size=8)


def run_bench(out: Path | None = None) -> Iterator[str]:
    """Run every measurement on one thread and give a line for each, with what is aimed at.

    Args:
        out: folder for a page and a picture of the ratios, which are then all that is measured.
    """
    with torch_threads(1):
        costs = []
        for cost in measure_costs():
            costs.append(cost)
            yield str(cost)
        yield f"times grow: {grown(costs)}"
        if out is not None:
            yield f"written to {write_costs(costs, out)}"
            return
        yield _sweep()
        yield _small()
        yield _extraction()
        yield _table()
        yield _simulator()
        yield from _flower()


def _sweep() -> str:
    """Time the full untrained sweep on digits and the paper's CNN."""
    audit(batch_sizes=[1], trials=1, initialisations=1, training_steps=[0])  # imports, caches
    start = time.perf_counter()
    found = audit(init="uniform", training_steps=[0], attacks=SWEEP)
    seconds = time.perf_counter() - start
    return _line(
        f"full sweep, {len(found.records)} records (8 batch sizes x 2 schemes x 100 trials x 5 "
        "attacks, 10 initialisations)",
        f"{seconds:.2f} s",
        f"< {SWEEP_SECONDS:g} s",
        seconds < SWEEP_SECONDS,
    )


def _small() -> str:
    """Time LLG on one small update, where calls cost more than numbers."""
    weight = torch.randn(10, 512, generator=torch.Generator().manual_seed(0))
    answer = LLG().prepare(Knowledge(), 10, np.random.default_rng(0))

    def work() -> None:
        for _ in range(50):
            answer(Observation.from_gradient(weight, num_samples=8))

    seconds = _best(work) / 50
    return _line(
        "LLG from one 10 x 512 gradient",
        f"{seconds * 1e3:.2f} ms",
        f"< {SMALL_MILLISECONDS:g} ms",
        seconds * 1e3 < SMALL_MILLISECONDS,
    )


def _extraction() -> str:
    row_sums = np.random.default_rng(0).normal(size=100_000)
    seconds = _best(lambda: extract_counts(row_sums, -1e-3, 0.0, 8192))
    return _line(
        "extraction of N = 8,192 labels from K = 100,000 classes",
        f"{seconds * 1e3:.2f} ms",
        f"< {EXTRACTION_MILLISECONDS:g} ms",
        seconds * 1e3 < EXTRACTION_MILLISECONDS,
    )


def _table() -> str:
    """Time gradients of trials by the head table against autograd, batches of 8.

    Counted is what a trial costs once the table stands; the table itself, one pass over the
    victims' samples, is made once for a model and its time is given beside.
    """
    model, data = _paper_cnn()
    rng = np.random.default_rng(0)
    few = rng.integers(1000, size=(_TRIALS, 8))
    many = rng.integers(1000, size=(_CALLS, _TRIALS, 8))
    table = HeadTable.build(model, data)

    def from_table() -> None:
        for batches in many:
            table.gradients(batches)

    turns = _turn_about(lambda: autograd_gradients(model, data, few), from_table, turns=15)
    each = turns / np.array([_TRIALS, _CALLS * _TRIALS])
    ratio = float(np.median(each[:, 0] / each[:, 1]))
    slow, fast = np.median(each, axis=0)
    built = _best(lambda: HeadTable.build(model, data), repeats=3)
    return _line(
        "FedSGD trials, batches of 8 (28 x 28, paper's CNN): head table against autograd, median "
        f"ratio of {len(turns)} turns of {_CALLS * _TRIALS} and {_TRIALS} trials",
        f"{ratio:.0f} x faster ({1 / fast:,.0f} trials/s / {1 / slow:,.0f} trials/s; not counted: "
        f"the table of 1,000 samples, {built * 1e3:.0f} ms once for a model, which pays from "
        f"{np.ceil(built / (slow - fast)):.0f} trials on)",
        f"> {TABLE_RATIO:g} x",
        ratio > TABLE_RATIO,
    )


def _flower() -> Iterator[str]:
    """Measure the audit of a Flower federation where Flower is installed."""
    try:
        from labelleak.flower.bench import run_flower_bench

        yield from run_flower_bench()
    except MissingExtra as reason:
        yield f"     the audit of a Flower federation was not measured: {reason}"


def _simulator() -> str:
    """Time a round of 10 clients x 10 steps against the bare training loop, turn and turn about."""
    model, data = _paper_cnn()
    simulate, train = simulated_round(model.module, data), bare_round(model.module, data)
    turns = _turn_about(simulate, train, turns=24)
    over = float(np.median(turns[:, 0] / turns[:, 1])) - 1
    simulated, bare = np.median(turns, axis=0)
    return _line(
        "a round of 10 clients x 10 steps of 8 (28 x 28, paper's CNN): simulator over bare loop "
        "(a copy of the model and the same batches for each client), median ratio of "
        f"{len(turns)} turns",
        f"{over:+.1%} ({simulated * 1e3:.0f} ms / {bare * 1e3:.0f} ms)",
        f"< {SIMULATOR_OVERHEAD:.0%}",
        over < SIMULATOR_OVERHEAD,
    )


def simulated_round(module: nn.Module, data: LabelledData) -> Callable[[], list[dict[str, Tensor]]]:
    """Make the work of a round of 10 clients in the simulator; it gives the clients' weights."""
    parts = np.split(np.arange(len(data)), 10)

    def work() -> list[dict[str, Tensor]]:
        (only,) = run_rounds(module, data, parts, Federation(_CLIENT))
        return [dict(client.update.tensors) for client in only.clients]

    return work


def bare_round(module: nn.Module, data: LabelledData) -> Callable[[], list[dict[str, Tensor]]]:
    """Make the same work as plain PyTorch: the same batches, each client from the same weights."""
    size, steps = _CLIENT.batch_size, _CLIENT.local_steps
    drawn = [
        [torch.from_numpy(one) for one in draw_steps(own, size, rng, steps=steps)]
        for own, rng in (
            (own, stream(0, "steps", 1, client))
            for client, own in enumerate(np.split(np.arange(len(data)), 10))
        )
    ]

    def work() -> list[dict[str, Tensor]]:
        found = []
        for batches in drawn:
            own = copy_model(module)
            optimiser = torch.optim.SGD(own.parameters(), lr=_CLIENT.lr)
            for batch in batches:
                loss = F.cross_entropy(own(data.inputs[batch]), data.labels[batch])
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
            found.append(own.state_dict())
        return found

    return work


def _paper_cnn() -> tuple[WhiteBox, LabelledData]:
    module = build_model("cnn", input_shape=(1, 28, 28), num_classes=10, init="uniform", seed=0)
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.random((1000, 1, 28, 28), dtype=np.float32))
    return WhiteBox(module, "head"), LabelledData(
        inputs, torch.from_numpy(rng.integers(10, size=1000))
    )


def _turn_about(
    first: Callable[[], object], second: Callable[[], object], *, turns: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Time two works in turn, each going first as often: seconds, ``turns x 2``.

    Ratios are taken turn by turn, so that whatever slows the machine for a while slows both sides.
    The first run of each is not counted.
    """
    times = np.empty((turns + 1, 2))
    for turn in range(turns + 1):
        for number in (0, 1) if turn % 2 else (1, 0):
            start = time.perf_counter()
            (first, second)[number]()
            times[turn, number] = time.perf_counter() - start
    return times[1:]


def _best(work: Callable[[], object], *, repeats: int = 15) -> float:
    """Return the shortest of several runs: the one that other jobs disturbed least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _line(what: str, measured: str, aim: str, met: bool) -> str:
    return f"{'ok  ' if met else 'MISS'} {what}: {measured} (aim {aim})"
