"""The shadow attack's table: the right cells, the best other attack, and honest margins."""

from dataclasses import replace

import numpy as np
import pytest

import labelleak
from labelleak.studies.shadow import make_shadow_table, margins, plan_shadow
from labelleak.studies.shadow_parts import calibration_error, plan_studies, run_studies


@pytest.fixture(scope="module")
def records():
    """Let ZLG's answers stand for the shadow attack's, which take longer."""
    found = labelleak.audit(
        batch_sizes=[1, 8],
        schemes=["iid", "unbalanced"],
        attacks=["free", "llg", "llg_star", "llg_plus", "zlg", "random"],
        trials=6,
        initialisations=2,
        training_steps=[0, 20],
    )
    return [replace(r, attack="shadow") if r.attack == "zlg" else r for r in found.records]


def test_the_plan_holds_the_standard_battery_and_the_shadow_attack():
    plan = plan_shadow("digits", "lenet", seed=0, command="", stages=(0, 5), sizes=(4,), trials=3)
    names = [attack.name for attack in plan.attacks]
    assert set(labelleak.attacks.STANDARD) <= set(names)
    assert names[-1] == "shadow"
    assert plan.options.training_steps == (0, 5)


def test_margins_are_taken_from_the_best_of_all_others(records):
    found = margins(records)
    assert set(found) == {
        (stage, scheme, n) for stage in (0, 20) for scheme in ("iid", "unbalanced") for n in (1, 8)
    }

    def mean(attack):
        own = [
            r.asr
            for r in records
            if (r.training_steps, r.scheme, r.batch_size, r.attack) == (20, "iid", 8, attack)
        ]
        return np.mean(own)

    best = max(mean(name) for name in ("free", "llg", "llg_star", "llg_plus", "random"))
    assert np.isclose(found[20, "iid", 8], mean("shadow") - best)


def test_the_table_names_every_cell_and_every_attack(records):
    text = make_shadow_table(records)
    assert text.count("training steps") == 2
    rows = [line for line in text.splitlines() if line.startswith("| iid | 8 |")]
    assert len(rows) == 2
    for name in ("random guess", "free guess", "LLG+", "shadow models"):
        assert text.count(f"\n| {name} | ") == 2
    gaps = [gap for (stage, *_), gap in margins(records).items() if stage == 20]
    least = min(gaps)
    summary = next(line for line in text.splitlines() if line.startswith("| 20 | "))
    assert f" {np.mean(gaps):+.3f} | {least:+.3f} | " in summary
    assert f"least {least:+.3f}" in text


def test_the_calibration_error_is_a_weighted_mean_over_bins():
    rng = np.random.default_rng(0)
    chances = rng.random(5000)
    assert calibration_error(chances, rng.random(5000) < chances) < 0.04
    assert calibration_error(chances, rng.random(5000) < chances**4) > 0.2
    naive = 0.0
    came = rng.random(5000) < 0.5
    for low in range(15):
        own = [i for i, c in enumerate(chances) if low / 15 <= c < (low + 1) / 15]
        naive += abs(np.mean(chances[own]) - np.mean(came[own])) * len(own) / 5000
    assert np.isclose(calibration_error(chances, came), naive)


@pytest.mark.slow
def test_studies_write_every_table(tmp_path):
    plan = plan_studies("digits", "lenet", seed=0, command="")
    text = run_studies(plan, tmp_path).read_text()
    for title in ("Parts and budget", "Calibration", "Other auxiliary data", "Defenses", "Local"):
        assert f"**{title}" in text
