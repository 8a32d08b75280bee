"""labelleak: audit how many training labels a federated learning update gives away.

The names below are loaded when first used, so that ``import labelleak`` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from labelleak import attacks, score, testing
    from labelleak.adapters import flower
    from labelleak.adapters.capture import CapturedUpdate, capture
    from labelleak.adapters.files import read_tensors
    from labelleak.adapters.head import find_head
    from labelleak.errors import BadInput, LabelleakError, NotApplicable
    from labelleak.experiments.audit import Audit, audit
    from labelleak.experiments.update_attack import UpdateReport, attack_update
    from labelleak.interfaces import Estimate, Knowledge, LabelledData, prepare
    from labelleak.observation import Observation
    from labelleak.score import Truth
    from labelleak.white_box import WhiteBox

_HOMES = {
    "Audit": "experiments.audit",
    "BadInput": "errors",
    "CapturedUpdate": "adapters.capture",
    "Estimate": "interfaces",
    "Knowledge": "interfaces",
    "LabelledData": "interfaces",
    "LabelleakError": "errors",
    "NotApplicable": "errors",
    "Observation": "observation",
    "Truth": "score",
    "UpdateReport": "experiments.update_attack",
    "WhiteBox": "white_box",
    "attack_update": "experiments.update_attack",
    "audit": "experiments.audit",
    "capture": "adapters.capture",
    "find_head": "adapters.head",
    "prepare": "interfaces",
    "read_tensors": "adapters.files",
}

__all__ = [
    "Audit",
    "BadInput",
    "CapturedUpdate",
    "Estimate",
    "Knowledge",
    "LabelleakError",
    "LabelledData",
    "NotApplicable",
    "Observation",
    "Truth",
    "UpdateReport",
    "WhiteBox",
    "attack_update",
    "attacks",
    "audit",
    "capture",
    "find_head",
    "flower",
    "prepare",
    "read_tensors",
    "score",
    "testing",
]


def __getattr__(name: str) -> Any:
    if name in ("attacks", "score", "testing"):
        return import_module(f"labelleak.{name}")
    if name == "flower":
        return import_module("labelleak.adapters.flower")
    if name in _HOMES:
        return getattr(import_module(f"labelleak.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'labelleak' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
