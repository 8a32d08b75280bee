"""What a client can do to hide its labels, one file a family; the catalogue lists them."""

from __future__ import annotations

from labelleak.defenses.aggregation import ServerNoise
from labelleak.defenses.catalogue import DEFENSES, parse_defense, uncovered
from labelleak.defenses.clipping import Clipping, LayerClipping
from labelleak.defenses.composition import Chain, Part, as_part
from labelleak.defenses.dp_sgd import DPSGD
from labelleak.defenses.flower import AdaptiveClipping, LocalDP, ServerClipping
from labelleak.defenses.historical import HistoricalCompression, HistoricalDP
from labelleak.defenses.noise import ExponentialNoise, GaussianNoise, HeadNoise, LaplaceNoise
from labelleak.defenses.nvflare import PercentilePrivacy, SparseVector
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
from labelleak.defenses.training import HeadDropout, LabelSmoothing, Mixup, RandomisedResponse
from labelleak.defenses.wire import wire_bytes
from labelleak.defenses.withholding import Withholding

__all__ = [
    "DEFENSES",
    "DPSGD",
    "QSGD",
    "AdaptiveClipping",
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
    "LocalDP",
    "Mixup",
    "Part",
    "PercentilePrivacy",
    "Pruning",
    "Quantisation",
    "RandomK",
    "RandomisedResponse",
    "ServerClipping",
    "ServerNoise",
    "SignSGD",
    "Soteria",
    "SparseVector",
    "ThresholdPruning",
    "TopK",
    "Withholding",
    "as_part",
    "parse_defense",
    "remarks",
    "uncovered",
    "wire_bytes",
]
