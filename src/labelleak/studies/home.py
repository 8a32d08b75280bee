"""LLBG and RLU on the FedAvg clients of their own papers, beside every attack that applies."""

from __future__ import annotations

from collections.abc import Iterator

from labelleak.audits.run import Part, load_once
from labelleak.core.training import FullTraining
from labelleak.studies.study import Asked, Study
from labelleak.studies.verdicts.cases import RELU, SEVERAL_STEPS, Case, Net
from labelleak.studies.verdicts.study import make_verdict_table, plan_cases

# Client simulation trains on each class alone, which is too much for a hundred of them.
_MANY_CLASSES = 50
_FOR_MANY = tuple(name for name in SEVERAL_STEPS if name != "client_simulation")
_LLBG_NETS = (RELU, Net("tanh"), Net("sigmoid"), Net("relu", model="mlp"))
_CLIENT, _BATCH = 64, 16


def home_cases(num_classes: int) -> tuple[Case, ...]:
    """Return the cases for a data set.

    Gat & Sharif (AISec 2024) let a client take 10 local steps of 10 samples each at learning rate
    0.001, drawn alike, on an untrained network. Chen & Vikalo (ICML 2024) take clients of
    Dirichlet class shares through several epochs of plain SGD; here of 64 samples, in steps of 16,
    at learning rate 0.01, 1, 5 and 10 epochs, on an untrained and a slightly trained network
    (100 steps). With more than 50 classes only the first are given.

    >>> len(home_cases(100)), len(home_cases(10))
    (4, 16)
    """
    many = num_classes > _MANY_CLASSES
    return (*_of_llbg(_FOR_MANY if many else SEVERAL_STEPS), *(() if many else _of_rlu()))


def _of_llbg(attacks: tuple[str, ...]) -> Iterator[Case]:
    how = FullTraining(lr=0.001, local_steps=10, batch_size=10)
    for net in _LLBG_NETS:
        yield Case("llbg", net, 100, "iid", training=how, named=attacks)


def _of_rlu() -> Iterator[Case]:
    for stage in (0, 100):
        for scheme in ("dirichlet:0.1", "dirichlet:0.5"):
            for epochs in (1, 5, 10):
                how = FullTraining(0.01, epochs * _CLIENT // _BATCH, _BATCH)
                size = epochs * _CLIENT
                yield Case("rlu", RELU, size, scheme, stage, how, epochs=epochs)


def plan_home(asked: Asked) -> list[Part]:
    """Plan the cases for a data set of images."""
    return plan_cases(asked, home_cases(load_once(asked.data).num_classes))


STUDY = Study(parts=plan_home, report=lambda found: {"home.md": make_verdict_table(found.records)})
