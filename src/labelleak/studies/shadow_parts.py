"""What the shadow attack owes to its parts, its budget and its data, and how far to trust it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from labelleak.attacks import AdaptiveShadow, LLGPlus, Shadow
from labelleak.attacks.shadow.attack import ShadowPosterior, expected_success
from labelleak.attacks.shadow.features import GROUPS
from labelleak.audits.audit import Progress
from labelleak.audits.clients import Clients, Updates
from labelleak.audits.plan import CellOptions, Plan, build, view_model
from labelleak.audits.training_stages import reach_stages
from labelleak.core.counts import Floats
from labelleak.core.interfaces import Attack, Knowledge, LabelledData, prepare
from labelleak.core.priors import free_guess
from labelleak.core.score import advantage, score
from labelleak.core.seeding import stream
from labelleak.defenses import Chain, GaussianNoise, Pruning, TopK
from labelleak.records.files import write_whole
from labelleak.simulation.data.datasets import load_dataset
from labelleak.studies.shadow import plan_shadow

STAGES, SIZES, TRIALS = (0, 60, 600), (8, 128), 150
BUDGETS = (250, 1000, 4000, 16000)
FEW = (50, 100, 200)
SIGMAS = tuple(10.0**power for power in np.arange(-5, 1.01, 0.25))
KEPT, TARGET = 0.2, 0.3
BINS = 15


@dataclass(frozen=True, eq=False)
class _Model:
    """One model at one stage, what an attacker may hold of it, and its clients."""

    plan: Plan
    known: Knowledge
    clients: Clients

    @classmethod
    def of(cls, plan: Plan, module: nn.Module) -> _Model:
        model = view_model(plan.options, plan.data, copy.deepcopy(module))
        known = Knowledge(model, plan.data.input_shape, plan.roles.auxiliary, defense=Chain())
        return cls(plan, known, Clients(plan, model, 0, len(plan.trials_of(0))))

    def share(self, size: int, defense: Chain, steps: int = 1, lr: float = 1.0) -> list[Updates]:
        """Let clients share under every scheme, ``size`` labels a step."""
        return [
            self.clients.share(CellOptions(scheme, size, steps, lr, 1, defense, plain=True))
            for scheme in self.plan.schemes
        ]

    def success(self, attack: Attack, updates: list[Updates], known: Knowledge) -> list[float]:
        """Return the mean ASR of an attack under every scheme."""
        rng = stream(self.plan.options.seed, "attack", attack.name)
        ready = prepare(attack, known, self.plan.data.num_classes, rng)
        return [
            float(score(ready(one.observation).counts, one.truth).asr.mean()) for one in updates
        ]


def plan_studies(data: str, model: str, *, seed: int, command: str) -> Plan:
    """Plan the table's models, but one of each stage, with all batches on it."""
    return plan_shadow(
        data,
        model,
        seed=seed,
        command=command,
        stages=STAGES,
        sizes=SIZES,
        trials=TRIALS,
        initialisations=1,
    )


def run_studies(
    plan: Plan,
    out: Path,
    *,
    other: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Measure on the first model of a plan, early and late, and write studies.md.

    Args:
        plan: data, model, stages (the second is early, the last late), schemes and trials.
        out: the folder; made if it is not there.
        other: another data set with inputs of the same shape, which an attacker may have to
            make do with; None leaves it out.
        progress: called with studies done and studies in all.

    Raises:
        BadInput: for data that cannot be read.
    """
    module = copy.deepcopy(build(plan.options, plan.data, 0))
    stages = sorted(plan.options.training_steps)
    models = {}
    for stage in reach_stages(module, plan.roles.train, plan.options, 0, stages):
        module.train(plan.options.mode == "train")
        models[stage] = _Model.of(plan, module)
    late, early = models[stages[-1]], models[stages[min(1, len(stages) - 1)]]
    parts = [f"## {plan.data.name}, {plan.options.model}"]
    studies: tuple[Callable[[], str], ...] = (
        lambda: _ablation(late),
        lambda: _calibration(late),
        lambda: _auxiliary(late, other),
        lambda: _defended(early),
        lambda: _several_steps(early),
    )
    for done, study in enumerate(studies):
        progress(done, len(studies))
        parts.append(study())
    progress(len(studies), len(studies))
    out.mkdir(parents=True, exist_ok=True)
    target = out / "studies.md"
    write_whole(target, "\n\n".join(parts) + "\n")
    return target


def _ablation(model: _Model) -> str:
    """Leave out each group of features, and vary the budget."""
    variants: list[tuple[str, Attack]] = [("as it is", Shadow())]
    variants += [
        (f"without {group}", Shadow(groups=tuple(g for g in GROUPS if g != group)))
        for group in GROUPS
    ]
    variants += [("bias and constants alone", Shadow(groups=("bias", "constants")))]
    variants += [(f"{number} shadow batches", Shadow(batches=number)) for number in BUDGETS]
    cells = [(size, model.share(size, Chain())) for size in SIZES]
    lines = [f"| {name} | " + " | ".join(_row(model, attack, cells)) for name, attack in variants]
    return _table("Parts and budget, late", _heads(model, "shadow attack"), lines)


def _row(model: _Model, attack: Attack, cells: list[tuple[int, list[Updates]]]) -> Iterator[str]:
    for _, updates in cells:
        found = model.success(attack, updates, model.known)
        yield from (f"{asr:.3f}" for asr in found)


def _heads(model: _Model, first: str) -> list[str]:
    schemes = [scheme.label for scheme in model.plan.schemes]
    return [first, *(f"{scheme}, N = {size}" for size in SIZES for scheme in schemes)]


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


def _calibration(model: _Model) -> str:
    """Compare P(c_i >= k) with how often it was so, on fresh batches of all schemes."""
    rng = stream(model.plan.options.seed, "attack", Shadow.name)
    ready = Shadow().prepare(model.known, model.plan.data.num_classes, rng)
    assert isinstance(ready, ShadowPosterior)
    lines = []
    for size in SIZES:
        chances, came, told, scored = [], [], [], []
        for one in model.share(size, Chain()):
            tails, truth = ready.tails(one.observation), one.truth
            guess = ready(one.observation).counts
            chances.append(tails.ravel())
            came.append((truth.counts[..., None] >= np.arange(1, size + 1)).ravel())
            told.append(expected_success(tails, guess).mean())
            scored.append(score(guess, truth).asr.mean())
        found, true = np.concatenate(chances), np.concatenate(came)
        curve = ", ".join(f"{p:.2f}: {share:.2f}" for p, share, _ in _bins(found, true))
        lines.append(
            f"| {size} | {calibration_error(found, true):.4f} | {np.mean(told):.3f} | "
            f"{np.mean(scored):.3f} | {curve}"
        )
    heads = ["N", "calibration error", "ASR it expects", "ASR", "chance: frequency"]
    return _table("Calibration on fresh batches, late", heads, lines)


def _auxiliary(model: _Model, other: str | None) -> str:
    """Return the attacker less data, or those of another data set."""
    own = model.plan.roles.auxiliary
    order = stream(model.plan.options.seed, "few").permutation(len(own))
    sets = {f"all {len(own)} samples": own}
    for number in FEW:
        if number < len(own):
            sets[f"{number} samples"] = _take(own, order[:number])
    if other is not None:
        strange = load_dataset(other)
        fits = np.flatnonzero(strange.y_train.numpy() < model.plan.data.num_classes)
        data = LabelledData(strange.x_train, strange.y_train)
        sets[f"{strange.name}, {len(own)} samples"] = _take(data, fits[: len(own)])
    cells = [(size, model.share(size, Chain())) for size in SIZES]
    lines = []
    for name, data in sets.items():
        held = replace(model, known=replace(model.known, auxiliary=data))
        lines += [
            f"| {name}, {attack.name} | " + " | ".join(_row(held, attack, cells))
            for attack in (Shadow(), LLGPlus())
        ]
    lines.append("| free guess | " + " | ".join(_free(model, cells)))
    return _table("Other auxiliary data, late", _heads(model, "the attacker's data"), lines)


def _take(data: LabelledData, picks: np.ndarray) -> LabelledData:
    rows = np.sort(picks).tolist()
    return LabelledData(data.inputs[rows], data.labels[rows])


def _free(model: _Model, cells: list[tuple[int, list[Updates]]]) -> Iterator[str]:
    for size, updates in cells:
        for one in updates:
            yield f"{free_guess(one.prior, size, model.plan.data.num_classes)[1]:.3f}"


def _defended(model: _Model) -> str:
    """Set the adaptive attack beside the plain one under noise and under compression."""
    size = SIZES[0]
    sigma = min(SIGMAS, key=lambda s: abs(_llg_gain(model, size, s) - TARGET))
    lines = []
    for defense in (GaussianNoise(sigma), Pruning(1 - KEPT), TopK(KEPT)):
        chain = Chain((defense,))
        updates = model.share(size, chain)
        lines += _contest(model, updates, defense.label, chain, size)
    return _table(f"Defenses, early, N = {size}", _scheme_heads(model, "defense and attack"), lines)


def _llg_gain(model: _Model, size: int, sigma: float) -> float:
    """Mean advantage of LLG+ under Gaussian noise."""
    updates = model.share(size, Chain((GaussianNoise(sigma),)))
    classes = model.plan.data.num_classes
    gains = []
    for one, asr in zip(updates, model.success(LLGPlus(), updates, model.known), strict=True):
        gained = advantage(asr, free_guess(one.prior, size, classes)[1])
        gains.append(0.0 if gained is None else float(gained))
    return float(np.mean(gains))


def _several_steps(model: _Model) -> str:
    """Set the adaptive attack beside the plain one after local steps."""
    lines = []
    for lr in (0.01, 0.1):
        updates = model.share(8, Chain(), steps=5, lr=lr)
        lines += _contest(model, updates, f"5 steps of 8, lr {lr:g}", Chain(), 40)
    return _table("Local steps, early", _scheme_heads(model, "training and attack"), lines)


def _contest(
    model: _Model, updates: list[Updates], name: str, defense: Chain, total: int
) -> list[str]:
    known = replace(model.known, defense=defense, training=updates[0].training)
    lines = []
    for attack in (LLGPlus(), Shadow(), AdaptiveShadow()):
        found = model.success(attack, updates, known)
        lines.append(f"| {name}, {attack.name} | " + " | ".join(f"{asr:.3f}" for asr in found))
    return [*lines, f"| {name}, free guess | " + " | ".join(_free(model, [(total, updates)]))]


def _scheme_heads(model: _Model, first: str) -> list[str]:
    return [first, *(scheme.label for scheme in model.plan.schemes)]


def _table(title: str, heads: Sequence[str], lines: Sequence[str]) -> str:
    rule = "|" + "---|" * len(heads)
    rows = "\n".join(f"{line} |" for line in lines)
    return f"**{title}**\n\n| {' | '.join(heads)} |\n{rule}\n{rows}"


__all__ = ["calibration_error", "plan_studies", "run_studies"]
