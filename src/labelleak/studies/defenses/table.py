"""Every defense beside every other: what it leaves the attacks, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from labelleak.attacks import STANDARD
from labelleak.audits.options import check_options
from labelleak.audits.plan import Plan, plan_audit
from labelleak.defenses import parse_defense
from labelleak.defenses.accounting import Guarantee, account
from labelleak.records.intervals import bootstrap_mean
from labelleak.records.record import Record
from labelleak.records.strongest import strongest_records
from labelleak.report.wording import name_attack

# Families in the order of the page, each from weak to strong.
DEFENSES = (
    "none",
    "server_noise:1",
    "clip:1",
    "clip_layers:1",
    "gaussian:0.01",
    "gaussian:0.1",
    "gaussian:1",
    "laplace:0.1",
    "exponential:0.1",
    "head_noise:0.1",
    "head_noise:1",
    "clip:1|gaussian:0.1",
    "clip:1|gaussian:1",
    "dpsgd:1:0.1",
    "dpsgd:1:1",
    "topk:0.2",
    "topk:0.01",
    "topk:0.01:feedback",
    "randomk:0.2",
    "prune:0.8",
    "prune:0.99",
    "threshold:0.01",
    "dgc:0.01",
    "sign:scaled",
    "qsgd:4",
    "bits:4",
    "float16",
    "withhold:bias",
    "withhold:head",
    "soteria:0.5",
    "label_smoothing:0.2",
    "mixup:1",
    "head_dropout:0.5",
    "randomised_response:1",
    "historical_compression:0.8",
    "historical_dp:1:0.1",
)
PAPERS = ("llg", "llg_star", "llg_plus")
ADAPTIVE = ("llg_plus_adaptive", "gradient_regression_adaptive", "shadow_adaptive")
BATCH, SCHEME = 32, "unbalanced"
TRIALS, MODELS, STAGES = 50, 5, (0, 200)
ROUNDS, DELTA = 150, 1e-5


def plan_defenses(
    data: str, *, seed: int, command: str, defenses: Sequence[str] = DEFENSES
) -> Plan:
    """Plan the audit behind the table: the paper's CNN, batches of 32, untrained and trained.

    Args:
        data: name or path of a data set.
        seed: seed of everything random.
        command: the command, for the records.
        defenses: rows of the table.

    Raises:
        BadInput: for a data set that cannot be read, or a defense that cannot be.
    """
    options = check_options(
        data=data,
        model="cnn",
        batch_sizes=(BATCH,),
        schemes=(SCHEME,),
        defenses=tuple(defenses),
        attacks=(*(name for name in STANDARD if name != "random"), *ADAPTIVE),
        trials=TRIALS,
        initialisations=MODELS,
        training_steps=STAGES,
        seed=seed,
    )
    return plan_audit(options, command=command)


def make_defense_table(
    records: Iterable[Record], costs: Sequence[Mapping[str, Any]], sample_rate: float
) -> str:
    """Write a table for each stage: advantages, accuracy after the same rounds, bytes, epsilon.

    Args:
        records: of the planned audit.
        costs: rows of `measure_costs`.
        sample_rate: a client's batch over its samples, for DP-SGD's epsilon.
    """
    rows = list(records)
    stages = sorted({row.training_steps for row in rows})
    return "\n\n".join(_stage(rows, stage, costs, sample_rate) for stage in stages) + "\n"


def _stage(
    rows: Sequence[Record], stage: int, costs: Sequence[Mapping[str, Any]], sample_rate: float
) -> str:
    here = [row for row in rows if row.training_steps == stage]
    deaf = _best([row for row in here if not row.adaptive])
    told = _best(here)
    first = here[0]
    heads = [name_attack(name) for name in PAPERS]
    lines = [
        f"**{first.data}, the paper's CNN, {f'{stage} training steps' if stage else 'untrained'}, "
        f"{first.scheme}, N = {first.num_samples}** (advantage over the free guess, whose ASR is "
        f"{first.asr_free:.2f}; {MODELS} initialisations, {TRIALS} updates a row; accuracy "
        f"(mean, least and most of the federations) and epsilon after {ROUNDS} rounds, delta "
        f"{DELTA:g}; time of a client over its time without)",
        "",
        f"| defense | {' | '.join(heads)} | strongest | strongest, told the defense | accuracy | "
        "bytes | time | epsilon |",
        "|---|" + "---|" * (len(heads) + 6),
    ]
    for key in dict.fromkeys(row.defense for row in here):
        columns = [[r for r in here if r.attack == name and r.defense == key] for name in PAPERS]
        columns += [[r for r in column if r.defense == key] for column in (deaf, told)]
        entries = [_entry(column, named=place > 2) for place, column in enumerate(columns)]
        said = key.replace("|", "\\|")  # a bare one would end the table's cell
        lines.append(f"| {said} | {' | '.join(entries)} | {_cost(key, costs, sample_rate)} |")
    return "\n".join(lines)


def _best(rows: Sequence[Record]) -> list[Record]:
    return [row for row in strongest_records(rows) if row.threat_model == "auxiliary"]


def _entry(rows: Sequence[Record], *, named: bool) -> str:
    """Write a mean; the strongest attackers with interval and the attack chosen most often."""
    found = [row.advantage for row in rows if row.advantage is not None]
    if not found:
        return "-"
    if not named:
        return f"{sum(found) / len(found):.2f}"
    interval = bootstrap_mean(found, [row.initialisation for row in rows])
    names = [str(row.extra["chosen"]) for row in rows]
    most = name_attack(max(dict.fromkeys(names), key=names.count))
    return f"{interval.mean:.2f} ({interval.low:.2f} to {interval.high:.2f}) {most}"


def _cost(key: str, costs: Sequence[Mapping[str, Any]], sample_rate: float) -> str:
    own = [row for row in costs if row["defense"] == key]
    if not own:
        return "- | - | - | -"
    reached = [row["accuracy"] for row in own]
    accuracy = f"{sum(reached) / len(own):.2f}"
    if len(own) > 1:
        accuracy += f" ({min(reached):.2f} to {max(reached):.2f})"
    sent = sum(row["wire_bytes"] for row in own) / len(own)
    time = sum(row["seconds_ratio"] for row in own) / len(own)
    given = account(parse_defense(key), rounds=ROUNDS, delta=DELTA, sample_rate=sample_rate)
    return f"{accuracy} | {sent:,.0f} | {time:.2f} | {_epsilon(given)}"


def _epsilon(given: Guarantee) -> str:
    return "-" if given.epsilon is None else f"{given.epsilon:.3g} ({given.protects})"


__all__ = ["DEFENSES", "make_defense_table", "plan_defenses"]
