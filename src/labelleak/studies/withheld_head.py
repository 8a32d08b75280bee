"""The head withheld: what the layers below it give away, untrained and trained."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from statistics import mean

from labelleak.audits.audited_model import build
from labelleak.audits.options import AuditOptions, check_options
from labelleak.audits.run import Part, plan_once
from labelleak.audits.training_stages import reach_stages
from labelleak.core.copies import copy_model
from labelleak.core.knowledge import LabelledData
from labelleak.records.intervals import bootstrap_mean
from labelleak.records.record import Record
from labelleak.records.strongest import strongest_records
from labelleak.report.markdown import group, span, table
from labelleak.report.wording import name_attack
from labelleak.simulation.training import accuracy
from labelleak.studies.study import Asked, Study

MODELS = ("mlp", "cnn", "lenet")
HEAD_ONLY = ("llg", "llg_plus", "rlu", "gradient_regression")
PLAIN = "layer_least_squares"
LAYERS = ("layer_regression", "gdbr", "shadow_layers")
ATTACKS = ("free", *HEAD_ONLY, PLAIN, *LAYERS)
DEFENSE = "withhold:head"
# Models are trained until the first of them is this accurate, looked at every so many steps.
ACCURACY, _EVERY, _MOST = 0.9, 20, 2000


def ask(asked: Asked, model: str, stages: Sequence[int]) -> AuditOptions:
    """Ask for the audit of one model.

    Raises:
        BadInput: for names that are unknown, or batches larger than the victims' data.
    """
    return check_options(
        data=asked.data,
        model=model,
        batch_sizes=(8, 32),
        schemes=("iid", "unbalanced"),
        defenses=(DEFENSE,),
        attacks=ATTACKS,
        shadow_batches=1000 if asked.quick else 3000,
        trials=40 if asked.quick else 120,
        initialisations=2 if asked.quick else 3,
        training_steps=tuple(stages),
        seed=asked.seed,
    )


@lru_cache(maxsize=16)
def steps_to_accuracy(options: AuditOptions) -> int:
    """Return the training steps, in twenties, after which the first model is accurate enough.

    Where it never is, the most that are tried.
    """
    plan = plan_once(options, "")
    module = copy_model(build(options, plan.data, 0))
    test = LabelledData(plan.data.x_test, plan.data.y_test)
    stages = range(_EVERY, _MOST + 1, _EVERY)
    for steps in reach_stages(module, plan.roles.train, options, 0, tuple(stages)):
        if accuracy(module, test) >= ACCURACY:
            return steps
    return _MOST


def plan_withheld(asked: Asked) -> list[Part]:
    """Plan an audit of each model, untrained and trained."""
    models = (asked.model,) if asked.model else MODELS
    parts = []
    for model in models:
        trained = steps_to_accuracy(ask(asked, model, (0,)))
        parts.append(Part(options=ask(asked, model, (0, trained))))
    return parts


def make_withheld_table(rows: Sequence[Record]) -> str:
    """Write ASR by attack, and the advantage of the strongest one, a row a cell.

    The head-only attack is the best of them in the cell. The strongest attack of all layers is
    chosen for each initialisation on the others.
    """
    cells = group(rows, lambda row: (row.model, row.training_steps, row.scheme, row.batch_size))
    heads = ["model", "steps", "accuracy", "batches", "N", "free guess", "best head-only"]
    heads += [name_attack(name) for name in (PLAIN, *LAYERS)]
    heads += ["advantage of the strongest (95 % interval)"]
    first = rows[0]
    trials = len({row.trial for row in rows})
    models = len({row.initialisation for row in rows})
    title = (
        f"**{first.data}, head withheld** (ASR; {models} models, {trials} batches a cell; trained "
        f"to accuracy {ACCURACY:g}: steps, in twenties, after which the first model reaches it)"
    )
    return table(heads, (_row(cell, own) for cell, own in cells.items()), title=title) + "\n"


def _row(cell: tuple[str, int, str, int], rows: Sequence[Record]) -> list[str]:
    model, steps, scheme, size = cell
    by = group(rows, lambda row: row.attack)
    asr = {name: mean(row.asr for row in own) for name, own in by.items()}
    reached = mean(row.model_accuracy or 0.0 for row in rows)
    blind = max(asr[name] for name in HEAD_ONLY if name in asr)
    strong = [row for row in rows if row.attack in LAYERS]
    told = [row for row in strongest_records(strong) if row.advantage is not None]
    gained = bootstrap_mean(
        [row.advantage or 0.0 for row in told], [row.initialisation for row in told]
    )
    found = [f"{asr[name]:.2f}" if name in asr else "-" for name in (PLAIN, *LAYERS)]
    free = mean(row.asr_free for row in rows)
    figures = [f"{free:.2f}", f"{blind:.2f}", *found, span(gained)]
    return [model, str(steps), f"{reached:.2f}", scheme, str(size), *figures]


STUDY = Study(
    parts=plan_withheld,
    report=lambda found: {"withheld_head.md": make_withheld_table(found.records)},
    takes=frozenset({"model", "quick"}),
)
