"""The list of all attacks, a line each; what is known of an attack it says itself."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from typing import TYPE_CHECKING

from labelleak.core.lazy import Catalogue
from labelleak.core.needs import Need
from labelleak.errors import unknown_name
from labelleak.records.assumptions import Assumption

if TYPE_CHECKING:
    from labelleak.core.interfaces import Attack

_LINES = {
    "random": "baselines:RandomGuess",
    "free": "baselines:FreeGuess",
    "llg": "llg:LLG",
    "llg_repaired": "bias:LLGRepaired",
    "idlg": "signs:IDLG",
    "row_min": "signs:RowMinimum",
    "row_energy": "row_energy:RowEnergy",
    "rlg": "rlg:RLG",
    "ebi": "bias:EBI",
    "llbg": "bias:LLBG",
    "llg_star": "llg:LLGStar",
    "zlg": "posteriors:ZLG",
    "ilrg": "confusions:ILRG",
    "soft_label": "soft_labels:SoftLabel",
    "dlg": "dlg:DLG",
    "interpolation": "posteriors:Interpolation",
    "llg_plus": "llg:LLGPlus",
    "llbg_measured": "bias:LLBGMeasured",
    "pplr": "confusions:PPLR",
    "rlu": "confusions:RLU",
    "rlu_epochs": "epochs:RLUEpochs",
    "gradient_regression": "regression:GradientRegression",
    "layer_regression": "layers.regression:LayerRegression",
    "layer_least_squares": "layers.regression:PlainLayerRegression",
    "gdbr": "layers.gdbr:GDBR",
    "soft_label_shares": "class_shares:SoftLabelShares",
    "client_simulation": "client_training:ClientSimulation",
    "shadow": "shadow.attack:Shadow",
    "shadow_adaptive": "shadow.attack:AdaptiveShadow",
    "shadow_layers": "shadow.layers:LayerShadow",
    "shadow_layers_adaptive": "shadow.layers:AdaptiveLayerShadow",
    "input_tokens": "text.input_tokens:InputTokens",
    "token_posterior": "text.token_posterior:TokenPosterior",
    "token_layers": "text.token_layers:TokenLayers",
    "llg_star_adaptive": "adaptive:AdaptiveLLGStar",
    "llg_plus_adaptive": "adaptive:AdaptiveLLGPlus",
    "gradient_regression_adaptive": "adaptive:AdaptiveRegression",
    "layer_regression_adaptive": "layers.adaptive:AdaptiveLayerRegression",
}

ATTACKS: Catalogue[type[Attack]] = Catalogue("labelleak.attacks", _LINES)
# The files and folders that the attacks stand in.
FAMILIES = frozenset(line.split(":")[0].partition(".")[0] for line in _LINES.values())

if TYPE_CHECKING:
    STANDARD: tuple[str, ...]
    RULES: tuple[str, ...]
    ADAPTIVE: tuple[str, ...]


def __getattr__(name: str) -> tuple[str, ...]:
    """Return a battery, which is known when every attack is loaded."""
    if name not in _BATTERIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _named(_BATTERIES[name])


def _is_standard(attack: type[Attack]) -> bool:
    """Return whether an attack belongs to the standard battery.

    It is fixed, so that audits of different hands can be compared: every quick rule on label
    counts, and the strongest attack known, which learns from batches of its own.
    """
    return attack.card.standard and Need.DEFENSE not in attack.needs


def _is_rule(attack: type[Attack]) -> bool:
    return _is_standard(attack) and not attack.card.learns


def _is_adaptive(attack: type[Attack]) -> bool:
    """Return whether an attacker knows the defense, and imitates one shared gradient with it."""
    return Need.DEFENSE in attack.needs and Assumption.ONE_STEP in attack.card.assumes


_BATTERIES = {"STANDARD": _is_standard, "RULES": _is_rule, "ADAPTIVE": _is_adaptive}


@cache
def _named(belongs: Callable[[type[Attack]], bool]) -> tuple[str, ...]:
    return tuple(name for name, attack in ATTACKS.items() if belongs(attack))


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
    "FAMILIES",
    "FOR_STEPS",
    "FOR_TOKENS",
    "RULES",
    "STANDARD",
    "TOKEN_BATTERY",
    "make_attack",
    "slow_attacks",
]
