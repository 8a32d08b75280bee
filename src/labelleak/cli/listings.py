"""One line on each attack, defense, data set, model, scheme and experiment."""

from __future__ import annotations

from collections.abc import Iterator


def describe(what: str) -> Iterator[tuple[str, str]]:
    """Return name and line of all of a kind: attacks, defenses, data, models, paper, schemes.

    >>> dict(describe("schemes"))["iid"]
    'every label drawn uniformly'
    """
    if what == "attacks":
        yield from _attacks()
    elif what == "defenses":
        yield from _defenses()
    elif what == "data":
        from labelleak.simulation.data.datasets import DATASETS

        yield from DATASETS.items()
    elif what == "models":
        from labelleak.simulation.designs import MODELS

        yield from MODELS.items()
    elif what == "paper":
        from labelleak.studies.registry import describe_studies

        yield from describe_studies()
    else:
        from labelleak.simulation.batches import SCHEMES

        yield from SCHEMES.items()


# What hides labels too, but is no change of one client's update.
_CONDITIONS = {
    "--batch-sizes": "Larger batches: more labels behind one update.",
    "--local-steps": "More local steps before an update is shared.",
    "--clients": "Secure aggregation: the server sees the mean of several clients' updates only.",
}


def _defenses() -> Iterator[tuple[str, str]]:
    from labelleak.defenses import DEFENSES
    from labelleak.defenses.text import write_form

    for name, defense in DEFENSES.items():
        yield name, f"{(defense.__doc__ or '').strip().splitlines()[0]} {write_form(defense)}"
    yield from _CONDITIONS.items()


def _attacks() -> Iterator[tuple[str, str]]:
    from labelleak.attacks import ATTACKS
    from labelleak.core.interfaces import threat_model

    for name, attack in ATTACKS.items():
        first = (attack.__doc__ or "").strip().splitlines()[0]
        yield name, f"[{threat_model(attack())}] {first} ({attack.cite})"
