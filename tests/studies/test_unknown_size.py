"""What an unknown batch size costs, and that known and estimated are kept apart in records."""

import numpy as np
import pytest

from labelleak.records.record import read_records
from labelleak.report import tabulate
from labelleak.studies.study import Asked, run_study
from labelleak.studies.unknown_size import SOURCE, STUDY, overlap


@pytest.fixture(scope="module")
def folder(tmp_path_factory, bar):
    out = tmp_path_factory.mktemp("unknown")
    run_study(STUDY, Asked(seed=3, quick=True), out, bar=bar)
    return out


def test_untrained_the_loss_is_small_and_trained_the_estimate_says_that_it_is_unsure(folder):
    rows = read_records(folder / "records.jsonl")
    guessed = [row for row in rows if row.extra[SOURCE] == "estimated"]
    known = {
        (
            row.extra["part"],
            row.training_steps,
            row.scheme,
            row.batch_size,
            row.trial,
            row.attack,
        ): row
        for row in rows
        if row.extra[SOURCE] == "known"
    }
    right = {0: [], 300: []}
    for row in guessed:
        key = (row.extra["part"], row.training_steps, row.scheme, row.batch_size, row.trial)
        twin = known[(*key, row.attack)]
        found = row.extra["estimated_samples"] == row.num_samples
        right[row.training_steps].append(found)
        if found:
            assert row.asr == twin.asr
        else:
            ratio = row.extra["estimated_samples"] / row.num_samples
            assert row.asr <= min(ratio, 1 / ratio) + 1e-6
        assert row.asr_free == twin.asr_free
    assert np.mean(right[0]) > 0.9
    assert np.mean(right[300]) < 0.5
    large = [row for row in guessed if row.training_steps and row.batch_size >= 32]
    assert np.mean([row.extra["estimate_confidence"] for row in large]) < 0.5


def test_known_and_estimated_are_conditions_of_their_own(folder):
    cells = tabulate(read_records(folder / "records.jsonl"))
    llg = [cell for cell in cells if cell.attack == "llg" and cell.batch_size == 8]
    assert len(llg) == 2 * 2 * 2 * 2  # source, activation, stage, scheme
    assert {dict(cell.condition)[SOURCE] for cell in llg} == {"known", "estimated"}
    text = (folder / "unknown_size.md").read_text()
    assert text.count("**digits, ") == 4
    assert "| iid | 8 | 0.57 |" in text


def test_guesses_of_another_total_are_scored_by_their_overlap():
    assert overlap(np.array([3, 0]), np.array([3, 0])) == 1.0
    assert overlap(np.array([6, 0]), np.array([3, 0])) == 0.5
    assert overlap(np.array([1, 0]), np.array([2, 2])) == 0.25
