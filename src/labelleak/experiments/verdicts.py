"""Which attack is strongest where: untrained, trained, several local steps, noised or pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import labelleak
from labelleak.attacks import LLGStar, dummies_for, make_attack
from labelleak.battery import STANDARD, Battery, make_records
from labelleak.errors import BadInput
from labelleak.experiments.audit import Progress
from labelleak.interfaces import Attack, Knowledge, LabelledData, LocalTraining
from labelleak.intervals import Interval
from labelleak.observation import Observation
from labelleak.record import Record
from labelleak.report import Cell, tabulate, worst_cases
from labelleak.report.wording import name_attack, name_attacker
from labelleak.score import Truth
from labelleak.seeding import stream, whole_number
from labelleak.simulation.batches import draw_batches, parse_scheme
from labelleak.simulation.client import train_locally
from labelleak.simulation.datasets import Dataset, load_dataset
from labelleak.simulation.gradients import HeadTable
from labelleak.simulation.models import build_model
from labelleak.simulation.roles import Roles, divide
from labelleak.simulation.training import Training, accuracy, train_in_stages
from labelleak.white_box import WhiteBox
from labelleak.whole_files import write_whole

TRIALS, MODELS = 20, 5
STEPS, BATCH = 10, 8
ONE_STEP = (*STANDARD, "rlg")
SEVERAL_STEPS = (*STANDARD, "interpolation", "client_simulation")
# The paper's CNN has 588 head inputs on images of this side; smaller images are enlarged to it.
_SIDE = 28
_MOST_TRAIN, _MOST_TEST = 6000, 1000
_TITLES = {
    "a": "(a) Untrained model, one step",
    "b": "(b) Trained model, one step",
    "c": "(c) Untrained model, several local steps",
    "d": "(d) Untrained model, one step, noised or compressed",
}


@dataclass(frozen=True)
class Net:
    """LLG's three convolutions with an activation, drawn in some way."""

    activation: str
    init: str = "default"


SIGMOID, RELU, TANH = Net("sigmoid", "uniform"), Net("relu"), Net("tanh")


@dataclass(frozen=True)
class Case:
    """One condition that all attacks are measured under.

    Attributes:
        verdict: a to d, the verdict that it speaks to.
        net: the model.
        size: labels in all.
        scheme: how they are drawn.
        stage: training steps of the global model.
        training: how the client trains; None for one step, of which it shares the gradient.
        spread: of several steps, whether each gets the same share of every class, or labels
            are shuffled over the steps.
        plain: take the step weights for those of plain SGD, that is, divide by the steps.
        defense: what is done to the gradient before it is shared.
    """

    verdict: str
    net: Net
    size: int
    scheme: str = "unbalanced"
    stage: int = 0
    training: LocalTraining | None = None
    spread: bool = False
    plain: bool = False
    defense: str = "none"

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks; those that simulate the client are not told a wrong scale."""
        if self.training is None:
            return ONE_STEP
        return STANDARD if self.plain else SEVERAL_STEPS

    @property
    def optimizer(self) -> str:
        """How the client trains, and how that is read, in words."""
        how = self.training
        if how is None:
            return "one step"
        text = f"{how.optimiser} lr {how.lr:g}"
        text += f" momentum {how.momentum:g}" if how.momentum else ""
        text += " divided by T" if self.plain else ""
        return text + (", classes spread over steps" if self.spread else "")

    @property
    def column(self) -> str:
        """The heading of its column."""
        return {
            "a": f"{self.scheme}, N = {self.size}",
            "b": f"{self.stage} steps, {self.scheme}",
            "c": self.optimizer,
            "d": self.defense,
        }[self.verdict]


def _local(lr: float, momentum: float = 0.0) -> LocalTraining:
    return LocalTraining(lr, STEPS, BATCH, momentum)


_ADAM = LocalTraining(0.001, STEPS, BATCH, optimiser="adam")
_PUSHED = _local(0.01, momentum=0.9)
_DEFENSES = (
    "none",
    "noise:0.01",
    "noise:0.1",
    "noise:1",
    "prune:0.8",
    "prune:0.9",
    "prune:0.99",
    "sign",
)
_STAGES = ((RELU, 25), (RELU, 80), (RELU, 400), (SIGMOID, 150), (SIGMOID, 400))
_CLIENTS = (
    *((RELU, how, False) for how in (_local(0.01), _local(0.05), _PUSHED)),
    (RELU, _PUSHED, True),
    (RELU, _ADAM, False),
    *((SIGMOID, _local(lr), False) for lr in (0.002, 0.01, 0.1)),
)
_SCHEMES = ("iid", "unbalanced")
CASES = (
    *(Case("a", n, s, d) for n in (SIGMOID, RELU, TANH) for d in _SCHEMES for s in (8, 32, 128)),
    *(Case("b", net, 32, scheme, stage) for net, stage in _STAGES for scheme in _SCHEMES),
    *(Case("c", n, STEPS * BATCH, training=t, plain=p) for n, t, p in _CLIENTS),
    *(
        Case("c", RELU, STEPS * BATCH, training=_PUSHED, spread=True, plain=p)
        for p in (False, True)
    ),
    *(Case("d", net, 8, defense=defense) for net in (SIGMOID, RELU) for defense in _DEFENSES),
)


@dataclass(frozen=True, eq=False)
class _Bench:
    """What all cases share: data, who holds them, the attacks, and provenance."""

    data: Dataset
    roles: Roles
    attacks: tuple[Attack, ...]
    seed: int
    trials: int
    command: str


@dataclass(frozen=True, eq=False)
class _Server:
    """One model at one stage, with the attacks prepared against it."""

    model: WhiteBox
    battery: Battery
    table: HeadTable
    accuracy: float


def measure_verdicts(
    data: str,
    *,
    seed: int,
    initialisations: int = MODELS,
    trials: int = TRIALS,
    cases: Sequence[Case] = CASES,
    command: str = "",
    progress: Progress = lambda done, total: None,
) -> list[Record]:
    """Measure all attacks under each case.

    Images smaller than 28 x 28 are enlarged to that, so that the network is the paper's; of
    larger sets 6,000 training samples are used.

    Args:
        data: name or path of a data set.
        seed: seed of everything random.
        initialisations: models of each kind.
        trials: updates of each model and case.
        cases: what to measure.
        command: the command, for the records.
        progress: called with cells done and cells in all.

    Raises:
        BadInput: for a data set that cannot be read, or is too small.
    """
    dataset = _fit_network(load_dataset(data), seed)
    roles = divide(dataset.x_train, dataset.y_train, seed=seed)
    attacks = tuple(_make_attacks(cases, data))
    bench = _Bench(dataset, roles, attacks, seed, trials, command)
    records: list[Record] = []
    done, total = 0, initialisations * len(cases)
    progress(done, total)
    for initialisation in range(initialisations):
        for net in dict.fromkeys(case.net for case in cases):
            own = [case for case in cases if case.net == net]
            for stage, server in _servers(bench, net, initialisation, {c.stage for c in own}):
                for case in (case for case in own if case.stage == stage):
                    records.extend(_measure(bench, server, case, initialisation))
                    done += 1
                    progress(done, total)
    return records


def run_verdicts(
    data: str, out: Path, *, seed: int, progress: Progress = lambda done, total: None
) -> Path:
    """Measure every case and write records.jsonl and verdicts.md into a folder.

    Args:
        data: name or path of a data set.
        out: the folder; made if it is not there.
        seed: seed of everything random.
        progress: called with cells done and cells in all.

    Returns:
        The Markdown file.

    Raises:
        BadInput: for a data set that cannot be read, or a folder that cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write to {out}: {error.strerror or error}") from error
    command = f"labelleak paper verdicts --data {data} --seed {seed} --out {out}"
    records = measure_verdicts(data, seed=seed, command=command, progress=progress)
    write_whole(out / "records.jsonl", "".join(f"{row.to_json()}\n" for row in records))
    target = out / "verdicts.md"
    write_whole(target, make_verdict_table(records) + "\n")
    return target


def make_verdict_table(records: Iterable[Record]) -> str:
    """Write records as Markdown tables, one per verdict and model.

    Each entry is the ASR with its interval. The expected ASR of the best guess without the
    update stands in the first row, and the strongest attacker of each threat model below.
    """
    rows = list(records)
    tables = sorted(dict.fromkeys(map(_table_of, rows)), key=lambda table: table[0])
    return "\n\n".join(
        _write_table(*key, [row for row in rows if _table_of(row) == key]) for key in tables
    )


def _table_of(row: Record) -> tuple[str, str]:
    net = f"{row.data}, {row.extra['activation']} ({row.extra['init']} initialisation)"
    return str(row.extra["verdict"]), net


def _write_table(verdict: str, net: str, rows: list[Record]) -> str:
    titles = list(dict.fromkeys(str(row.extra["column"]) for row in rows))
    columns = [[row for row in rows if row.extra["column"] == title] for title in titles]
    cells = [{cell.attack: cell for cell in tabulate(column)} for column in columns]
    best = [{cell.threat_model: cell for cell in worst_cases(column)} for column in columns]
    heads = [_heading(title, column) for title, column in zip(titles, columns, strict=True)]
    needs = {name: cell.threat_model for column in cells for name, cell in column.items()}
    free = [f"{next(iter(column.values())).free:.2f}" for column in cells]
    first = rows[0]
    models, each = _spread_of(columns[0])
    return "\n".join(
        [
            f"**{_TITLES[verdict]}: {net}** (K = {first.num_classes}, {models} models, "
            f"{each} updates of each; ASR)",
            "",
            "| attack | needs | " + " | ".join(heads) + " |",
            "|---|---|" + "---|" * len(heads),
            f"| **{name_attack('free')}, expected** | none | " + " | ".join(free) + " |",
            *(
                f"| {name_attack(name)} | {need} | {_row(cells, name, _entry)} |"
                for name, need in needs.items()
                if name != "free"
            ),
            *(
                f"| advantage of the strongest | {need} | {_row(best, need, _advantage)} |"
                for need in dict.fromkeys(name for column in best for name in column)
            ),
        ]
    )


def _spread_of(rows: list[Record]) -> tuple[int, int]:
    models = len({row.initialisation for row in rows})
    return models, len({row.trial for row in rows}) // models


def _heading(title: str, rows: list[Record]) -> str:
    first = rows[0]
    if first.extra["verdict"] == "b":
        found = {row.initialisation: row.model_accuracy or 0.0 for row in rows}.values()
        return f"{title} (accuracy {min(found):.2f} to {max(found):.2f})"
    if first.extra["verdict"] == "c":
        return f"{title} (lr·(‖h‖²+1) = {np.mean([r.extra['lr_h2'] for r in rows]):.2g})"
    return title


def _row(columns: list[dict[str, Cell]], name: str, write: Callable[[Cell], str]) -> str:
    return " | ".join(write(column[name]) if name in column else "-" for column in columns)


def _entry(cell: Cell) -> str:
    return _span(cell.asr)


def _advantage(cell: Cell) -> str:
    return "-" if cell.advantage is None else f"{_span(cell.advantage)} {name_attacker(cell)}"


def _span(interval: Interval) -> str:
    return f"{interval.mean:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def _fit_network(data: Dataset, seed: int) -> Dataset:
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


def _make_attacks(cases: Sequence[Case], data: str) -> Iterator[Attack]:
    for name in dict.fromkeys(name for case in cases for name in case.attacks):
        attack = make_attack(name)
        kind = dummies_for(Path(data).stem)
        yield replace(attack, dummies=kind) if isinstance(attack, LLGStar) else attack


def _servers(
    bench: _Bench, net: Net, initialisation: int, stages: Iterable[int]
) -> Iterator[tuple[int, _Server]]:
    """Build a model, train it to each stage, and prepare the attacks there."""
    module = build_model(
        "cnn",
        input_shape=bench.data.input_shape,
        num_classes=bench.data.num_classes,
        activation=net.activation,
        init=net.init,
        seed=whole_number(bench.seed, "model", initialisation),
    )
    rng = stream(bench.seed, "training", initialisation)
    for stage in train_in_stages(module, bench.roles.train, sorted(stages), Training(), rng=rng):
        yield stage, _prepare(bench, module, initialisation, stage)


def _prepare(bench: _Bench, module: nn.Module, initialisation: int, stage: int) -> _Server:
    model, data = WhiteBox(module, "head"), bench.data
    battery = Battery.prepare(
        bench.attacks,
        Knowledge(model, data.input_shape, bench.roles.auxiliary),
        data.num_classes,
        seed=whole_number(bench.seed, "battery", initialisation, stage),
    )
    test = LabelledData(data.x_test, data.y_test)
    table = HeadTable.build(model, bench.roles.victims)
    return _Server(model, battery, table, round(accuracy(module, test), 6))


def _measure(bench: _Bench, server: _Server, case: Case, initialisation: int) -> list[Record]:
    """Let the attacks of a case answer one model's updates."""
    scheme, classes = parse_scheme(case.scheme), bench.data.num_classes
    pool = bench.roles.victims.labels.numpy()
    # The same batches under every case that draws alike, so that cases are compared in pairs.
    purpose = ("verdicts", initialisation, case.net, case.scheme, case.size)
    drawn = draw_batches(
        scheme, pool, classes, case.size, bench.trials, stream(bench.seed, *purpose)
    )
    observation = _observe(bench, server, case, drawn, stream(bench.seed, *purpose, "order"))
    training = case.training or LocalTraining(lr=1.0, batch_size=case.size)
    battery = replace(
        server.battery, attacks=tuple(a for a in bench.attacks if a.name in case.attacks)
    ).with_batches(scheme.prior(pool, classes), training)
    truth = Truth.from_labels(pool[drawn], classes)
    common, extra = _provenance(bench, server, case, initialisation)
    first = initialisation * bench.trials
    return [
        record
        for outcome in battery.run(observation, truth)
        for record in make_records(
            outcome,
            truth,
            trials=range(first, first + bench.trials),
            common=common,
            extra=extra,
        )
    ]


def _observe(
    bench: _Bench, server: _Server, case: Case, drawn: np.ndarray, rng: np.random.Generator
) -> Observation:
    if case.training is None:
        return _defend(server.table.gradients(drawn), case.defense, rng)
    how, module = case.training, server.model.module
    steps = (len(drawn), how.local_steps, how.batch_size)
    if case.spread:  # step t gets every T-th label, and equal labels stand side by side
        ordered = np.swapaxes(drawn.reshape(steps[0], steps[2], steps[1]), 1, 2)
    else:
        ordered = rng.permuted(drawn, axis=1).reshape(steps)
    names = ("head.weight", "head.bias")
    after = [train_locally(module, bench.roles.victims, rows, how) for rows in ordered]
    return Observation.from_update(
        module.state_dict(),
        {name: torch.stack([one[name] for one in after]) for name in names},
        head="head",
        lr=how.lr,
        local_steps=how.local_steps,
        batch_size=how.batch_size,
        momentum=0.0 if case.plain or how.optimiser != "sgd" else how.momentum,
    )


def _defend(observation: Observation, defense: str, rng: np.random.Generator) -> Observation:
    """Noise, prune or reduce to signs the head's gradient, each tensor and trial for itself."""
    kind, _, strength = defense.partition(":")
    change: dict[str, Callable[[Tensor], Tensor]] = {
        "none": lambda gradient: gradient,
        "noise": lambda gradient: gradient + float(strength) * _normal(gradient, rng),
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


def _provenance(
    bench: _Bench, server: _Server, case: Case, initialisation: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    how = case.training or LocalTraining(lr=1.0, batch_size=case.size)
    common: dict[str, Any] = {
        "seed": bench.seed,
        "adaptive": False,
        "data": bench.data.name,
        "model": "cnn",
        "initialisation": initialisation,
        "training_steps": case.stage,
        "model_accuracy": server.accuracy,
        "scheme": case.scheme,
        "num_classes": bench.data.num_classes,
        "batch_size": how.batch_size,
        "local_steps": how.local_steps,
        "num_samples": case.size,
        "defense": case.defense,
        "labelleak": labelleak.__version__,
        "torch": str(torch.__version__),
        "command": bench.command,
    }
    extra: dict[str, Any] = {
        "verdict": case.verdict,
        "column": case.column,
        "activation": case.net.activation,
        "init": case.net.init,
        "mode": "train",
        "optimizer": case.optimizer,
        "data_fingerprint": bench.data.fingerprint,
        "train_size": len(bench.roles.train),
        "auxiliary_size": len(bench.roles.auxiliary),
        "victim_size": len(bench.roles.victims),
    }
    if case.training is not None:
        size = float(server.table.inputs.square().sum(dim=1).mean())
        extra["lr_h2"] = round(how.lr * (size + 1), 6)
    return common, extra


__all__ = ["CASES", "Case", "Net", "make_verdict_table", "measure_verdicts", "run_verdicts"]
