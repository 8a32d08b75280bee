"""One line on each attack, defense, data set, model, scheme and experiment."""

from __future__ import annotations

from collections.abc import Iterator


def describe(what: str) -> Iterator[tuple[str, str]]:
    """Give name and line of everything of a kind: attacks, defenses, data, models, paper, schemes.

    >>> dict(describe("schemes"))["iid"]
    'every label drawn uniformly'
    """
    if what == "attacks":
        yield from _attacks()
    elif what == "defenses":
        from labelleak.defenses import DEFENSES

        for name, defense in DEFENSES.items():
            yield name, (defense.__doc__ or "").strip().splitlines()[0]
    elif what == "data":
        from labelleak.simulation.datasets import DATASETS

        yield from DATASETS.items()
    elif what == "models":
        from labelleak.simulation.models import MODELS

        yield from MODELS.items()
    elif what == "paper":
        from labelleak.experiments.presets import describe_presets
        from labelleak.experiments.studies import STUDIES

        yield from describe_presets()
        yield from ((name, study.line) for name, study in STUDIES.items())
    else:
        from labelleak.simulation.batches import SCHEMES

        yield from SCHEMES.items()


def _attacks() -> Iterator[tuple[str, str]]:
    from labelleak.attacks import ATTACKS
    from labelleak.interfaces import threat_model

    for name, attack in ATTACKS.items():
        first = (attack.__doc__ or "").strip().splitlines()[0]
        yield name, f"[{threat_model(attack())}] {first} ({attack.cite})"
