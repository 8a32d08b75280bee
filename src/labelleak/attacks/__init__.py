"""The attacks, one file a family; a new one is its file and one line here."""

from __future__ import annotations

from labelleak.attacks.adaptive import (
    ADAPTIVE,
    AdaptiveLLGPlus,
    AdaptiveLLGStar,
    AdaptiveRegression,
)
from labelleak.attacks.baselines import FreeGuess, RandomGuess
from labelleak.attacks.bias import EBI, LLBG, LLBGMeasured, LLGRepaired
from labelleak.attacks.class_shares import SoftLabelShares
from labelleak.attacks.client_training import ClientSimulation
from labelleak.attacks.confusions import ILRG, PPLR, RLU
from labelleak.attacks.dlg import DLG
from labelleak.attacks.epochs import RLUEpochs
from labelleak.attacks.llg import LLG, Dummies, LLGPlus, LLGStar, dummies_for
from labelleak.attacks.posteriors import ZLG, Interpolation
from labelleak.attacks.regression import GradientRegression
from labelleak.attacks.rlg import RLG
from labelleak.attacks.shadow.attack import AdaptiveShadow, Shadow
from labelleak.attacks.signs import IDLG, RowMinimum
from labelleak.attacks.soft_labels import SoftLabel
from labelleak.core.interfaces import Attack
from labelleak.errors import unknown_name

ATTACKS: dict[str, type[Attack]] = {
    attack.name: attack
    for attack in (
        RandomGuess,
        FreeGuess,
        LLG,
        LLGRepaired,
        IDLG,
        RowMinimum,
        RLG,
        EBI,
        LLBG,
        LLGStar,
        ZLG,
        ILRG,
        SoftLabel,
        DLG,
        Interpolation,
        LLGPlus,
        LLBGMeasured,
        PPLR,
        RLU,
        RLUEpochs,
        GradientRegression,
        SoftLabelShares,
        ClientSimulation,
        Shadow,
        AdaptiveShadow,
    )
} | ADAPTIVE


def make_attack(name: str) -> Attack:
    """Build the attack of a name, with its default options.

    Raises:
        BadInput: for a name that is no attack; the sentence names the nearest one.

    >>> make_attack("llg").name
    'llg'
    """
    if name not in ATTACKS:
        raise unknown_name("attack", name, ATTACKS)
    return ATTACKS[name]()


__all__ = [
    "ADAPTIVE",
    "ATTACKS",
    "DLG",
    "EBI",
    "IDLG",
    "ILRG",
    "LLBG",
    "LLG",
    "PPLR",
    "RLG",
    "RLU",
    "ZLG",
    "AdaptiveLLGPlus",
    "AdaptiveLLGStar",
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
    "RLUEpochs",
    "RandomGuess",
    "RowMinimum",
    "Shadow",
    "SoftLabel",
    "SoftLabelShares",
    "dummies_for",
    "make_attack",
]
