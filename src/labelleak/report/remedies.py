"""Group the attacks that could not answer by what would let them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from labelleak.errors import shown
from labelleak.report.wording import list_words

_MOST_NAMES = 12
# Words of a reason, and what to do; in backquotes the option, which each door spells its own way.
_REMEDIES = {
    "needs the model": "the model: give `model`",
    "needs auxiliary data": "labelled data of the attacker's own: give `auxiliary`",
    "needs the number of samples": "the number of labels: give `batch_size` or `num_samples`",
    "needs the gradient of the head's bias": "the gradient of the head's bias, which is not there",
    "needs the gradient of every parameter": "the gradient of every layer: "
    "give all of the model's parameters in the update, and the `model`",
    "needs the client's local training": "the client's training: give `lr` and what else is known",
    "needs the defense": "to know the defense",
    "is left out of the standard battery": "to be named in `attacks`: with so many classes they "
    "are slow",
}


def group_reasons(reasons: Mapping[str, str]) -> list[str]:
    """Return one sentence a remedy, the one that helps most attacks first.

    Args:
        reasons: why each attack did not answer, by its name.

    >>> group_reasons({"zlg": "zlg needs the model, which is not granted",
    ...                "ilrg": "ilrg needs the model, which is not granted"})
    ['2 attacks need the model: give `model` (ilrg, zlg)']
    """
    groups: dict[str, list[str]] = defaultdict(list)
    alone = []
    for name, reason in sorted(reasons.items()):
        found = next((does for words, does in _REMEDIES.items() if words in reason), None)
        if found is None:
            alone.append(reason)
        else:
            groups[found].append(name)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [*(_say(does, names) for does, names in ordered), *alone]


def _say(does: str, names: list[str]) -> str:
    several = f"{len(names)} attacks need" if len(names) > 1 else "1 attack needs"
    listed = list_words(map(_plain, names), _MOST_NAMES).replace(" and ", ", ")
    return f"{several} {does} ({listed})"


def _plain(name: str) -> str:
    return name if name.isprintable() and len(name) <= 60 else shown(name)


__all__ = ["group_reasons"]
