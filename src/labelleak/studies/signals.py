"""Show what LLG rests on: a row sum's sign tells presence (P1), its size the count (P2)."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from labelleak.attacks.llg import Calibration, calibrate
from labelleak.audits.options import check_options
from labelleak.audits.run import plan_once
from labelleak.audits.stage import train_stages
from labelleak.core.score import Truth
from labelleak.core.seeding import stream
from labelleak.simulation.batches import Dirichlet, draw_batches
from labelleak.studies.study import Found, Study

BATCH, TRIALS = 32, 60
PRESENT, ABSENT, LINE = "#0b6e99", "#c8602a", "#555555"


@dataclass(frozen=True, eq=False)
class Signals:
    """Row sums beside the counts behind them, ``T x K``, and what LLG takes them to mean.

    Attributes:
        data: name of the data set.
        batch_size: N of every batch.
        row_sums: g_i of each class of each batch.
        counts: true c_i.
        estimated: LLG's impact per label, from each update alone; T numbers.
        measured: impact and offsets measured with auxiliary data (LLG+).
    """

    data: str
    batch_size: int
    row_sums: np.ndarray
    counts: np.ndarray
    estimated: np.ndarray
    measured: Calibration

    @property
    def adjusted(self) -> np.ndarray:
        """Row sums less the offsets, over the impact per label (LLG+): what P2 takes for counts."""
        classes, offset = self.row_sums.shape[1], self.measured.offset
        impact = (1 + 1 / classes) / self.batch_size * self.measured.own
        return np.asarray((self.row_sums - offset) / impact)


def measure_signals(data: str, *, seed: int, batch_size: int = BATCH) -> Signals:
    """Take the row sums of many skewed batches on the paper's CNN, untrained."""
    options = check_options(
        data=data,
        model="cnn",
        init="uniform",
        batch_sizes=(batch_size,),
        attacks=("free",),
        trials=TRIALS,
        initialisations=1,
        training_steps=(0,),
        seed=seed,
    )
    (stage,) = train_stages(plan_once(options, ""), 0, options.training_steps)
    held, roles = stage.plan.data, stage.plan.roles
    pool, classes = roles.victims.labels.numpy(), held.num_classes
    rng = stream(seed, "signals")
    batches = draw_batches(Dirichlet(1.0), pool, classes, batch_size, TRIALS, rng)
    g = stage.clients.table.gradients(batches).row_sums
    passes = stage.model.run_chunks(roles.auxiliary.inputs)
    return Signals(
        held.name,
        batch_size,
        g,
        Truth.from_labels(pool[batches], classes).counts,
        (1 + 1 / classes) / batch_size * np.minimum(g, 0).sum(axis=-1),
        calibrate(passes, roles.auxiliary.labels.numpy(), classes),
    )


def draw_signals(found: Found) -> dict[str, str | bytes]:
    """Draw P1 and P2, and write the numbers beside the picture.

    Returns:
        signals.svg, signals.png, signals.csv.

    Raises:
        BadInput: for a data set that cannot be read.
    """
    import matplotlib
    from matplotlib.figure import Figure

    signals = measure_signals(found.asked.data, seed=found.asked.seed)
    files: dict[str, str | bytes] = {}
    with matplotlib.rc_context({"svg.hashsalt": "labelleak", "font.size": 10}):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_presence(signals, left)
        _draw_counts(signals, right)
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
        for kind in ("svg", "png"):
            picture = BytesIO()
            dated = {"Date": None} if kind == "svg" else None
            figure.savefig(picture, format=kind, metadata=dated, dpi=150)
            files[f"signals.{kind}"] = picture.getvalue()
    return {**files, "signals.csv": _numbers(signals)}


def _draw_presence(signals: Signals, axes: Any) -> None:
    """P1: row sums of present against absent classes."""
    g, present = signals.row_sums, signals.counts > 0
    edges = np.histogram_bin_edges(g, bins=60)
    for mask, colour, name in ((present, PRESENT, "present"), (~present, ABSENT, "absent")):
        axes.hist(g[mask], bins=edges, color=colour, alpha=0.75, label=f"{name} ({mask.sum()})")
    below = int((g[~present] < 0).sum())
    axes.axvline(0, color=LINE, linewidth=1)
    axes.set(
        xlabel="row sum of the head's weight gradient",
        ylabel="classes",
        title=f"P1: a negative row sum means present\n"
        f"({below} of {(~present).sum()} absent classes are negative)",
    )
    axes.legend(loc="upper left", frameon=False, title="class in the batch")


def _draw_counts(signals: Signals, axes: Any) -> None:
    """P2: row sum against count, with impact and offset as LLG and LLG+ estimate them."""
    classes = signals.counts.shape[1]
    jitter = np.linspace(-0.25, 0.25, classes)
    x = (signals.counts + jitter).ravel()
    axes.scatter(x, signals.row_sums.ravel(), s=9, color=PRESENT, alpha=0.5)
    reach = np.array([0, signals.counts.max()])
    measured = signals.measured
    slope = (1 + 1 / classes) / BATCH * measured.own
    offset = float(measured.offset.mean())
    for line, style, name in (
        (offset + slope * reach, "-", f"LLG+: {slope:.2f} per label, offset {offset:.2f}"),
        (
            signals.estimated.mean() * reach,
            "--",
            f"LLG: {signals.estimated.mean():.2f} per label, offset 0",
        ),
    ):
        axes.plot(reach, line, style, color=ABSENT, label=name)
    fit = np.corrcoef(signals.counts.ravel(), signals.row_sums.ravel())[0, 1]
    axes.axhline(0, color=LINE, linewidth=1)
    axes.set(
        xlabel=f"samples of the class in a batch of {BATCH}",
        ylabel="row sum",
        title=f"P2: each sample adds the same\n(correlation {fit:.3f}; {signals.data}, "
        "paper's CNN, untrained)",
    )
    axes.legend(loc="upper right", frameon=False)


def _numbers(signals: Signals) -> str:
    rows = ["trial,class,count,row_sum"]
    for (trial, label), count in np.ndenumerate(signals.counts):
        rows.append(f"{trial},{label},{count},{signals.row_sums[trial, label]:.6g}")
    return "\r\n".join([*rows, ""])


STUDY = Study(
    report=draw_signals,
    claim="A negative row sum says that a class is in the batch (P1), and its size how often (P2).",
    picture="signals.svg",
)
