"""The attacks, one file a family; a new one is its file and one line of the catalogue.

Each is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from labelleak.attacks import catalogue
from labelleak.attacks.catalogue import ATTACKS, make_attack, slow_attacks

if TYPE_CHECKING:
    from labelleak.attacks.adaptive import (
        AdaptiveLLGPlus,
        AdaptiveLLGStar,
        AdaptiveRegression,
    )
    from labelleak.attacks.baselines import FreeGuess, RandomGuess
    from labelleak.attacks.bias import EBI, LLBG, LLBGMeasured, LLGRepaired
    from labelleak.attacks.catalogue import ADAPTIVE, RULES, STANDARD
    from labelleak.attacks.class_shares import SoftLabelShares
    from labelleak.attacks.client_training import ClientSimulation
    from labelleak.attacks.confusions import ILRG, PPLR, RLU
    from labelleak.attacks.dlg import DLG
    from labelleak.attacks.epochs import RLUEpochs
    from labelleak.attacks.layers.adaptive import AdaptiveLayerRegression
    from labelleak.attacks.layers.gdbr import GDBR
    from labelleak.attacks.layers.regression import LayerRegression, PlainLayerRegression
    from labelleak.attacks.llg import LLG, Dummies, LLGPlus, LLGStar, dummies_for
    from labelleak.attacks.posteriors import ZLG, Interpolation
    from labelleak.attacks.regression import GradientRegression
    from labelleak.attacks.rlg import RLG
    from labelleak.attacks.row_energy import RowEnergy
    from labelleak.attacks.shadow.attack import AdaptiveShadow, Shadow
    from labelleak.attacks.shadow.layers import AdaptiveLayerShadow, LayerShadow
    from labelleak.attacks.signs import IDLG, RowMinimum
    from labelleak.attacks.soft_labels import SoftLabel
    from labelleak.attacks.text.token_posterior import TokenPosterior

__all__ = [
    "ADAPTIVE",
    "ATTACKS",
    "DLG",
    "EBI",
    "GDBR",
    "IDLG",
    "ILRG",
    "LLBG",
    "LLG",
    "PPLR",
    "RLG",
    "RLU",
    "RULES",
    "STANDARD",
    "ZLG",
    "AdaptiveLLGPlus",
    "AdaptiveLLGStar",
    "AdaptiveLayerRegression",
    "AdaptiveLayerShadow",
    "AdaptiveRegression",
    "AdaptiveShadow",
    "ClientSimulation",
    "Dummies",
    "FreeGuess",
    "GradientRegression",
    "Interpolation",
    "LLBGMeasured",
    "LLGPlus",
    "LLGRepaired",
    "LLGStar",
    "LayerRegression",
    "LayerShadow",
    "PlainLayerRegression",
    "RLUEpochs",
    "RandomGuess",
    "RowEnergy",
    "RowMinimum",
    "Shadow",
    "SoftLabel",
    "SoftLabelShares",
    "TokenPosterior",
    "dummies_for",
    "make_attack",
    "slow_attacks",
]


def __getattr__(name: str) -> Any:
    if name in ("ADAPTIVE", "RULES", "STANDARD"):
        return getattr(catalogue, name)
    if name in ("Dummies", "dummies_for"):
        return getattr(import_module("labelleak.attacks.llg"), name)
    if name in catalogue.FAMILIES:
        return import_module(f"{__name__}.{name}")
    try:
        return ATTACKS.of_class(name)
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return list(__all__)
