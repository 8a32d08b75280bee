"""The experiments of the literature by name: grids that ship as TOML files, and studies in code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module, resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelleak.errors import unknown_name

if TYPE_CHECKING:
    from labelleak.audits.grids import Grid
    from labelleak.studies.options import Asked
    from labelleak.studies.study import Study

# A name is that of a module beside this one, which holds a STUDY, or of a grid, paper/NAME.toml,
# which holds its own title. They come in the order in which the literature's questions build on
# each other; those from `attacks` on take long.
STUDIES: dict[str, str | None] = {
    "batch_sizes": None,
    "signals": "What LLG rests on: row sums of present and absent classes (P1, P2)",
    "gradients": "Row sums, original and adjusted, for N of 2 to 128: signs, counts, correlation",
    "baselines": None,
    "trained": None,
    "architectures": None,
    "architectures_dlg": None,
    "activations": None,
    "local_iterations": None,
    "learning_rates": None,
    "federations": None,
    "defended_training": "A hundred users, 1,000 rounds, a defense on at each of them",
    "aggregates": None,
    "noise": None,
    "compression": None,
    "compression_finding": None,
    "privacy": None,
    "binary": None,
    "multilabel": None,
    "dense": None,
    "tokens": None,
    "tokens_size": None,
    "tokens_defenses": None,
    "attacks": "Table: every attack, untrained and trained, N from 1 to 1,024",
    "verdicts": "Tables: which attack is strongest where",
    "home": "Table: LLBG and RLU on the clients of their own papers",
    "defenses": "Table: every defense, what it leaves the attacks and what it costs",
    "compression_rounds": "Figure and tables: compression with error feedback, round by round",
    "unknown_size": "Table: what it costs in ASR that N is read from the update",
    "rounds": "Figure: answers about the same clients pooled over rounds",
    "users": "Figure and tables: a user's label distribution, guessed over rounds",
    "shadow": "Table: the shadow attack beside every other, early and late in training",
    "withheld_head": "Table: the head withheld, what the layers below it give away",
    "shadow_studies": "Its parts, calibration, data, defenses; `data` A,B: B's data too",
}


def describe_studies() -> Iterator[tuple[str, str]]:
    """Return name and title of every study.

    >>> next(describe_studies())
    ('batch_sizes', 'Batch size: one gradient, and ten local iterations, of an untrained model')
    """
    for name, title in STUDIES.items():
        yield name, title or read_shipped(name).title


def load_study(name: str) -> Study:
    """Return a study by name.

    Raises:
        BadInput: for an unknown name.

    >>> load_study("trained").figure.x
    'training_steps'
    """
    if name not in STUDIES:
        raise unknown_name("experiment", name, STUDIES)
    if find_spec(f"{__package__}.{name}"):
        study: Study = import_module(f"{__package__}.{name}").STUDY
        return replace(study, name=name, title=STUDIES[name] or study.title)
    from labelleak.studies.study import study_of

    return study_of(partial(read_shipped, name), takes=frozenset({"quick"}))


def read_shipped(name: str, asked: Asked | None = None) -> Grid:
    """Read a grid that ships with the package, as it is asked for.

    Raises:
        BadInput: for options that cannot be.
    """
    from labelleak.audits.grids import read_grid

    chosen: dict[str, Any] = {} if asked is None else {"seed": asked.seed}
    if asked is not None and asked.data != type(asked).data:  # else the grid's own data stand
        chosen["data"] = asked.data
    if asked is not None and asked.defenses:
        chosen["defenses"] = asked.defenses
    with resources.as_file(resources.files(__package__) / "paper" / f"{name}.toml") as path:
        return read_grid(Path(path), quick=asked is not None and asked.quick, override=chosen)


__all__ = ["STUDIES", "describe_studies", "load_study", "read_shipped"]
