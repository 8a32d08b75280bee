"""The strongest attacker: chosen on some models, told on others, never flattered by the choice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from labelleak.records.record import Record
from labelleak.report import strongest_records, tabulate, worst_cases
from labelleak.report.page import render
from report.samples import make_record


def rows_of(scores: dict[tuple[str, str], np.ndarray], free: float = 0.5) -> list[Record]:
    """Build one record per attack, initialisation and trial from ASRs."""
    return [
        make_record(
            attack=attack,
            threat_model=threat_model,
            initialisation=model,
            trial=trial,
            asr=float(asr),
            asr_free=free,
            advantage=float((asr - free) / (1 - free)),
        )
        for (attack, threat_model), table in scores.items()
        for (model, trial), asr in np.ndenumerate(table)
    ]


def test_many_attacks_of_no_worth_stay_worthless() -> None:
    rng = np.random.default_rng(0)
    told, naive = [], []
    for _ in range(60):
        scores = {(f"a{n}", "update"): rng.uniform(0, 1, (6, 4)) for n in range(12)}
        rows = rows_of(scores)
        (cell,) = worst_cases(rows)
        told.append(cell.asr.mean)
        naive.append(max(c.asr.mean for c in tabulate(rows)))
    assert np.mean(naive) > 0.57  # the maximum on its own trials flatters
    assert abs(np.mean(told) - 0.5) < 0.02


def test_a_clearly_best_attack_is_told_on_every_trial() -> None:
    rng = np.random.default_rng(1)
    good, bad = rng.uniform(0.8, 1, (4, 5)), rng.uniform(0, 0.3, (4, 5))
    (cell,) = worst_cases(rows_of({("good", "update"): good, ("bad", "update"): bad}))
    assert cell.chosen == (("good", False),)
    assert cell.trials == 20
    assert np.isclose(cell.asr.mean, good.mean())


def test_each_model_is_told_by_the_choice_of_the_others() -> None:
    first = np.array([[1.0], [0.0]])
    second = 1 - first
    (cell,) = worst_cases(rows_of({("x", "update"): first, ("y", "update"): second}))
    assert cell.asr.mean == 0.0  # each attack shines on the model that does not count for it
    assert {name for name, _ in cell.chosen} == {"x", "y"}


def test_a_server_that_holds_more_may_run_every_weaker_attack_but_not_the_other_way() -> None:
    strong, weak = np.full((2, 2), 0.9), np.full((2, 2), 0.4)
    rows = rows_of({("llg", "update"): strong, ("llg_plus", "auxiliary"): weak})
    cells = {cell.threat_model: cell for cell in worst_cases(rows)}
    assert cells["auxiliary"].chosen == (("llg", False),)
    rows = rows_of({("llg", "update"): weak, ("llg_plus", "auxiliary"): strong})
    cells = {cell.threat_model: cell for cell in worst_cases(rows)}
    assert cells["update"].chosen == (("free", False),)
    assert cells["auxiliary"].chosen == (("llg_plus", False),)


def test_an_update_that_misleads_is_not_read() -> None:
    rows = rows_of(
        {("llg", "update"): np.full((2, 2), 0.1), ("free", "none"): np.full((2, 2), 0.5)}
    )
    (cell,) = worst_cases(rows)
    assert cell.chosen == (("free", False),)
    assert cell.advantage is not None
    assert cell.advantage.mean == 0.0


def test_conditions_are_kept_apart_and_a_single_trial_is_told_as_it_is() -> None:
    rows = [make_record(batch_size=size, asr=asr) for size, asr in ((8, 0.7), (32, 0.9))]
    assert [record.asr for record in strongest_records(rows)] == [0.7, 0.9]


def test_nothing_to_gain_is_no_loss_whether_or_not_the_free_guess_was_run() -> None:
    rng = np.random.default_rng(3)
    for asr in (np.full((5, 4), 0.2), rng.uniform(0.1, 0.6, (5, 4))):
        (cell,) = worst_cases(rows_of({("llg", "update"): asr}))
        assert cell.chosen == (("free", False),)
        assert cell.advantage is not None
        assert (cell.advantage.low, cell.advantage.high) == (0.0, 0.0)


def test_models_of_several_seeds_are_models_of_their_own() -> None:
    rows = [
        make_record(seed=seed, trial=trial, asr=0.5 + 0.1 * seed, advantage=0.1 * seed)
        for seed in range(4)
        for trial in range(5)
    ]
    (cell,) = tabulate(rows)
    assert cell.initialisations == 4
    assert cell.asr.high - cell.asr.low > 0.1


def test_only_the_guess_was_run() -> None:
    assert worst_cases([make_record(attack="free", threat_model="none")]) == []


def test_a_server_that_holds_more_is_never_shown_weaker() -> None:
    rng = np.random.default_rng(5)
    for _ in range(40):
        scores = {(f"u{n}", "update"): rng.uniform(0, 1, (4, 3)) for n in range(2)}
        scores |= {(f"m{n}", "model"): rng.uniform(0, 1, (4, 3)) for n in range(9)}
        update, model = worst_cases(rows_of(scores))
        assert model.advantage.mean >= update.advantage.mean
        assert (update.threat_model, model.threat_model) == ("update", "model")
        assert {name[0] for name, _ in update.chosen} <= {"u", "f"}


def test_of_equals_the_one_that_sees_most_and_knows_the_defense_is_chosen() -> None:
    # Chosen on the one other model, where all were right.
    alone, seeing = np.array([[1.0], [0.6]]), np.array([[1.0], [1.0]])
    rows = rows_of({("a", "update"): alone, ("b", "auxiliary"): seeing})
    knowing = [replace(row, adaptive=True) for row in rows_of({("c", "auxiliary"): seeing})]
    unaware = rows_of({("a_too", "auxiliary"): alone})
    for told, name in ((rows, "b"), (unaware + knowing, "c")):
        (cell,) = [cell for cell in worst_cases(told) if cell.threat_model == "auxiliary"]
        assert cell.asr.mean == 1.0
        assert {chosen for chosen, _ in cell.chosen} == {name}


def test_cells_of_the_strongest_name_the_conditions_that_all_cells_do() -> None:
    """Though no attack but the guess ran under one, so that the choices alone hold one value."""
    rows = rows_of({("llg", "update"): np.ones((2, 3)), ("free", "none"): np.full((2, 3), 0.5)})
    sizes = {"llg": 100, "free": 200}
    rows = [replace(row, extra={"train_size": sizes[row.attack]}) for row in rows]
    (cell,) = worst_cases(rows)
    assert cell.condition == (("train_size", "100"),)
    assert {cell.setting for cell in tabulate(rows)} > {cell.setting}
    assert render(rows, source="x")
