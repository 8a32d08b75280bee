"""What the shadow attack owes to its parts, its budget and its data, and how far to trust it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from labelleak.attacks import AdaptiveShadow, LLGPlus, Shadow
from labelleak.attacks.shadow.attack import ShadowPosterior, expected_success
from labelleak.attacks.shadow.features import GROUPS
from labelleak.audits.cell_updates import CellUpdates
from labelleak.audits.plan import CellOptions, Plan
from labelleak.audits.run import plan_once
from labelleak.audits.stage import Stage, train_stages
from labelleak.core.counts import Floats
from labelleak.core.interfaces import Attack, prepare
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.priors import free_guess
from labelleak.core.score import advantage, score
from labelleak.core.seeding import stream
from labelleak.defenses import Chain, GaussianNoise, Pruning, TopK
from labelleak.report.markdown import table
from labelleak.simulation.data.datasets import load_dataset
from labelleak.studies.shadow import ask_shadow
from labelleak.studies.study import Asked, Found, Measurement, Study

STAGES, SIZES, TRIALS = (0, 60, 600), (8, 128), 150
BUDGETS = (250, 1000, 4000, 16000)
FEW = (50, 100, 200)
SIGMAS = tuple(10.0**power for power in np.arange(-5, 1.01, 0.25))
KEPT, TARGET = 0.2, 0.3
BINS = 15


@dataclass(frozen=True, eq=False)
class Table:
    """A table of a model at a stage: what each attack names, row by row.

    Attributes:
        title: what it shows.
        heads: the first line.
        rows: the others.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, eq=False)
class Trained:
    """One model at its stages, trained when it is first asked for.

    Attributes:
        plan: data, model, stages (the second is early, the last late), schemes and trials.
        other: another data set with inputs of the same shape, which an attacker may have to
            make do with; None leaves it out.
    """

    plan: Plan
    other: str | None

    @cached_property
    def stages(self) -> list[Stage]:
        """The model at each stage."""
        return list(train_stages(self.plan, 0, self.plan.options.training_steps))

    @property
    def early(self) -> Lab:
        """The model early in training."""
        return Lab(self.stages[min(1, len(self.stages) - 1)])

    @property
    def late(self) -> Lab:
        """The model late in training."""
        return Lab(self.stages[-1])


@dataclass(frozen=True, eq=False)
class Lab:
    """A model at a stage, on which attacks are tried that hold this and that."""

    stage: Stage

    @property
    def known(self) -> Knowledge:
        """What an attacker holds unless said."""
        return replace(self.stage.battery.known, defense=Chain())

    @property
    def classes(self) -> int:
        """K."""
        return self.stage.plan.data.num_classes

    def share(
        self, size: int, defense: Chain, steps: int = 1, lr: float = 1.0
    ) -> list[CellUpdates]:
        """Let clients share under every scheme, ``size`` labels a step."""
        return [
            self.stage.clients.share(CellOptions(scheme, size, steps, lr, 1, defense, plain=True))
            for scheme in self.stage.plan.schemes
        ]

    def share_all(self) -> list[CellUpdates]:
        """Let clients share under every size and scheme, undefended."""
        return [one for size in SIZES for one in self.share(size, Chain())]

    def success(
        self, attack: Attack, updates: Sequence[CellUpdates], known: Knowledge
    ) -> list[float]:
        """Return the mean ASR of an attack, prepared anew for each size, on some updates."""
        seed = self.stage.plan.options.seed
        ready = {
            size: prepare(attack, known, self.classes, stream(seed, "attack", attack.name))
            for size in set(map(_size, updates))
        }
        guesses = ((ready[_size(one)](one.observation).counts, one.truth) for one in updates)
        return [float(score(counts, truth).asr.mean()) for counts, truth in guesses]

    def free(self, updates: Sequence[CellUpdates]) -> list[float]:
        """Return the ASR of the best guess without each of some updates."""
        return [free_guess(one.prior, _size(one), self.classes)[1] for one in updates]

    def heads(self, first: str) -> list[str]:
        """Name the columns of all sizes and schemes."""
        return [first, *(f"{one}, N = {size}" for size in SIZES for one in self.schemes)]

    @property
    def schemes(self) -> list[str]:
        """How batches are drawn."""
        return [scheme.label for scheme in self.stage.plan.schemes]


def _size(updates: CellUpdates) -> int:
    return int(updates.truth.counts[0].sum())


def _row(name: str, asr: Sequence[float]) -> list[str]:
    return [name, *(f"{one:.3f}" for one in asr)]


def parts_and_budget(model: Trained) -> Table:
    """Leave out each group of features, and vary the budget."""
    variants: list[tuple[str, Attack]] = [("as it is", Shadow())]
    variants += [
        (f"without {group}", Shadow(groups=tuple(g for g in GROUPS if g != group)))
        for group in GROUPS
    ]
    variants += [("bias and constants alone", Shadow(groups=("bias", "constants")))]
    variants += [(f"{number} shadow batches", Shadow(batches=number)) for number in BUDGETS]
    lab, updates = model.late, model.late.share_all()
    rows = [_row(name, lab.success(attack, updates, lab.known)) for name, attack in variants]
    return Table("Parts and budget, late", lab.heads("shadow attack"), rows)


def calibration_error(chances: Floats, came: np.ndarray) -> float:
    """Return the expected calibration error over 15 bins: mean of |chance - frequency| by bin.

    Args:
        chances: P(c_i >= k), any shape.
        came: whether it was so, same shape.

    >>> calibration_error(np.array([0.5, 0.5]), np.array([True, False]))
    0.0
    """
    return sum(abs(chance - share) * weight for chance, share, weight in _bins(chances, came))


def _bins(chances: Floats, came: np.ndarray) -> Iterator[tuple[float, float, float]]:
    place = np.minimum((chances * BINS).astype(int), BINS - 1)
    for number in range(BINS):
        own = place == number
        if own.any():
            yield float(chances[own].mean()), float(came[own].mean()), float(own.mean())


def calibration(model: Trained) -> Table:
    """Compare P(c_i >= k) with how often it was so, on fresh batches of all schemes."""
    lab, rng = model.late, stream(model.plan.options.seed, "attack", Shadow.name)
    ready = Shadow().prepare(lab.known, lab.classes, rng)
    assert isinstance(ready, ShadowPosterior)
    rows = []
    for size in SIZES:
        chances, came, expected, scored = [], [], [], []
        for one in lab.share(size, Chain()):
            tails, truth = ready.tails(one.observation), one.truth
            guess = ready(one.observation).counts
            chances.append(tails.ravel())
            came.append((truth.counts[..., None] >= np.arange(1, size + 1)).ravel())
            expected.append(expected_success(tails, guess).mean())
            scored.append(score(guess, truth).asr.mean())
        found, true = np.concatenate(chances), np.concatenate(came)
        curve = ", ".join(f"{p:.2f}: {share:.2f}" for p, share, _ in _bins(found, true))
        error = calibration_error(found, true)
        figures = [f"{error:.4f}", f"{np.mean(expected):.3f}", f"{np.mean(scored):.3f}"]
        rows.append([str(size), *figures, curve])
    heads = ["N", "calibration error", "ASR it expects", "ASR", "chance: frequency"]
    return Table("Calibration on fresh batches, late", heads, rows)


def other_data(model: Trained) -> Table:
    """Give the attacker less data, or those of another data set."""
    lab, own, options = model.late, model.plan.roles.auxiliary, model.plan.options
    order = stream(options.seed, "few").permutation(len(own))
    sets = {f"all {len(own)} samples": own}
    for number in FEW:
        if number < len(own):
            sets[f"{number} samples"] = _take(own, order[:number])
    if model.other is not None:
        strange = load_dataset(model.other)
        fits = np.flatnonzero(strange.y_train.numpy() < lab.classes)
        data = LabelledData(strange.x_train, strange.y_train)
        sets[f"{strange.name}, {len(own)} samples"] = _take(data, fits[: len(own)])
    updates = lab.share_all()
    rows = []
    for name, data in sets.items():
        known = replace(lab.known, auxiliary=data)
        rows += [
            _row(f"{name}, {attack.name}", lab.success(attack, updates, known))
            for attack in (Shadow(), LLGPlus())
        ]
    rows.append(_row("free guess", lab.free(updates)))
    return Table("Other auxiliary data, late", lab.heads("the attacker's data"), rows)


def _take(data: LabelledData, picks: np.ndarray) -> LabelledData:
    rows = np.sort(picks).tolist()
    return LabelledData(data.inputs[rows], data.labels[rows])


def defended(model: Trained) -> Table:
    """Set the adaptive attack beside the plain one under noise and under compression."""
    lab, size = model.early, SIZES[0]
    sigma = min(SIGMAS, key=lambda s: abs(_llg_gain(lab, size, s) - TARGET))
    rows = []
    for defense in (GaussianNoise(sigma), Pruning(1 - KEPT), TopK(KEPT)):
        chain = Chain((defense,))
        rows += _contest(lab, lab.share(size, chain), defense.label, chain)
    return Table(f"Defenses, early, N = {size}", ["defense and attack", *lab.schemes], rows)


def _llg_gain(lab: Lab, size: int, sigma: float) -> float:
    """Return the mean advantage of LLG+ under Gaussian noise."""
    updates = lab.share(size, Chain((GaussianNoise(sigma),)))
    pairs = zip(lab.success(LLGPlus(), updates, lab.known), lab.free(updates), strict=True)
    gains = (advantage(asr, free) for asr, free in pairs)
    return float(np.mean([0.0 if gained is None else float(gained) for gained in gains]))


def several_steps(model: Trained) -> Table:
    """Set the adaptive attack beside the plain one after local steps."""
    lab = model.early
    rows = []
    for lr in (0.01, 0.1):
        updates = lab.share(8, Chain(), steps=5, lr=lr)
        rows += _contest(lab, updates, f"5 steps of 8, lr {lr:g}", Chain())
    return Table("Local steps, early", ["training and attack", *lab.schemes], rows)


def _contest(
    lab: Lab, updates: Sequence[CellUpdates], name: str, defense: Chain
) -> list[list[str]]:
    known = replace(lab.known, defense=defense, training=updates[0].training)
    rows = [
        _row(f"{name}, {attack.name}", lab.success(attack, updates, known))
        for attack in (LLGPlus(), Shadow(), AdaptiveShadow())
    ]
    return [*rows, _row(f"{name}, free guess", lab.free(updates))]


TABLES: tuple[Callable[[Trained], Table], ...] = (
    parts_and_budget,
    calibration,
    other_data,
    defended,
    several_steps,
)


def plan_studies(asked: Asked) -> list[Measurement]:
    """Plan the tables, of one model late and early in training, with all batches on it.

    Raises:
        BadInput: for data that cannot be read.
    """
    data, _, other = asked.data.partition(",")
    options = ask_shadow(
        data, asked, stages=STAGES, sizes=SIZES, trials=TRIALS, models=1, attacks=("free",)
    )
    plan = plan_once(options, asked.command)
    model = Trained(plan, other or None)
    return [
        Measurement(f"{plan.data.fingerprint}: {make.__name__}", partial(_make, make, model))
        for make in TABLES
    ]


def _make(make: Callable[[Trained], Table], model: Trained) -> dict[str, Any]:
    return vars(make(model))


def _report(found: Found) -> dict[str, str]:
    data = found.asked.data.partition(",")[0]
    parts = [f"## {load_dataset(data).name}, {found.asked.model or 'lenet'}"]
    parts += [table(one["heads"], one["rows"], title=one["title"]) for one in found.measured]
    return {"studies.md": "\n\n".join(parts) + "\n"}


STUDY = Study(measurements=plan_studies, report=_report, takes=frozenset({"model"}))
