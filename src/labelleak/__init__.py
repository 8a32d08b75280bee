"""labelleak: audit how many training labels a federated learning update gives away.

The names below are loaded when first used, so that ``import labelleak`` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from labelleak import attacks, score, testing
    from labelleak.adapters.head import find_head
    from labelleak.errors import BadInput, LabelleakError, NotApplicable
    from labelleak.experiments.audit import Audit, audit
    from labelleak.interfaces import Estimate, Knowledge, LabelledData, prepare
    from labelleak.observation import Observation
    from labelleak.score import Truth
    from labelleak.white_box import WhiteBox

_HOMES = {
    "Audit": "experiments.audit",
    "BadInput": "errors",
    "Estimate": "interfaces",
    "Knowledge": "interfaces",
    "LabelledData": "interfaces",
    "LabelleakError": "errors",
    "NotApplicable": "errors",
    "Observation": "observation",
    "Truth": "score",
    "WhiteBox": "white_box",
    "audit": "experiments.audit",
    "find_head": "adapters.head",
    "prepare": "interfaces",
}

__all__ = [
    "Audit",
    "BadInput",
    "Estimate",
    "Knowledge",
    "LabelleakError",
    "LabelledData",
    "NotApplicable",
    "Observation",
    "Truth",
    "WhiteBox",
    "attacks",
    "audit",
    "find_head",
    "prepare",
    "score",
    "testing",
]


def __getattr__(name: str) -> Any:
    if name in ("attacks", "score", "testing"):
        return import_module(f"labelleak.{name}")
    if name in _HOMES:
        return getattr(import_module(f"labelleak.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'labelleak' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
