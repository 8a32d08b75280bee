"""Measure speed; what is compared is measured in the same run on the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.nn import functional as F

from labelleak.attacks import LLG
from labelleak.counts import extract_counts
from labelleak.errors import MissingExtra
from labelleak.experiments.audit import audit
from labelleak.interfaces import Knowledge, LabelledData, LocalTraining
from labelleak.observation import Observation
from labelleak.simulation.cohort import Federation, run_rounds
from labelleak.simulation.gradients import HeadTable, autograd_gradients
from labelleak.simulation.models import build_model
from labelleak.white_box import WhiteBox

SWEEP = ("llg", "llg_star", "llg_plus", "random", "free")
SWEEP_SECONDS = 5.0
LLG_RATIO = 3.0
EXTRACTION_MILLISECONDS = 20.0
TABLE_RATIO = 50.0
SIMULATOR_OVERHEAD = 0.10


def run_bench() -> Iterator[str]:
    """Run every measurement on one thread and give a line for each, with what is aimed at."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield _sweep()
        yield _llg()
        yield _extraction()
        yield _table()
        yield _simulator()
        yield from _flower()
    finally:
        torch.set_num_threads(before)


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


def _llg() -> str:
    """Time LLG from a given gradient against summing its rows alone."""
    weight = torch.randn(10_000, 512, generator=torch.Generator().manual_seed(0))
    answer = LLG().prepare(Knowledge(), 10_000, np.random.default_rng(0))
    alone = _best(lambda: weight.sum(1))
    attack = _best(lambda: answer(Observation.from_gradient(weight, num_samples=128)))
    return _line(
        "LLG from a 10,000 x 512 gradient, N = 128, against weight.sum(1)",
        f"{attack / alone:.2f} x ({attack * 1e3:.2f} ms / {alone * 1e3:.2f} ms)",
        f"< {LLG_RATIO:g} x",
        attack / alone < LLG_RATIO,
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
    """Time gradients of trials by the head table against autograd, batches of 8."""
    module = build_model("cnn", input_shape=(1, 28, 28), num_classes=10, init="uniform", seed=0)
    model = WhiteBox(module, "head")
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.random((1000, 1, 28, 28), dtype=np.float32))
    data = LabelledData(inputs, torch.from_numpy(rng.integers(10, size=1000)))
    batches = rng.integers(1000, size=(200, 8))
    table = HeadTable.build(model, data)
    fast = _best(lambda: table.gradients(batches))
    slow = _best(lambda: autograd_gradients(model, data, batches), repeats=2)
    return _line(
        "gradients of 200 batches of 8 (28 x 28, paper's CNN): autograd against head table",
        f"{slow / fast:.0f} x faster ({slow * 1e3:.0f} ms / {fast * 1e3:.1f} ms, table built once)",
        f"> {TABLE_RATIO:g} x",
        slow / fast > TABLE_RATIO,
    )


def _flower() -> Iterator[str]:
    """Measure the audit of a Flower federation where Flower is installed."""
    try:
        from labelleak.experiments.bench_flower import run_flower_bench

        yield from run_flower_bench()
    except MissingExtra as reason:
        yield f"     the audit of a Flower federation was not measured: {reason}"


def _simulator() -> str:
    """Time a round of 10 clients x 10 steps against the bare training loop, turn and turn about."""
    module = build_model("cnn", input_shape=(1, 28, 28), num_classes=10, init="uniform", seed=0)
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.random((1000, 1, 28, 28), dtype=np.float32))
    data = LabelledData(inputs, torch.from_numpy(rng.integers(10, size=1000)))
    parts = np.split(np.arange(1000), 10)
    how = Federation(LocalTraining(lr=0.1, local_steps=10, batch_size=8))
    batches = torch.from_numpy(np.stack(parts)[:, :80].reshape(10, 10, 8))

    def simulate() -> None:
        list(run_rounds(module, data, parts, how))

    def train() -> None:
        for own in batches:
            optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
            for batch in own:
                loss = F.cross_entropy(module(data.inputs[batch]), data.labels[batch])
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()

    pairs = [(_best(simulate, repeats=1), _best(train, repeats=1)) for _ in range(10)]
    simulated, bare = (min(times) for times in zip(*pairs, strict=True))
    return _line(
        "a round of 10 clients x 10 steps of 8 (28 x 28, paper's CNN): simulator over bare loop",
        f"{simulated / bare - 1:+.1%} ({simulated * 1e3:.0f} ms / {bare * 1e3:.0f} ms)",
        f"< {SIMULATOR_OVERHEAD:.0%}",
        simulated / bare - 1 < SIMULATOR_OVERHEAD,
    )


def _best(work: Callable[[], object], *, repeats: int = 15) -> float:
    """Give the shortest of several runs: the one that other jobs disturbed least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _line(what: str, measured: str, aim: str, met: bool) -> str:
    return f"{'ok  ' if met else 'MISS'} {what}: {measured} (aim {aim})"
