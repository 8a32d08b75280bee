"""Defenses during training: the step that users take together, and what is recorded of it."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from labelleak.attacks.many_clients import batch_gradients
from labelleak.audits.stage import train_stages
from labelleak.core.white_box import WhiteBox
from labelleak.records.record import read_records
from labelleak.studies.defended_training import (
    FULL,
    LR,
    OURS,
    PAPERS,
    STUDY,
    Course,
    draw_own,
    make_training_table,
    plan_training,
    train_defended_users,
)
from labelleak.studies.study import Asked, run_study

SMALL = Course(6, (0, 2), ("iid",))
DEFENSES = ("none", "clip:1|gaussian:1")


def few_parts(asked):
    """Take six users and two rounds of a few defenses."""
    parts = plan_training(replace(asked, defenses=DEFENSES))
    measure = partial(train_defended_users, course=SMALL)
    return [
        replace(
            p,
            options=replace(
                p.options, trials=6, schemes=("iid",), attacks=("free", "llg", "llg_plus_adaptive")
            ),
            measure=measure,
        )
        for p in parts
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, bar):
    out = tmp_path_factory.mktemp("training")
    run_study(replace(STUDY, parts=few_parts), Asked(seed=2, quick=True), out, bar=bar)
    return out


def test_the_full_form_is_the_papers():
    parts = plan_training(Asked())
    assert (FULL.users, max(FULL.shown)) == (100, 1000)
    assert [p.options.defenses[0] for p in parts] == 2 * [*PAPERS, *OURS]
    assert all(p.options.trials == 100 and p.options.batch_sizes == (8,) for p in parts)
    asked = plan_training(Asked(defenses=("gaussian:1",)))
    assert [p.options.schemes[0] for p in asked] == list(FULL.partitions)


def test_records_are_of_all_users_before_each_shown_round(folder):
    rows = read_records(folder / "records.jsonl")
    assert len(rows) == 2 * 6 * (2 + 3)  # nobody adapts to no defense
    assert {row.extra["rounds_trained"] for row in rows} == {0, 2}
    assert {row.trial for row in rows} == set(range(6))
    first = {row.model_accuracy for row in rows if row.extra["rounds_trained"] == 0}
    assert len(first) == 1  # all defenses start from one model
    assert all(row.adaptive == row.attack.endswith("_adaptive") for row in rows)


def test_noise_of_a_bounded_update_hides_labels(folder):
    rows = read_records(folder / "records.jsonl")

    def mean(defense):
        return np.mean([r.asr for r in rows if r.attack == "llg" and r.defense == defense])

    assert mean("none") > mean("clip:1|gaussian:1") + 0.15


def test_the_table_has_a_row_for_each_defense_and_round(folder):
    rows = read_records(folder / "records.jsonl")
    text = make_training_table(rows)
    assert (folder / "defended_training.md").read_text() == text
    assert text.count("| clip:1\\|gaussian:1 | ") == 2
    assert "Users by iid" in text
    line = next(line for line in text.splitlines() if line.startswith("| none | 0 |"))
    assert line.endswith(" | - |")


def test_users_step_by_the_mean_of_their_gradients():
    (part, *_) = few_parts(Asked(seed=2, quick=True))
    (stage,) = train_stages(part.plan(), 0, (0,))
    data = stage.plan.roles.train
    rng = np.random.default_rng(0)
    picks = rng.choice(len(data), (3, 8), replace=False)
    model = stage.model
    found = batch_gradients(model, data, picks)
    module = copy.deepcopy(model.module)
    for row, batch in enumerate(torch.from_numpy(picks)):
        module.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(data.inputs[batch]), data.labels[batch])
        loss.backward()
        for name, value in module.named_parameters():
            torch.testing.assert_close(found[name][row], value.grad, rtol=1e-3, atol=1e-5)
    assert isinstance(model, WhiteBox)
    assert LR == 0.1


def test_a_user_with_few_samples_gives_them_again():
    parts = [np.array([4]), np.arange(10, 30)]
    drawn = draw_own(parts, 8, np.random.default_rng(1))
    assert (drawn[0] == 4).all()
    assert len(set(drawn[1].tolist())) == 8
