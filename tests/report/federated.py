"""Records as a running federation writes them: many rounds and clients, defense off and on."""

from __future__ import annotations

from typing import Any

import numpy as np

from labelleak.records.record import Record

from .samples import THREATS, make_record


def federated_records(
    rounds: int = 6, clients: int = 5, *, states: tuple[bool, ...] = (False, True), seed: int = 0
) -> list[Record]:
    """Build one record per round, client, attack and state of the defense."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(1, rounds + 1):
        for client in range(clients):
            for defended in states:
                for attack in THREATS:
                    skill = {"llg": 0.6, "llg_star": 0.9, "llg_plus": 0.85}.get(attack, 0.0)
                    skill *= (0.2 if defended else 1) * (1 - 0.04 * number) * (1 - 0.1 * client)
                    gained = float(min(1.0, skill + 0.05 * rng.normal()))
                    extra: dict[str, Any] = {"round": number, "client": f"c{client}"}
                    rows.append(
                        make_record(
                            attack=attack,
                            threat_model=THREATS[attack],
                            defense="noise" if defended else "none",
                            asr=min(1.0, max(0.0, 0.6 + 0.4 * gained)),
                            advantage=gained,
                            extra={**extra, "defended": defended},
                        )
                    )
    return rows
