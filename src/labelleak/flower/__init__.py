"""Flower: audit updates at the server and on the client, and defend them there.

At the server, ``strategy.start(grid=labelleak.flower.observe(grid, auditor), ...)`` audits each
client's update of each round, whatever the strategy. On the client, ``audit_mod`` audits what is
about to leave and ``defense_mod`` changes it. Import this module before flwr, or set
FLWR_TELEMETRY_ENABLED=0 yourself: Flower reads that variable when it is first imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labelleak.flower import environment
from labelleak.flower.auditor import Auditor, Finding
from labelleak.flower.grid import ObservingGrid, observe
from labelleak.flower.labels import report_labels
from labelleak.flower.mods import AuditMod, DefenseMod, audit_mod, defense_mod
from labelleak.flower.strategies import AuditedStrategy

if TYPE_CHECKING:
    from labelleak.flower.in_process import InProcessGrid
    from labelleak.flower.legacy import AuditedLegacyStrategy

QUIET = environment.QUIET
_LATER = {"AuditedLegacyStrategy": "legacy", "InProcessGrid": "in_process"}


def __getattr__(name: str) -> Any:
    # Flower's old interface is slow to import, and its private names may be gone one day.
    if name in _LATER:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "QUIET",
    "AuditMod",
    "AuditedLegacyStrategy",
    "AuditedStrategy",
    "Auditor",
    "DefenseMod",
    "Finding",
    "InProcessGrid",
    "ObservingGrid",
    "audit_mod",
    "defense_mod",
    "observe",
    "report_labels",
]
