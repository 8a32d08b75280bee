"""The experiment of users: what it records, and what its table says of it."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from labelleak.audits.stage import train_stages
from labelleak.errors import BadInput
from labelleak.records.record import read_records
from labelleak.studies.study import Asked, run_study
from labelleak.studies.user_tables import make_users_table
from labelleak.studies.users import (
    FULL,
    POOLED,
    STUDY,
    TITLES,
    Cohort,
    part_users,
    plan_users,
    watch_users,
)

SMALL = Cohort(4, (1, 2), 9, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, bar):
    out = tmp_path_factory.mktemp("users")
    run_study(replace(STUDY, parts=few_parts), Asked(seed=5, quick=True), out, bar=bar)
    return out


def few_parts(asked):
    """Take the first federation, with few users and rounds."""
    part = plan_users(asked)[0]
    measure = partial(watch_users, partition="dirichlet:0.3", epochs=1, cohort=SMALL)
    few = replace(part.options, trials=4, model="mlp", activation=None)
    return [replace(part, options=few, measure=measure)]


def test_the_full_form_is_that_of_the_question():
    parts = plan_users(Asked())
    asked = {tuple(sorted(part.measure.keywords.items(), key=str)) for part in parts}
    assert len(asked) == len(parts) == 4
    assert FULL.users == 20
    assert max(FULL.shown) == 30
    assert all(part.options.trials == 20 * part.options.models for part in parts)


def test_another_model_is_taken_and_one_that_ties_samples_together_refused():
    (part, *_) = plan_users(Asked(quick=True, model="mlp"))
    assert (part.options.model, part.options.activation) == ("mlp", None)
    (part, *_) = plan_users(Asked(quick=True, model="resnet20"))
    (stage,) = train_stages(part.plan(), 0, (0,))
    with pytest.raises(BadInput, match="resnet20 ties samples together"):
        next(watch_users(stage, partition="iid", epochs=1, cohort=SMALL))


def test_data_with_writers_are_parted_by_writer_too(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 4
    images = (rng.random((200, 28, 28)) * 255).astype(np.uint8)
    writers = np.array([f"w{row % 7 if row % 7 < 3 else row // 30}" for row in range(200)])
    path = str(tmp_path / "written.npz")
    arrays = {"x_test": images[:20], "y_test": labels[:20], "writers": writers}
    np.savez(path, x_train=images, y_train=labels, **arrays)
    *others, part = plan_users(Asked(data=path, quick=True))
    assert len(others) == 2
    assert part.measure.keywords["partition"] == "writer"
    (stage,) = train_stages(replace(part, options=replace(part.options, trials=3)).plan(), 0, (0,))
    own = writers[stage.plan.roles.train_rows]
    sizes = sorted(np.unique(own, return_counts=True)[1], reverse=True)[:3]
    parts = part_users(stage, "writer", 3)
    assert [len(one) for one in parts] == sizes
    assert all(len(set(own[one].tolist())) == 1 for one in parts)


def test_every_user_and_attack_has_a_record_of_all_distances(folder):
    rows = read_records(folder / "records.jsonl")
    assert len(rows) == len(SMALL.shown) * len(TITLES) * SMALL.users
    assert {path.name for path in folder.iterdir()} >= {"curves.svg", "curves.md", "users.md"}
    for row in rows:
        assert row.asr == pytest.approx(1 - row.extra["l1"] / 2, abs=1e-5)
        assert row.asr_free == pytest.approx(1 - row.extra["population_l1"] / 2, abs=1e-5)
        assert row.extra["population_size"] == 287
        assert row.extra["attack_title"] == TITLES[row.attack]
        assert row.threat_model == ("update" if row.attack in ("llg", "llbg") else "auxiliary")
        assert {"l_infinity", "kl", "hellinger", "cosine", "top3", "absent_wrong"} <= set(row.extra)
    held = {row.extra["user"]: row.extra["labels"] for row in rows}
    assert len(held) == 4


def test_attacks_are_nearer_than_the_population_guess(folder):
    rows = read_records(folder / "records.jsonl")
    for name in (*POOLED, "ldia", "decaf", "user_posterior"):
        last = [r for r in rows if r.attack == name and r.extra["rounds"] == 2]
        assert np.mean([r.extra["l1"] for r in last]) < np.mean(
            [r.extra["population_l1"] for r in last]
        )


def test_the_table_names_the_guess_and_the_rounds_that_suffice(folder):
    rows = read_records(folder / "records.jsonl")
    text = make_users_table(rows)
    assert (folder / "users.md").read_text() == text
    assert "dirichlet:0.3, local epochs 1, after 2 rounds" in text
    assert "4 users" in text
    assert "| population guess (287 samples) | " in text
    assert text.count("pooled | ") == len(POOLED)
    far = [replace(row, extra={**row.extra, "l1": row.extra["population_l1"]}) for row in rows]
    assert make_users_table(far).count("| never |") == len(TITLES)
    assert "| 1 to 2 (" in text
    full = [replace(row, extra={**row.extra, "absent_found": None}) for row in rows]
    assert " | - | " in make_users_table(full)
