"""The experiment of rounds: what it pools, what it scores against, and what it says of the law."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelleak.records.record import read_records
from labelleak.report import tabulate
from labelleak.studies.rounds import (
    STUDY,
    even_guess_asr,
    follow_federation,
    make_rounds_table,
    plan_rounds,
)
from labelleak.studies.study import Asked, run_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory, bar):
    out = tmp_path_factory.mktemp("rounds")
    run_study(replace(STUDY, parts=few_parts), Asked(seed=5, quick=True), out, bar=bar)
    return out


def few_parts(asked):
    """Take the federations that start from the ReLU network, and fewer rounds of them."""
    parts = [part for part in plan_rounds(asked) if part.options.activation == "relu"]
    return [
        replace(
            part,
            options=replace(part.options, training_steps=(0, 50)),
            measure=partial(follow_federation, shown=(1, 2, 5)),
        )
        for part in parts
    ]


def test_more_rounds_tell_more_of_what_a_client_holds(folder):
    assert {path.name for path in folder.iterdir()} >= {"curves.svg", "curves.md", "rounds.md"}
    rows = read_records(folder / "records.jsonl")
    assert (
        len(rows) == 2 * 2 * 2 * 3 * 10 * 4 * 2
    )  # parts, models, stages, rounds, clients, attacks, truths

    def mean(name, against, number, federation="FedSGD"):
        key = (federation, against, number)
        own = [
            r
            for r in rows
            if (r.attack, r.training_steps) == (name, 0)
            and (r.extra["federation"], r.extra["against"], r.extra["rounds"]) == key
        ]
        return np.mean([r.asr for r in own]), np.mean([r.asr_free for r in own])

    once, free = mean("rlu", "held", 1)
    pooled, still = mean("rlu", "held", 5)
    assert free == still
    assert pooled > once + 0.05 > free + 0.1
    assert mean("rlu", "consumed", 5)[0] > 0.99
    assert mean("llg", "consumed", 5)[0] > mean("llg", "consumed", 5, "FedAvg, 5 steps")[0]
    for row in rows:
        if row.extra["against"] == "consumed":
            most = 8 * row.extra["rounds"] * row.local_steps
            assert row.extra["labels"] <= most  # fewer where a client holds less than a batch
    held = {(r.extra["client"], r.initialisation): r.extra["labels"] for r in rows}
    assert len({(row.trial, row.extra["client"]) for row in rows}) == len(held) == 20


def test_rounds_and_truths_are_never_averaged_together(folder):
    cells = tabulate(read_records(folder / "records.jsonl"))
    llg = [cell for cell in cells if cell.attack == "llg"]
    assert len(llg) == 2 * 2 * 3 * 2
    assert all(cell.trials == 20 and cell.initialisations == 2 for cell in llg)


def test_the_table_says_what_is_left_of_the_error(folder):
    rows = read_records(folder / "records.jsonl")
    text = make_rounds_table(rows)
    assert "What 5 rounds leave of the error of one** (1/sqrt(5) = 0.45" in text
    assert text.count("| relu | ") == 8
    assert (folder / "rounds.md").read_text() == text


@settings(max_examples=50)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=6).filter(sum), st.integers(0, 99))
def test_the_even_guess_is_the_mean_over_which_classes_get_the_rest(counts, seed):
    real = np.array(counts)
    total, classes = int(real.sum()), len(real)
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(400):
        guess = np.full(classes, total // classes)
        guess[rng.permutation(classes)[: total % classes]] += 1
        assert guess.sum() == total
        draws.append(np.minimum(guess, real).sum() / total)
    assert even_guess_asr(real) == pytest.approx(np.mean(draws), abs=5 * np.std(draws) / 20 + 1e-9)
