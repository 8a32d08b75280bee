"""The list of all attacks, a line each; what is known of an attack it says itself."""

from __future__ import annotations

from collections.abc import Collection

from labelleak.core.interfaces import Attack
from labelleak.core.lazy import load_lines
from labelleak.core.needs import Need
from labelleak.errors import unknown_name
from labelleak.records.assumptions import Assumption

_LINES = (
    "baselines:RandomGuess",
    "baselines:FreeGuess",
    "llg:LLG",
    "bias:LLGRepaired",
    "signs:IDLG",
    "signs:RowMinimum",
    "row_energy:RowEnergy",
    "rlg:RLG",
    "bias:EBI",
    "bias:LLBG",
    "llg:LLGStar",
    "posteriors:ZLG",
    "confusions:ILRG",
    "soft_labels:SoftLabel",
    "dlg:DLG",
    "posteriors:Interpolation",
    "llg:LLGPlus",
    "bias:LLBGMeasured",
    "confusions:PPLR",
    "confusions:RLU",
    "epochs:RLUEpochs",
    "regression:GradientRegression",
    "layers.regression:LayerRegression",
    "layers.regression:PlainLayerRegression",
    "layers.gdbr:GDBR",
    "class_shares:SoftLabelShares",
    "client_training:ClientSimulation",
    "shadow.attack:Shadow",
    "shadow.attack:AdaptiveShadow",
    "shadow.layers:LayerShadow",
    "shadow.layers:AdaptiveLayerShadow",
    "text.input_tokens:InputTokens",
    "text.token_posterior:TokenPosterior",
    "text.token_layers:TokenLayers",
    "adaptive:AdaptiveLLGStar",
    "adaptive:AdaptiveLLGPlus",
    "adaptive:AdaptiveRegression",
    "layers.adaptive:AdaptiveLayerRegression",
)

ATTACKS: dict[str, type[Attack]] = load_lines("labelleak.attacks", _LINES)

# The standard battery is fixed, so that audits of different hands can be compared: every quick
# rule on label counts, and the strongest attack known, which learns from batches of its own.
STANDARD = tuple(
    name for name, a in ATTACKS.items() if a.card.standard and Need.DEFENSE not in a.needs
)
RULES = tuple(name for name in STANDARD if not ATTACKS[name].card.learns)
# Rules of attackers who know the defense, and imitate one shared gradient with it.
ADAPTIVE = tuple(
    name
    for name, a in ATTACKS.items()
    if Need.DEFENSE in a.needs and Assumption.ONE_STEP in a.card.assumes
)


# What goes with the battery where one update is of several local steps: attacks that follow them.
FOR_STEPS = ("interpolation", "soft_label_shares")
# What goes with the battery where the labels are tokens.
FOR_TOKENS = ("row_energy", "input_tokens", "token_posterior")
# The standard battery on texts: the guess by frequencies, two known rules that need neither a bias
# nor few classes, and those three.
TOKEN_BATTERY = ("free", "row_min", "llg", *FOR_TOKENS)
# What goes with it where the head is frozen or withheld.
BELOW_HEAD = ("token_layers",)


def make_attack(name: str) -> Attack:
    """Build the attack of a name, with its default options.

    Raises:
        BadInput: for a name that is no attack; the sentence names the nearest one.

    >>> make_attack("llg").name
    'llg'
    """
    if name not in ATTACKS:
        raise unknown_name("attack", name, ("standard", "rules", *ATTACKS))
    return ATTACKS[name]()


def slow_attacks(names: Collection[str], num_classes: int) -> dict[str, str]:
    """Say of each attack that is too slow for so many classes why the battery leaves it out.

    >>> list(slow_attacks(["llg", "rlu"], 20_000)), slow_attacks(["rlu"], 10)
    (['rlu'], {})
    """
    limits = {name: ATTACKS[name].card.quick_up_to for name in sorted(names)}
    return {
        name: f"{name} is left out of the standard battery above {limit} classes; name it in "
        "`attacks` to run it"
        for name, limit in limits.items()
        if limit is not None and num_classes > limit
    }


__all__ = [
    "ADAPTIVE",
    "ATTACKS",
    "BELOW_HEAD",
    "FOR_STEPS",
    "FOR_TOKENS",
    "RULES",
    "STANDARD",
    "TOKEN_BATTERY",
    "make_attack",
    "slow_attacks",
]
