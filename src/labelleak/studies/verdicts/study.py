"""Which attack is strongest where: untrained, trained, several local steps, noised or pruned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import labelleak
from labelleak.attacks import LLGStar, dummies_for, make_attack
from labelleak.audits.audit import Progress
from labelleak.audits.run import load_once
from labelleak.core.battery import Battery, make_records
from labelleak.core.interfaces import Attack, Knowledge, LabelledData
from labelleak.core.priors import RepeatedPrior
from labelleak.core.score import Truth
from labelleak.core.seeding import stream, whole_number
from labelleak.core.training import FullTraining
from labelleak.core.white_box import WhiteBox
from labelleak.errors import BadInput
from labelleak.records.files import write_whole
from labelleak.records.journal import PART, Journal
from labelleak.records.record import Record, read_records
from labelleak.simulation.batches import draw_batches, parse_scheme
from labelleak.simulation.data.datasets import Dataset
from labelleak.simulation.gradients import HeadTable
from labelleak.simulation.models import build_model
from labelleak.simulation.roles import Roles, divide
from labelleak.simulation.training import Training, accuracy, train_in_stages
from labelleak.studies.verdicts.cases import (
    CASES,
    Case,
    Net,
)
from labelleak.studies.verdicts.tables import make_verdict_table
from labelleak.studies.verdicts.updates import share_updates

TRIALS, MODELS = 20, 5
# The paper's CNN has 588 head inputs on images of this side; smaller images are enlarged to it.
_SIDE = 28
_MOST_TRAIN, _MOST_TEST = 6000, 1000


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
    journal: Journal | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Record]:
    """Measure all attacks under each case that is not yet in a journal.

    Images smaller than 28 x 28 are enlarged to that, so that the network is the paper's; of
    larger sets 6,000 training samples are used.

    Args:
        data: name or path of a data set.
        seed: seed of everything random.
        initialisations: models of each kind.
        trials: updates of each model and case.
        cases: what to measure.
        command: the command, for the records.
        journal: where records are kept as they are made, a unit for each network,
            initialisation and stage.
        progress: called with cells done and cells in all.

    Returns:
        The new records.

    Raises:
        BadInput: for a data set that cannot be read, or is too small.
    """
    dataset = _fit_network(load_once(data), seed)
    roles = divide(dataset.x_train, dataset.y_train, seed=seed)
    attacks = tuple(_make_attacks(cases, data))
    bench = _Bench(dataset, roles, attacks, seed, trials, command)
    held = set() if journal is None else journal.done
    records: list[Record] = []
    done, total = 0, initialisations * len(cases)
    progress(done, total)
    nets = list(dict.fromkeys(case.net for case in cases))
    for initialisation, (part, net) in product(range(initialisations), enumerate(nets)):
        own = [case for case in cases if case.net == net]
        stages = {case.stage for case in own}
        left = {stage for stage in stages if (part, initialisation, stage) not in held}
        done += sum(case.stage not in left for case in own)
        progress(done, total)
        if not left:
            continue
        for stage, server in _servers(bench, net, initialisation, left):
            found: list[Record] = []
            for case in (case for case in own if case.stage == stage):
                found += _measure(bench, server, case, initialisation)
                done += 1
                progress(done, total)
            if journal is not None:
                marked = [replace(row, extra={**row.extra, PART: part}) for row in found]
                journal.write((part, initialisation, stage), marked)
            records += found
    return records


def run_verdicts(
    data: str,
    out: Path,
    *,
    seed: int,
    command: str = "",
    overwrite: bool = False,
    cases: Sequence[Case] = CASES,
    name: str = "verdicts",
    progress: Progress = lambda done, total: None,
) -> Path:
    """Measure cases and write records.jsonl and a table of them into a folder.

    An interrupted run goes on where it stopped.

    Args:
        data: name or path of a data set.
        out: the folder; made if it is not there.
        seed: seed of everything random.
        command: the command, for the records.
        overwrite: drop another run that lies there.
        cases: what to measure.
        name: the experiment's, which the table is called by.
        progress: called with cells done and cells in all.

    Returns:
        The Markdown file.

    Raises:
        BadInput: for a data set that cannot be read, or a folder that cannot be written, or that
            holds another run.
    """
    asked = {
        "experiment": name,
        "data": data,
        "data_fingerprint": load_once(data).fingerprint,
        "cases": [repr(case) for case in cases],
        "seed": seed,
        "labelleak": labelleak.__version__,
    }
    with Journal.open(out, asked, overwrite=overwrite) as journal:
        measure_verdicts(
            data, seed=seed, cases=cases, command=command, journal=journal, progress=progress
        )
        target = out / f"{name}.md"
        write_whole(target, make_verdict_table(read_records(journal.records)) + "\n")
    return target


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
        net.model,
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
    own = case.size // case.epochs
    drawn = draw_batches(scheme, pool, classes, own, bench.trials, stream(bench.seed, *purpose))
    rng = stream(bench.seed, *purpose, "order")
    observation = share_updates(server.model, server.table, bench.roles.victims, case, drawn, rng)
    training = case.training or FullTraining(lr=1.0, batch_size=case.size)
    battery = replace(
        server.battery, attacks=tuple(a for a in bench.attacks if a.name in case.attacks)
    ).with_batches(RepeatedPrior(scheme.prior(pool, classes), case.epochs), training)
    truth = Truth(case.epochs * Truth.from_labels(pool[drawn], classes).counts)
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


def _provenance(
    bench: _Bench, server: _Server, case: Case, initialisation: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    how = case.training or FullTraining(lr=1.0, batch_size=case.size)
    common: dict[str, Any] = {
        "seed": bench.seed,
        "data": bench.data.name,
        "model": case.net.model,
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
        "epochs": case.epochs,
        "data_fingerprint": bench.data.fingerprint,
        "train_size": len(bench.roles.train),
        "auxiliary_size": len(bench.roles.auxiliary),
        "victim_size": len(bench.roles.victims),
    }
    if case.training is not None:
        size = float(server.table.inputs.square().sum(dim=1).mean())
        extra["lr_h2"] = round(how.lr * (size + 1), 6)
    return common, extra
