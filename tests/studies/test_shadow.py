"""The shadow attack's table: the right cells, the best other attack, and honest margins."""

from dataclasses import replace

import numpy as np
import pytest

import labelleak
from labelleak.audits.run import plan_once
from labelleak.studies import shadow_studies
from labelleak.studies.shadow import ask_shadow, make_shadow_table, plan_shadow
from labelleak.studies.shadow_studies import STUDY, calibration_error
from labelleak.studies.study import Asked, run_study


@pytest.fixture(scope="module")
def records():
    """Let ZLG's and LLBG's answers stand for the shadow attacks', which take longer."""
    found = labelleak.audit(
        batch_sizes=[1, 8],
        schemes=["iid", "unbalanced"],
        attacks=["free", "llg", "llg_star", "llg_plus", "zlg", "llbg", "random"],
        trials=6,
        initialisations=2,
        training_steps=[0, 20],
    )
    return [
        replace(r, attack="shadow_layers" if r.attack == "llbg" else "shadow")
        if r.attack in ("zlg", "llbg")
        else r
        for r in found.records
    ]


def test_the_plan_holds_the_standard_battery_and_the_shadow_attack():
    (part,) = plan_shadow(Asked(quick=True))
    assert set(labelleak.attacks.STANDARD) <= set(part.options.attacks)
    assert part.options.attacks[-1] == "shadow"
    assert part.options.training_steps == (0, 600)
    assert len(plan_shadow(Asked())[0].options.training_steps) == 4


def margins(records, stage):
    """Take the shadow attack's mean ASR less the best other's, the slow way."""
    own = [row for row in records if row.training_steps == stage]
    gaps = []
    for cell in dict.fromkeys((row.scheme, row.batch_size) for row in own):
        means = {
            name: np.mean(
                [r.asr for r in own if (r.scheme, r.batch_size, r.attack) == (*cell, name)]
            )
            for name in {row.attack for row in own}
        }
        shadow = means.pop("shadow")
        del means["shadow_layers"]
        gaps.append(shadow - max(means.values()))
    return gaps


def test_the_table_names_every_cell_and_every_attack(records):
    text = make_shadow_table(records)
    assert text.count("training steps") == 2
    rows = [line for line in text.splitlines() if line.startswith("| iid | 8 |")]
    assert len(rows) == 4  # in the contest, and all layers beside the head
    for name in ("random guess", "free guess", "LLG+", "shadow models"):
        assert text.count(f"\n| {name} | ") == 2
    gaps = margins(records, 20)
    least = min(gaps)
    summary = next(line for line in text.splitlines() if line.startswith("| 20 | "))
    assert f" {np.mean(gaps):+.3f} | {least:+.3f} | " in summary
    assert f"least {least:+.3f}" in text


def test_reading_the_whole_update_is_compared_trial_by_trial(records):
    text = make_shadow_table(records)
    for stage in (0, 20):
        own = [
            r for r in records if (r.training_steps, r.scheme, r.batch_size) == (stage, "iid", 8)
        ]
        asr = {
            name: np.mean([r.asr for r in own if r.attack == name])
            for name in ("shadow", "shadow_layers")
        }
        gain = asr["shadow_layers"] - asr["shadow"]
        row = f"| iid | 8 | {asr['shadow']:.3f} | {asr['shadow_layers']:.3f} | {gain:.3f} ("
        assert row in text
    assert text.count("All layers less the head alone: mean ") == 2


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


def test_what_the_attack_expects_of_itself_stands_beside_what_it_names(monkeypatch):
    monkeypatch.setattr(shadow_studies, "SIZES", (4,))
    asked = Asked(model="mlp")
    options = ask_shadow(
        "digits", asked, stages=(0,), sizes=(4,), trials=6, models=1, attacks=("free",)
    )
    model = shadow_studies.Trained(plan_once(options, ""), None)
    ((size, error, expected, asr, curve),) = shadow_studies.calibration(model).rows
    assert size == "4"
    assert 0 <= float(error) < 0.2
    assert abs(float(expected) - float(asr)) < 0.3
    assert float(curve.split(":")[0]) < 0.1


@pytest.mark.slow
def test_studies_write_every_table(tmp_path, bar):
    (path,) = run_study(STUDY, Asked(), tmp_path, bar=bar).files
    for title in ("Parts and budget", "Calibration", "Other auxiliary data", "Defenses", "Local"):
        assert f"**{title}" in path.read_text()
