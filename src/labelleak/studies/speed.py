"""What attacks cost beside what cannot be avoided: ratios, each taken in one run."""

from __future__ import annotations

import io
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from labelleak.attacks import LLG
from labelleak.audits.one_update import attack_update
from labelleak.core.counts import Floats, Ints, extract_counts
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.seeding import torch_seeded
from labelleak.core.training import LocalTraining
from labelleak.records.files import write_whole
from labelleak.report.markdown import table
from labelleak.studies.many_updates import battery_works
from labelleak.studies.measuring import compare

WIDTH, SMALL_WIDTH = 512, 128
CLASSES = (10, 1_000, 10_000, 128_256)
# From so many classes on, a ratio to a sum over rows is aimed at; below it is calls that cost.
MANY = 1_000
BATTERY = (10, 1_000, 10_000)
LABELS = (16, 256, 4_096, 65_536)
TRIALS = (1, 100, 1_000)
# Rows and columns of the head in a file: a quarter of a GiB in bfloat16.
HEAD = (32_064, 4_096)
OURS, OTHER = "#0b6e99", "#c8602a"


@dataclass(frozen=True)
class Cost:
    """How long a work takes, and another one in the same run.

    Attributes:
        group: what is varied: rows, labels, trials, clients, file or battery.
        what: the work.
        size: what is varied, in numbers.
        against: what it is compared with.
        seconds: the least processor time of several runs.
        beside: the same of what it is compared with.
        aim: the largest ratio that is aimed at; None where none is.
        peak: bytes that the work took at most; None where that was not told.
    """

    group: str
    what: str
    size: int
    against: str
    seconds: float
    beside: float
    aim: float | None = None
    peak: int | None = None

    @property
    def ratio(self) -> float:
        """The work's time over the other's."""
        return self.seconds / self.beside

    @property
    def met(self) -> bool:
        """Whether the aim is reached."""
        return self.aim is None or self.ratio <= self.aim

    @property
    def memory(self) -> str:
        """The most memory that the work took, in words."""
        return "" if self.peak is None else f"{self.peak / 2**20:,.0f} MiB"

    def __str__(self) -> str:
        aim = "" if self.aim is None else f" (aim <= {self.aim:g} x)"
        held = f", {self.memory}" if self.memory else ""
        return (
            f"{'ok  ' if self.met else 'MISS'} {self.what}: {self.ratio:.2g} x {self.against}, "
            f"{self.seconds * 1e3:.3g} ms / {self.beside * 1e3:.3g} ms{held}{aim}"
        )


def measure_costs(
    classes: Sequence[int] = CLASSES,
    labels: Sequence[int] = LABELS,
    trials: Sequence[int] = TRIALS,
    head: tuple[int, int] = HEAD,
    battery: Sequence[int] = BATTERY,
) -> Iterator[Cost]:
    """Measure everything, on one thread."""
    for number in classes:
        yield from _row_sums(number)
    for number in labels:
        yield _extraction(number)
    for number in trials:
        yield _trials(number)
    yield from (_clients(max(trials), width) for width in (SMALL_WIDTH, WIDTH))
    yield from _files(*head)
    for number in battery:
        yield from _battery(number)


def _row_sums(classes: int) -> Iterator[Cost]:
    """Time LLG from a given gradient against summing its rows alone."""
    weight = torch.randn(classes, WIDTH, generator=torch.Generator().manual_seed(0))
    answer = LLG().prepare(Knowledge(), classes, np.random.default_rng(0))
    half = weight.bfloat16()
    cases: tuple[tuple[Tensor, str, Callable[[], object], float], ...] = (
        (weight, "weight.sum(1)", partial(weight.sum, 1), 2.0),
        (half, "a sum in float32 by chunks of rows", partial(chunked_sum, half), 1.3),
    )
    for given, name, other, aim in cases:
        ask = partial(Observation.from_gradient, given, num_samples=128)
        seconds, beside, peak = compare(lambda ask=ask: answer(ask()), other)  # type: ignore[misc]
        what = f"LLG from a {classes:,} x {WIDTH} gradient in {str(given.dtype)[6:]}"
        aimed = aim if classes >= MANY else None
        yield Cost("rows", what, classes, name, seconds, beside, aimed, peak)


def chunked_sum(weight: Tensor) -> Tensor:
    """Sum the rows of half precision in float32: the plain way that loses nothing.

    >>> chunked_sum(torch.ones(3, 2, dtype=torch.bfloat16)).tolist()
    [2.0, 2.0, 2.0]
    """
    # No block's sums are kept on their own: beside them each next block would need new pages.
    found, deep = torch.empty(len(weight)), max(1, 2**18 // weight.shape[1])
    for start in range(0, len(weight), deep):
        found[start : start + deep] = weight[start : start + deep].float().sum(1)
    return found


def _extraction(labels: int) -> Cost:
    """Time the extraction of a skewed batch against the loop that hands out labels one by one."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(100, 0.1))
    row_sums = 1e-3 - rng.multinomial(labels, shares) / labels
    seconds, beside, peak = compare(
        lambda: extract_counts(row_sums, -1 / labels, 0.0, labels),
        lambda: one_by_one(row_sums, -1 / labels, labels),
        repeats=3,
    )
    what = f"extraction of {labels:,} labels of 100 classes, most of them of a few"
    return Cost("labels", what, labels, "one by one", seconds, beside, peak=peak)


def one_by_one(row_sums: Floats, impact: float, labels: int) -> Ints:
    """Hand out labels as the paper's algorithm is written.

    >>> one_by_one(np.array([-3.0, -1.0, 2.0, 2.0]), -1.0, 4)
    array([3, 1, 0, 0])
    """
    left, counts = row_sums.copy(), np.zeros(len(row_sums), dtype=np.int64)
    for place in np.flatnonzero(row_sums < 0)[:labels]:
        counts[place] += 1
        left[place] -= impact
    for _ in range(labels - int(counts.sum())):
        lowest = int(left.argmin())
        counts[lowest] += 1
        left[lowest] -= impact
    return counts


def _trials(number: int) -> Cost:
    """Time many updates in one call against as many calls."""
    weight = torch.randn(number, 100, WIDTH, generator=torch.Generator().manual_seed(0))
    answer = LLG().prepare(Knowledge(), 100, np.random.default_rng(0))

    def each() -> None:
        for one in weight:
            answer(Observation.from_gradient(one, num_samples=32))

    seconds, beside, peak = compare(
        lambda: answer(Observation.from_gradient(weight, num_samples=32)), each, repeats=3
    )
    what = f"LLG on {number:,} updates of 100 classes in one call"
    return Cost("trials", what, number, "a call for each", seconds, beside, peak=peak)


def _clients(number: int, width: int) -> Cost:
    """Time the quick attacks of the battery on a round's clients in one call."""
    together, each, times = battery_works(number, 100, width)
    seconds, beside, peak = compare(together, each, repeats=2)
    what = f"standard battery but shadow models on {number:,} updates (100 x {width}) in one call"
    return Cost("clients", what, number, "a call for each", seconds, beside * times, peak=peak)


def _files(classes: int, width: int) -> Iterator[Cost]:
    """Time the standard battery on a head's file against reading the file."""
    part = torch.randn(1024, width, generator=torch.Generator().manual_seed(0)) * 1e-3
    weight = part.repeat(-(-classes // 1024), 1)[:classes]
    with tempfile.TemporaryDirectory() as folder:
        before, after, gradient = (Path(folder, name) for name in ("before", "after", "gradient"))
        half = {"lm_head.weight": weight.bfloat16()}
        save_file(half, gradient)
        save_file(half, before)
        save_file({"lm_head.weight": (0.5 * weight).bfloat16()}, after)
        made = LocalTraining(lr=0.1, local_steps=1, batch_size=128)
        size = f"{gradient.stat().st_size / 2**20:,.0f} MiB of bfloat16"
        for what, aim, work in (
            ("gradient", 10.0, lambda: attack_update(gradient=gradient, made=made)),
            (
                "pair before and after",
                20.0,
                lambda: attack_update(before=before, after=after, made=made),
            ),
        ):
            seconds, beside, peak = compare(work, gradient.read_bytes, repeats=2)
            what = f"standard battery on the {what}, {size} a file"
            other = "a plain read of one file"
            yield Cost("file", what, classes, other, seconds, beside, aim, peak)


def _battery(classes: int) -> Iterator[Cost]:
    """Time LLG+, and of many classes the standard battery, against a pass of the own data."""
    generator = torch.Generator().manual_seed(0)
    with torch_seeded(0):
        model = nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, classes))
    labels = torch.arange(classes).repeat(2)
    own = LabelledData(torch.rand(len(labels), 64, generator=generator), labels)
    batch = torch.randint(classes, (64,), generator=generator)
    loss = F.cross_entropy(model(torch.rand(64, 64, generator=generator)), batch)
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradient = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    made = LocalTraining(batch_size=64, local_steps=1)

    def attack(*names: str) -> None:
        attack_update(gradient=gradient, made=made, model=model, auxiliary=own, attacks=names)

    def passed() -> None:
        with torch.no_grad():
            for part in torch.split(own.inputs, 512):
                model(part)

    # Of few classes the battery trains on all layers: minutes, in which nothing grows with K.
    works = (("llg_plus", "LLG+"), ("standard", "standard battery"))
    for name, what in works if classes > MANY else works[:1]:
        seconds, beside, peak = compare(
            partial(attack, name), passed, repeats=1 if classes > MANY else 2
        )
        what = f"{what} with a model of {classes:,} classes and two own samples of each"
        other = "a forward pass of these samples"
        yield Cost("battery", what, classes, other, seconds, beside, peak=peak)


def growth(costs: Sequence[Cost], group: str) -> float:
    """Return the exponent by which a group's times grow with its sizes.

    >>> growth([Cost("rows", "", n, "", n**2.0, 1.0) for n in (1, 10, 100)], "rows")
    2.0
    """
    found = [(one.size, one.seconds) for one in costs if one.group == group]
    if group == "battery":
        found = [(one.size, one.seconds) for one in costs if one.what.startswith("LLG+")]
    if group == "rows":  # of few classes calls are what costs, and they do not grow
        found = [one for one in found if one[0] >= MANY] or found
    sizes, seconds = np.log(np.array(found, dtype=np.float64)).T
    return round(float(np.polyfit(sizes, seconds, 1)[0]), 2)


def grown(costs: Sequence[Cost]) -> str:
    """Say by which exponents times grow.

    >>> grown([Cost("rows", "", n, "", n**2.0, 1.0) for n in (1, 10, 100)])
    'LLG as K to the 2.0'
    """
    words = (
        *(("rows", "LLG", "K"), ("labels", "extraction", "N"), ("trials", "calls", "updates")),
        ("battery", "LLG+ with a model", "K"),
    )
    held = {one.group for one in costs}
    return ", ".join(
        f"{word} as {unit} to the {growth(costs, group)}"
        for group, word, unit in words
        if group in held
    )


def write_costs(costs: Sequence[Cost], folder: Path) -> Path:
    """Write ``speed.md`` and ``speed.png`` of measured costs; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "speed.png", _picture(costs))
    write_whole(folder / "speed.md", _page(costs))
    return folder / "speed.md"


def _page(costs: Sequence[Cost]) -> str:
    rows = [
        [
            one.what,
            f"{one.ratio:.2g} x {one.against}",
            f"{one.seconds * 1e3:.3g} ms",
            one.memory,
            "" if one.aim is None else f"{one.aim:g} x{'' if one.met else ' (missed)'}",
        ]
        for one in costs
    ]
    met = sum(one.met for one in costs)
    said = f"Of {len(costs)} ratios {met} are within what is aimed at. Times grow: {grown(costs)}."
    return f"""# How fast

{textwrap.fill(said, 100)}

`labelleak bench --out docs` measured it on one thread: processor time, the two sides of a ratio in
turn, the least of several runs. A ratio carries over to other machines, a time does not. Memory is
by how much the process grew at most, pages of mapped files among it.

{table(["work", "ratio", "time", "memory", "aim"], rows)}

![Ratios by the number of classes, and times by the number of labels](speed.png)
"""


def _picture(costs: Sequence[Cost]) -> bytes:
    """Draw ratios by K, and times of the extraction beside the loop's by N."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for kind, colour in (("float32", OURS), ("bfloat16", OTHER)):
        found = [c for c in costs if c.group == "rows" and c.what.endswith(" " + kind)]
        left.plot([c.size for c in found], [c.ratio for c in found], "o-", c=colour, label=kind)
    left.set(xscale="log", ylim=0, xlabel="classes K", ylabel="LLG / summing the rows")
    found = [c for c in costs if c.group == "labels"]
    for name, times, colour in (
        ("water level", [c.seconds for c in found], OURS),
        ("one by one", [c.beside for c in found], OTHER),
    ):
        right.plot([c.size for c in found], times, "o-", c=colour, label=name)
    right.set(xscale="log", yscale="log", xlabel="labels N", ylabel="extraction, s")
    left.legend(loc="upper right")
    right.legend(loc="upper left")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=150)
    return out.getvalue()


__all__ = ["Cost", "chunked_sum", "grown", "growth", "measure_costs", "one_by_one", "write_costs"]
