"""Which attack is strongest where: untrained, trained, several local steps, noised or pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from labelleak.audits.options import check_options
from labelleak.audits.run import Part
from labelleak.audits.stage import Stage
from labelleak.core.observation import Observation
from labelleak.core.priors import RepeatedPrior
from labelleak.core.score import Truth
from labelleak.core.seeding import stream
from labelleak.errors import BadInput
from labelleak.records.record import Record
from labelleak.report import Cell, tabulate, worst_cases
from labelleak.report.markdown import group, span, table
from labelleak.report.wording import name_attack
from labelleak.simulation.batches import draw_batches, parse_scheme
from labelleak.simulation.client import train_locally
from labelleak.simulation.data.datasets import Dataset
from labelleak.studies.attacks import say_advantage
from labelleak.studies.study import Asked, Study
from labelleak.studies.verdicts.cases import CASES, Case

TRIALS, MODELS = 20, 5
# The paper's CNN has 588 head inputs on images of this side; smaller images are enlarged to it.
_SIDE = 28
_MOST_TRAIN, _MOST_TEST = 6000, 1000
_TITLES = {
    "a": "(a) Untrained model, one step",
    "b": "(b) Trained model, one step",
    "c": "(c) Several local steps",
    "d": "(d) Untrained model, one step, noised or compressed",
    "llbg": "LLBG's ground: ten local steps of 10 samples, lr 0.001, iid, untrained",
    "rlu": "RLU's ground: heterogeneous clients of 64 samples, steps of 16, lr 0.01",
}


def plan_cases(
    asked: Asked, cases: Sequence[Case] = CASES, *, trials: int = TRIALS, models: int = MODELS
) -> list[Part]:
    """Plan an audit for each network, of all cases on it.

    Images smaller than 28 x 28 are enlarged to that, so that the network is the paper's; of
    larger sets 6,000 training samples are used.

    Args:
        asked: data and seed.
        cases: what to measure.
        trials: updates of each model and case.
        models: initialisations of each network.
    """
    return [
        Part(
            options=check_options(
                data=asked.data,
                model=net.model,
                activation=net.activation,
                init=net.init,
                batch_sizes=tuple(dict.fromkeys(case.size // case.epochs for case in own)),
                schemes=tuple(dict.fromkeys(case.scheme for case in own)),
                attacks=tuple(dict.fromkeys(name for case in own for name in case.attacks)),
                trials=trials * models,
                initialisations=models,
                training_steps=tuple(dict.fromkeys(case.stage for case in own)),
                seed=asked.seed,
            ),
            measure=partial(measure_cases, cases=tuple(own)),
            adapt=fit_network,
        )
        for net, own in group(cases, lambda case: case.net).items()
    ]


def fit_network(data: Dataset, seed: int) -> Dataset:
    """Enlarge small images to the paper's side and thin large sets."""
    if len(data.input_shape) != 3:
        raise BadInput(f"the verdicts need images, and {data.name} holds tables")
    parts: dict[str, Tensor] = {}
    for part, most in (("train", _MOST_TRAIN), ("test", _MOST_TEST)):
        inputs, labels = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
        picks = stream(seed, "thin", part).permutation(len(labels))[:most]
        chosen = torch.from_numpy(np.sort(picks))
        parts[f"x_{part}"], parts[f"y_{part}"] = _enlarge(inputs[chosen]), labels[chosen]
    return replace(data, **parts)  # type: ignore[arg-type]


def _enlarge(images: Tensor) -> Tensor:
    if max(images.shape[-2:]) >= _SIDE:
        return images
    return F.interpolate(images, size=(_SIDE, _SIDE), mode="bilinear")


def measure_cases(stage: Stage, cases: Sequence[Case]) -> Iterator[list[Record]]:
    """Let the attacks of each case that speaks of a stage answer updates of its model."""
    for case in cases:
        if case.stage == stage.steps:
            yield list(_measure(stage, case))


def _measure(stage: Stage, case: Case) -> Iterator[Record]:
    plan, classes = stage.plan, stage.plan.data.num_classes
    scheme, pool = parse_scheme(case.scheme), plan.roles.victims.labels.numpy()
    # The same batches under every case that draws alike, so that cases are compared in pairs.
    seed, purpose = plan.options.seed, ("verdicts", stage.initialisation, case.net, case.scheme)
    words, own = (*purpose, case.size), case.size // case.epochs
    drawn = draw_batches(scheme, pool, classes, own, len(stage.trials), stream(seed, *words))
    observation = share_updates(stage, case, drawn, stream(seed, *words, "order"))
    others = {attack.name for attack in plan.attacks} - set(case.attacks)
    prior = RepeatedPrior(scheme.prior(pool, classes), case.epochs)
    battery = stage.battery.without(others).with_batches(prior, case.how)
    truth = Truth(case.epochs * Truth.from_labels(pool[drawn], classes).counts)
    common, extra = _describe(stage, case)
    for outcome in battery.run(observation, truth):
        yield from stage.write(outcome, truth, common, extra)


def _describe(stage: Stage, case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    common = {
        "scheme": case.scheme,
        "batch_size": case.how.batch_size,
        "local_steps": case.how.local_steps,
        "num_samples": case.size,
        "defense": case.defense,
    }
    extra: dict[str, Any] = {
        "verdict": case.verdict,
        "column": case.column,
        "optimizer": case.optimizer,
        "epochs": case.epochs,
    }
    if case.training is not None:
        size = float(stage.clients.table.inputs.square().sum(dim=1).mean())
        extra["lr_h2"] = round(case.how.lr * (size + 1), 6)
    return common, extra


def share_updates(
    stage: Stage, case: Case, drawn: np.ndarray, rng: np.random.Generator
) -> Observation:
    """Let clients share what a case has them share: gradients, or weights after local training.

    Args:
        stage: the model that the server sent.
        case: how they train and defend themselves.
        drawn: ``T x B`` indices into the victims, the labels of each client's own samples.
        rng: source of noise, and of the order in which local steps take their samples.
    """
    if case.training is None:
        return defend_head(stage.clients.table.gradients(drawn), case.defense, rng)
    how, module, data = case.training, stage.model.module, stage.plan.roles.victims
    steps = (len(drawn), how.local_steps, how.batch_size)
    if case.spread:  # step t gets every T-th label, and equal labels stand side by side
        ordered = np.swapaxes(drawn.reshape(steps[0], steps[2], steps[1]), 1, 2)
    else:
        passes = [rng.permuted(drawn, axis=1) for _ in range(case.epochs)]
        ordered = np.concatenate(passes, axis=1).reshape(steps)
    names = ("head.weight", "head.bias")
    after = [train_locally(module, data, rows, how) for rows in ordered]
    return Observation.from_update(
        module.state_dict(),
        {name: torch.stack([one[name] for one in after]) for name in names},
        head="head",
        # A plain case shows what an observer does who has not heard of the momentum.
        training=replace(how, momentum=0.0) if case.plain else how,
    )


def defend_head(observation: Observation, defense: str, rng: np.random.Generator) -> Observation:
    """Change each tensor of the head's gradient, trial by trial: noise, pruning or signs."""
    kind, _, strength = defense.partition(":")
    change: dict[str, Callable[[Tensor], Tensor]] = {
        "none": lambda gradient: gradient,
        "gaussian": lambda gradient: gradient + float(strength) * _normal(gradient, rng),
        "prune": lambda gradient: _prune(gradient, float(strength)),
        "sign": torch.sign,
    }
    weight, bias = observation.weight, observation.bias
    return replace(
        observation,
        weight=None if weight is None else change[kind](weight),
        bias=None if bias is None else change[kind](bias),
    )


def _normal(like: Tensor, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(like.shape))).to(like.dtype)


def _prune(gradient: Tensor, share: float) -> Tensor:
    """Keep the entries of largest magnitude, at least one, and put the rest at 0."""
    flat = gradient.flatten(1)
    kept = max(1, round((1 - share) * flat.shape[1]))
    least = flat.abs().topk(kept, dim=1).values[:, -1:]
    return torch.where(flat.abs() >= least, flat, 0.0).reshape(gradient.shape)


def make_verdict_table(rows: Sequence[Record]) -> str:
    """Write records as Markdown tables, one per verdict and model.

    Each entry is the ASR with its interval. The expected ASR of the best guess without the
    update stands in the first row, and the strongest attacker of each threat model below.
    """
    tables = sorted(group(rows, _table_of).items(), key=lambda pair: pair[0][0])
    return "\n\n".join(_write_table(*place, own) for place, own in tables) + "\n"


def _table_of(row: Record) -> tuple[str, str]:
    if row.extra["verdict"] == "llbg":
        return "llbg", row.data
    net = f"{row.data}, {row.extra['activation']} ({row.extra['init']} initialisation)"
    return str(row.extra["verdict"]), net


def _write_table(verdict: str, net: str, rows: list[Record]) -> str:
    columns = group(rows, lambda row: str(row.extra["column"]))
    cells = [{cell.attack: cell for cell in tabulate(own)} for own in columns.values()]
    best = [{cell.threat_model: cell for cell in worst_cases(own)} for own in columns.values()]
    needs = {name: cell.threat_model for column in cells for name, cell in column.items()}
    first = next(iter(columns.values()))
    models = len({row.initialisation for row in first})
    title = (
        f"**{_TITLES[verdict]}: {net}** (K = {rows[0].num_classes}, {models} models, "
        f"{len({row.trial for row in first}) // models} updates of each; ASR)"
    )
    free = [f"{next(iter(column.values())).free:.2f}" for column in cells]
    lines = [[f"**{name_attack('free')}, expected**", "none", *free]]
    lines += [
        [name_attack(name), need, *_row(cells, name, lambda cell: span(cell.asr))]
        for name, need in needs.items()
        if name != "free"
    ]
    lines += [
        ["advantage of the strongest", need, *_row(best, need, say_advantage)]
        for need in dict.fromkeys(name for column in best for name in column)
    ]
    heads = [_heading(title, own) for title, own in columns.items()]
    return table(["attack", "needs", *heads], lines, title=title)


def _heading(title: str, rows: list[Record]) -> str:
    first = rows[0]
    said = []
    if first.training_steps:
        found = {row.initialisation: row.model_accuracy or 0.0 for row in rows}.values()
        said.append(f"accuracy {min(found):.2f} to {max(found):.2f}")
    if "lr_h2" in first.extra:
        said.append(f"lr·(‖h‖²+1) = {np.mean([r.extra['lr_h2'] for r in rows]):.2g}")
    return f"{title} ({'; '.join(said)})" if said else title


def _row(columns: list[dict[str, Cell]], name: str, write: Callable[[Cell], str]) -> list[str]:
    return [write(column[name]) if name in column else "-" for column in columns]


STUDY = Study(
    parts=plan_cases, report=lambda found: {"verdicts.md": make_verdict_table(found.records)}
)
