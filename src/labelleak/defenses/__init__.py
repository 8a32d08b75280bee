"""What a client can do to hide its labels, one file a family; a new one is a file and a line."""

from __future__ import annotations

from labelleak.defenses.aggregation import ServerNoise
from labelleak.defenses.clipping import Clipping, LayerClipping
from labelleak.defenses.composition import Chain, Part, as_part
from labelleak.defenses.dp_sgd import DPSGD
from labelleak.defenses.historical import HistoricalCompression, HistoricalDP
from labelleak.defenses.noise import ExponentialNoise, GaussianNoise, HeadNoise, LaplaceNoise
from labelleak.defenses.quantise import QSGD, HalfPrecision, Quantisation, SignSGD
from labelleak.defenses.remarks import remarks
from labelleak.defenses.soteria import Soteria
from labelleak.defenses.sparsify import (
    DeepGradientCompression,
    Pruning,
    RandomK,
    ThresholdPruning,
    TopK,
)
from labelleak.defenses.text import read
from labelleak.defenses.training import HeadDropout, LabelSmoothing, Mixup, RandomisedResponse
from labelleak.defenses.wire import wire_bytes
from labelleak.defenses.withholding import Withholding
from labelleak.errors import BadInput

DEFENSES: dict[str, type[Part]] = {
    defense.name: defense
    for defense in (
        GaussianNoise,
        LaplaceNoise,
        ExponentialNoise,
        HeadNoise,
        Clipping,
        LayerClipping,
        TopK,
        RandomK,
        Pruning,
        ThresholdPruning,
        DeepGradientCompression,
        SignSGD,
        QSGD,
        Quantisation,
        HalfPrecision,
        Withholding,
        DPSGD,
        Soteria,
        LabelSmoothing,
        Mixup,
        HeadDropout,
        RandomisedResponse,
        ServerNoise,
        HistoricalCompression,
        HistoricalDP,
    )
}


def parse_defense(text: str) -> Chain:
    """Read defenses joined by ``|``, in order; ``none`` is no defense.

    Raises:
        BadInput: for an unknown name, a word that is no number, a strength out of range, or an
            order that cannot work.

    >>> parse_defense("clip:1|gaussian:0.1|topk:0.2:feedback").label
    'clip:1|gaussian:0.1|topk:0.2:feedback'
    >>> parse_defense("none")
    Chain(links=())
    """
    words = [word.strip() for word in text.split("|")]
    if words == ["none"]:
        return Chain()
    if "none" in words:
        raise BadInput(f"none is no defense by itself; leave it out of the chain {text!r}")
    if "" in words:
        raise BadInput(f"a defense is missing in {text!r}; join them as in clip:1|gaussian:0.1")
    return Chain(tuple(read(word, DEFENSES) for word in words))


__all__ = [
    "DEFENSES",
    "DPSGD",
    "QSGD",
    "Chain",
    "Clipping",
    "DeepGradientCompression",
    "ExponentialNoise",
    "GaussianNoise",
    "HalfPrecision",
    "HeadDropout",
    "HeadNoise",
    "HistoricalCompression",
    "HistoricalDP",
    "LabelSmoothing",
    "LaplaceNoise",
    "LayerClipping",
    "Mixup",
    "Part",
    "Pruning",
    "Quantisation",
    "RandomK",
    "RandomisedResponse",
    "ServerNoise",
    "SignSGD",
    "Soteria",
    "ThresholdPruning",
    "TopK",
    "Withholding",
    "as_part",
    "parse_defense",
    "remarks",
    "wire_bytes",
]
