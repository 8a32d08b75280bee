"""What pages call attacks, known without loading them: a gate names many and runs none.

Each is the title on the attack's card, which a test compares. One that is not here, as a new one
need not be, is asked for its card.
"""

from __future__ import annotations

from labelleak.attacks.catalogue import ATTACKS

TITLES = {
    "random": "random guess",
    "free": "free guess",
    "llg": "LLG",
    "llg_repaired": "repaired LLG",
    "idlg": "iDLG",
    "row_min": "row minimum",
    "row_energy": "row energy",
    "rlg": "RLG",
    "ebi": "EBI",
    "llbg": "LLBG",
    "llg_star": "LLG*",
    "zlg": "ZLG",
    "ilrg": "iLRG",
    "soft_label": "soft label",
    "dlg": "DLG",
    "interpolation": "interpolation",
    "llg_plus": "LLG+",
    "llbg_measured": "LLBG, measured",
    "pplr": "PPLR",
    "rlu": "RLU",
    "rlu_epochs": "RLU, epochs",
    "gradient_regression": "gradient regression",
    "layer_regression": "regression on all layers",
    "layer_least_squares": "least squares on all layers",
    "gdbr": "GDBR",
    "soft_label_shares": "soft-label shares",
    "client_simulation": "client simulation",
    "shadow": "shadow models",
    "shadow_adaptive": "shadow models, adaptive",
    "shadow_layers": "shadow models, all layers",
    "shadow_layers_adaptive": "shadow models, all layers, adaptive",
    "input_tokens": "input tokens",
    "token_posterior": "token posterior",
    "token_layers": "token layers",
    "llg_star_adaptive": "LLG*, adaptive",
    "llg_plus_adaptive": "LLG+, adaptive",
    "gradient_regression_adaptive": "gradient regression, adaptive",
    "layer_regression_adaptive": "regression on all layers, adaptive",
}


def title_of(name: str) -> str | None:
    """Return the title of an attack; None for a name that is none.

    >>> title_of("llg_star"), title_of("mine")
    ('LLG*', None)
    """
    if name in TITLES:
        return TITLES[name]
    return ATTACKS[name].card.title if name in ATTACKS else None


__all__ = ["TITLES", "title_of"]
