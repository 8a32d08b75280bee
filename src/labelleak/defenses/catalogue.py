"""The list of all defenses, a line each; what is known of a defense it says itself."""

from __future__ import annotations

from collections.abc import Collection

from labelleak.core.lazy import Catalogue
from labelleak.defenses.composition import Chain, Part
from labelleak.defenses.facts import CLIP_ALONE, HELD_BACK, Kind
from labelleak.defenses.text import read
from labelleak.errors import BadInput

_LINES = {
    "gaussian": "noise:GaussianNoise",
    "laplace": "noise:LaplaceNoise",
    "exponential": "noise:ExponentialNoise",
    "head_noise": "noise:HeadNoise",
    "clip": "clipping:Clipping",
    "clip_layers": "clipping:LayerClipping",
    "topk": "sparsify:TopK",
    "randomk": "sparsify:RandomK",
    "prune": "sparsify:Pruning",
    "threshold": "sparsify:ThresholdPruning",
    "dgc": "sparsify:DeepGradientCompression",
    "sign": "quantise:SignSGD",
    "qsgd": "quantise:QSGD",
    "bits": "quantise:Quantisation",
    "float16": "quantise:HalfPrecision",
    "withhold": "withholding:Withholding",
    "dpsgd": "dp_sgd:DPSGD",
    "soteria": "soteria:Soteria",
    "label_smoothing": "training:LabelSmoothing",
    "mixup": "training:Mixup",
    "head_dropout": "training:HeadDropout",
    "randomised_response": "training:RandomisedResponse",
    "server_noise": "aggregation:ServerNoise",
    "percentile": "nvflare:PercentilePrivacy",
    "svt": "nvflare:SparseVector",
    "local_dp": "flower:LocalDP",
    "adaptive_clip": "flower:AdaptiveClipping",
    "server_clip": "flower:ServerClipping",
    "historical_compression": "historical:HistoricalCompression",
    "historical_dp": "historical:HistoricalDP",
}

DEFENSES: Catalogue[type[Part]] = Catalogue("labelleak.defenses", _LINES)


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


def uncovered(defense: str, off: Collection[str] = ()) -> tuple[str, ...]:
    """Return a sentence for each thing that a defense leaves open.

    Args:
        defense: text form of a chain.
        off: text forms of those of its parts that are off, of which nothing is said.

    >>> uncovered("clip:1")
    ('Clipping alone scales an update and keeps its signs and ratios: it hides no label.',)
    >>> len(uncovered("topk:0.1:feedback")), uncovered("none"), uncovered("prune:0", ["prune:0"])
    (2, (), ())
    """
    if defense == "none":
        return ()
    parts = [part.split(":") for part in defense.split("|") if part not in off]
    known = [DEFENSES[name] for name, *_ in parts if name in DEFENSES]
    said = [sentence for one in known for sentence in one.leaves_open]
    if len(known) == len(parts) and {one.kind for one in known} == {Kind.CLIP}:
        said.append(CLIP_ALONE)
    if any("feedback" in words for _, *words in parts):
        said.append(HELD_BACK)
    return tuple(dict.fromkeys(said))


__all__ = ["DEFENSES", "parse_defense", "uncovered"]
