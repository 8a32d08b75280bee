"""What each kind of defense does not cover, in plain words; read off its text form alone."""

from __future__ import annotations

from collections.abc import Collection

_POOLED = (
    "What leaks is measured for a single update: over many rounds of one client noise averages "
    "out, and an attacker who pools them gains more."
)
_SAMPLE = (
    "It bounds what one sample tells, not what the samples of a batch have in common: label counts "
    "may still show."
)
_COMPRESSED = (
    "Compression adds no noise: what is sent still depends on the labels, and nothing is private "
    "in the sense of a proof."
)
_HEAD = (
    "It acts on the head alone; the other layers are shared in the clear, and their gradients "
    "depend on the labels too."
)
_SERVER = (
    "The server adds it after it has received the update, so nothing is hidden from that server."
)
_CLIP = "Clipping alone scales an update and keeps its signs and ratios: it hides no label."
_FEEDBACK = "What it holds back it sends later, which a single update does not show."
_SMOOTHED = (
    "It shifts what attackers assume by an amount that is the same for every batch; one who knows "
    "of it takes it back."
)
_MIXED = "Labels are mixed within a batch, so how many there are of each class stays as it was."
_DROPPED = (
    "It drops other inputs of the head for every sample; over a batch each class still shows."
)
_EXCHANGED = (
    "The labels that are trained on are exchanged at random; inputs are not, and they tell of "
    "their labels too."
)
_HISTORICAL_DP = (
    "It is not differentially private: its noise is not measured against what one sample can "
    "change."
)
_HISTORICAL_COMPRESSION = (
    "It wipes whole tensors by their place, the head in most updates; where the head comes "
    "through, all of it does."
)

_WORDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("gaussian", "laplace", "exponential"), (_POOLED,)),
    **dict.fromkeys(
        ("topk", "randomk", "prune", "threshold", "sign", "qsgd", "bits", "float16"),
        (_COMPRESSED,),
    ),
    **dict.fromkeys(("withhold", "soteria"), (_HEAD,)),
    **dict.fromkeys(("clip", "clip_layers"), ()),
    "dgc": (_COMPRESSED, _FEEDBACK),
    "dpsgd": (_SAMPLE, _POOLED),
    "head_noise": (_HEAD, _POOLED),
    "label_smoothing": (_SMOOTHED,),
    "mixup": (_MIXED,),
    "head_dropout": (_DROPPED,),
    "randomised_response": (_EXCHANGED, _POOLED),
    "server_noise": (_SERVER,),
    "historical_dp": (_HISTORICAL_DP, _POOLED),
    "historical_compression": (_HISTORICAL_COMPRESSION,),
}


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
    parts = [part for part in defense.split("|") if part not in off]
    names = [part.split(":")[0] for part in parts]
    said = [sentence for name in names for sentence in _WORDS.get(name, ())]
    if names and set(names) <= {"clip", "clip_layers"}:
        said.append(_CLIP)
    if any("feedback" in part.split(":")[1:] for part in parts):
        said.append(_FEEDBACK)
    return tuple(dict.fromkeys(said))


__all__ = ["uncovered"]
