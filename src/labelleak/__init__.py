"""labelleak: audit how many training labels a federated learning update gives away.

The names below are loaded when first used, so that ``import labelleak`` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from labelleak.records.provenance import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from labelleak import attacks, flower, testing
    from labelleak.audits.audit import Audit, audit
    from labelleak.audits.one_update import UpdateReport, attack_update
    from labelleak.core import score
    from labelleak.core.head import find_head
    from labelleak.core.interfaces import Estimate, prepare
    from labelleak.core.knowledge import Knowledge, LabelledData
    from labelleak.core.observation import Observation
    from labelleak.core.score import Truth
    from labelleak.core.training import LocalTraining
    from labelleak.core.white_box import WhiteBox
    from labelleak.errors import BadInput, LabelleakError, NotApplicable
    from labelleak.files.capture import CapturedUpdate, capture
    from labelleak.files.tensors import read_tensors
    from labelleak.simulation.data.datasets import Dataset

_HOMES = {
    "Audit": "audits.audit",
    "BadInput": "errors",
    "CapturedUpdate": "files.capture",
    "Dataset": "simulation.data.datasets",
    "Estimate": "core.interfaces",
    "Knowledge": "core.knowledge",
    "LabelledData": "core.knowledge",
    "LocalTraining": "core.training",
    "LabelleakError": "errors",
    "NotApplicable": "errors",
    "Observation": "core.observation",
    "Truth": "core.score",
    "UpdateReport": "audits.one_update",
    "WhiteBox": "core.white_box",
    "attack_update": "audits.one_update",
    "audit": "audits.audit",
    "capture": "files.capture",
    "find_head": "core.head",
    "prepare": "core.interfaces",
    "read_tensors": "files.tensors",
}

_MODULES = {"attacks": "attacks", "flower": "flower", "score": "core.score", "testing": "testing"}

__all__ = [
    "Audit",
    "BadInput",
    "CapturedUpdate",
    "Dataset",
    "Estimate",
    "Knowledge",
    "LabelleakError",
    "LabelledData",
    "LocalTraining",
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
    if name in _MODULES:
        return import_module(f"labelleak.{_MODULES[name]}")
    if name in _HOMES:
        return getattr(import_module(f"labelleak.{_HOMES[name]}"), name)
    hint = "; did you mean 'attack_update'?" if name == "attack" else ""
    raise AttributeError(f"module 'labelleak' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
