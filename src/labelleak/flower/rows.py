"""What the lines of a federation's files say beside the attacks' answers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

import labelleak
from labelleak.core.interfaces import Attack, threat_model
from labelleak.flower.findings import Finding, Sender


def keys_of(sender: Sender) -> dict[str, Any]:
    """Say whose update it was."""
    keys: dict[str, Any] = {"round": sender.round, "client": sender.client}
    return keys if sender.clients == 1 else {**keys, "clients": sender.clients}


def head_keys(finding: Finding) -> dict[str, Any]:
    """Say which layer was attacked, and how it was found."""
    return {"head": finding.head.name, "head_found": finding.head.how}


def common_keys(finding: Finding, batch_size: int | None) -> dict[str, Any]:
    """Return the keys of a record that follow from how the updates were made."""
    seen = finding.observation
    total = int(finding.truth.counts[0].sum()) if finding.truth is not None else 0
    size = (batch_size or 0) * finding.sender.clients
    return {
        "initialisation": 0,
        # Every client has taken this many steps, round by round, before the weights were sent.
        "training_steps": max(0, finding.sender.round - 1) * seen.local_steps,
        "model_accuracy": None,
        "scheme": "federation",
        "num_classes": seen.num_classes,
        "batch_size": size or max(1, total // seen.local_steps),
        "local_steps": seen.local_steps,
        "num_samples": total,
        "labelleak": labelleak.__version__,
        "torch": str(torch.__version__),
        "command": "labelleak.flower",
    }


def unscored_rows(
    finding: Finding, attacks: Iterable[Attack], keys: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Turn answers without a score into flat rows."""
    models = {attack.name: threat_model(attack) for attack in attacks}
    return [
        {
            **keys_of(sender),
            **finding.states(row),
            **keys,
            **head_keys(finding),
            "time": round(time.time(), 3),
            "attack": name,
            "threat_model": models[name],
            "num_samples": finding.observation.num_samples,
            "counts": np.asarray(estimate.counts)[row].tolist(),
            "notes": list(estimate.notes),
        }
        for row, sender in enumerate(finding.senders)
        for name, estimate in finding.estimates.items()
    ]


__all__ = ["common_keys", "head_keys", "keys_of", "unscored_rows"]
