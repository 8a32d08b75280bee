"""What the lines of a federation's files say beside the attacks' answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from labelleak.core.answers import make_records
from labelleak.core.score import Truth
from labelleak.core.seeding import whole_number
from labelleak.flower.events import ESTIMATES, RECORDS, write_records, write_rows
from labelleak.flower.findings import Finding, Sender
from labelleak.records.provenance import origin
from labelleak.records.record import Record

if TYPE_CHECKING:
    from labelleak.flower.auditor import Auditor


def write_finding(auditor: Auditor, finding: Finding, *, file: str = RECORDS, **extra: Any) -> None:
    """Write a finding to the auditor's folder, with further keys (``policy``, ``action``, ...).

    Args:
        auditor: who found it.
        finding: what was found.
        file: name of the records' file; answers without a score go to ``estimates.jsonl``.
        extra: further keys of every line.

    Raises:
        BadInput: if the file cannot be written.
    """
    for event, what in finding.doubts():
        for sender in finding.senders:
            auditor.note(event, round=sender.round, client=sender.client, **what)
    if auditor.home is None:
        return
    if finding.not_applicable:
        extra["not_applicable"] = dict(finding.not_applicable)
    if finding.truth is None:
        write_rows(auditor.home, ESTIMATES, unscored_rows(finding, extra))
    else:
        records = scored_records(finding, finding.truth, auditor, extra)
        write_records(auditor.home, records, file)


def keys_of(sender: Sender) -> dict[str, Any]:
    """Say whose update it was."""
    keys: dict[str, Any] = {"round": sender.round, "client": sender.client}
    if sender.run is not None:
        keys["run"] = str(sender.run)  # beyond what a float of JSON holds
    if sender.partition is not None:
        keys["claimed_partition"] = sender.partition
    return keys if sender.clients == 1 else {**keys, "clients": sender.clients}


def head_keys(finding: Finding) -> dict[str, Any]:
    """Say which layer was attacked, how it was found, and how the clients trained."""
    keys: dict[str, Any] = {"head": finding.head.name, "head_found": finding.head.how}
    keys["task"] = str(finding.task)
    if finding.trained is not None:
        told = finding.trained.training
        steps = told.local_steps if finding.trained.steps_known else None
        keys |= {"lr": told.lr, "optimiser": told.optimiser, "steps": steps}
        keys["returns"] = str(finding.trained.form.kind)
    return keys


def unscored_rows(finding: Finding, keys: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Turn answers without a score into flat rows."""
    rows, several = [], finding.observation.problems > 1
    for trial, sender in enumerate(finding.senders):
        for answer in finding.answers:
            told = answer.at(trial)
            rows.append(
                {
                    **keys_of(sender),
                    **finding.states(trial),
                    **keys,
                    **head_keys(finding),
                    "time": round(time.time(), 3),
                    "attack": told.attack,
                    "threat_model": told.threat_model,
                    "num_samples": finding.observation.num_samples,
                    # Of several labels, how many samples have each.
                    "counts": list(told.counts)[1 if several else 0 :: 2 if several else 1],
                    "notes": list(answer.estimate.notes),
                    "flags": list(told.flags),
                }
            )
    return rows


def scored_records(
    finding: Finding, truth: Truth, auditor: Auditor, extra: Mapping[str, Any]
) -> list[Record]:
    """Turn scored answers into records."""
    seen, senders = finding.observation, finding.senders
    total = int(truth.counts[0].sum()) // seen.problems
    size = (auditor.batch_size or 0) * finding.sender.clients
    keys = {**extra, **head_keys(finding)}
    common = origin(
        seed=auditor.seed,
        data=auditor.data,
        model=auditor.name_of_model,
        command="labelleak.flower",
        num_classes=seen.problems if seen.problems > 1 else seen.num_classes,
        # Every client has taken this many steps, round by round, before the weights were sent;
        # every update began at the same weights, so it is the same for all of them.
        training_steps=max(0, finding.sender.round - 1) * seen.local_steps,
        model_accuracy=None,
        scheme="federation",
        batch_size=size or max(1, total // seen.local_steps),
        local_steps=seen.local_steps,
        num_samples=total,
        defense=str(keys.pop("defense", auditor.defense)),
    )
    trials = [whole_number(auditor.seed, "trial", one.round, one.client) for one in senders]
    more = [{**keys_of(one), **finding.states(row)} for row, one in enumerate(senders)]
    return [
        record
        for answer in finding.answers
        for record in make_records(
            answer,
            truth,
            trials=trials,
            common=common,
            extra=keys,
            keep_counts=auditor.keep_counts,
            more=more,
        )
    ]


__all__ = ["head_keys", "keys_of", "scored_records", "unscored_rows", "write_finding"]
