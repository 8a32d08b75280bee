"""What each kind of defense does not cover, in plain words; read off its text form alone."""

from __future__ import annotations

_POOLED = (
    "What leaks is measured for a single update: over many rounds of one client noise averages "
    "out, and an attacker who pools them gains more."
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

_WORDS = {
    **dict.fromkeys(("gaussian", "laplace", "exponential", "dpsgd"), _POOLED),
    **dict.fromkeys(
        ("topk", "randomk", "prune", "threshold", "dgc", "sign", "qsgd", "bits", "float16"),
        _COMPRESSED,
    ),
    **dict.fromkeys(("withhold", "soteria"), _HEAD),
    "server_noise": _SERVER,
}


def uncovered(defense: str) -> tuple[str, ...]:
    """Give a sentence for each thing that a defense leaves open.

    >>> uncovered("clip:1")
    ('Clipping alone scales an update and keeps its signs and ratios: it hides no label.',)
    >>> len(uncovered("topk:0.1:feedback")), uncovered("none")
    (2, ())
    """
    if defense == "none":
        return ()
    parts = defense.split("|")
    names = [part.split(":")[0] for part in parts]
    said = [_WORDS[name] for name in names if name in _WORDS]
    if "head_noise" in names:
        said += [_HEAD, _POOLED]
    if set(names) <= {"clip", "clip_layers"}:
        said.append(_CLIP)
    if "feedback" in defense.replace("|", ":").split(":") or "dgc" in names:
        said.append(_FEEDBACK)
    return tuple(dict.fromkeys(said))


__all__ = ["uncovered"]
