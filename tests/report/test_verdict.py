"""The word of a page: by the upper end, by enough trials, and never a comfort in doubt."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from labelleak.attacks import ATTACKS
from labelleak.records.intervals import Interval
from labelleak.report import headline, render, worst_cases
from labelleak.report.about import About
from labelleak.report.headlines import judged_cells
from labelleak.report.next_steps import next_steps
from labelleak.report.opening import say_verdict
from labelleak.report.verdict import GRADES, UNDECIDED, Exposure, grade, reach_verdict

from .federated import federated_records
from .samples import make_record, make_records
from .test_defenses import defended_records


def exposure(low: float, high: float, *, trials: int = 100, doubt: str = "") -> Exposure:
    span = Interval((low + high) / 2, low, high)
    rate = Interval(0.7, 0.6, 0.8)
    return Exposure("model", "LLG*", span, rate, 0.6, 32, "32 labels", trials, 10, doubt)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (-0.2, 0.05, GRADES[0]),
        (-0.2, 0.051, GRADES[1]),
        (0.0, 0.2, GRADES[1]),
        (0.1, 0.4, GRADES[2]),
        (0.1, 0.8, GRADES[3]),
        (0.1, 0.81, GRADES[4]),
        (1.0, 1.0, GRADES[4]),
    ],
)
def test_the_word_follows_the_upper_end(low: float, high: float, word: object) -> None:
    assert grade(exposure(low, high)) is word


def test_little_evidence_and_doubt_show_a_leak_but_never_its_absence() -> None:
    for weak in ({"trials": 19}, {"doubt": "The scale is impossible."}):
        assert grade(exposure(0.0, 0.05, **weak)) is UNDECIDED
        assert grade(exposure(0.1, 0.9, **weak)) is UNDECIDED
        assert grade(exposure(0.6, 0.7, **weak)) is GRADES[3]


def test_no_word_of_the_scale_promises_safety_and_the_docs_have_all() -> None:
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    assert all(before.most < after.most for before, after in pairwise(GRADES))
    for one in (*GRADES, UNDECIDED):
        assert "safe" not in one.word.lower()
        assert f"| {one.word} |" in page


def few(**changes: object) -> list:
    return make_records(
        stages=(0,), schemes=("iid",), batch_sizes=(32,), attacks=("llg", "free"), **changes
    )


def test_the_page_says_what_what_for_whom_and_what_now() -> None:
    text = render(
        few(trials=10),
        source="r.jsonl",
        about=About(title="Ward <7>", system="triage", contact="dpo@example.org"),
        when="2026-11-28",
    )
    for said in (
        "<h1>Ward &lt;7&gt;</h1>",
        "System: triage. Records of 2026-11-28. Made by labelleak 0.1.0. Contact: dpo@example.org.",
        "Fair: 30 updates of 3 independent models",
        "if labels are diagnoses, how many patients have which",
        "labelleak tune --target-advantage 0.2 --data digits --model cnn --batch-size 32 "
        "--scheme iid",
        ATTACKS["llg"].card.plain.split("'")[0],
    ):
        assert said in text.replace('<span class="whole">', "").replace("</span>", ""), said


def test_a_search_on_a_federation_names_what_is_to_be_filled_in() -> None:
    verdict = reach_verdict(rows := few(trials=10, command="flower", data="federation"))
    steps = [step for step in next_steps(rows, verdict, ()) if step.command]
    assert [step.command for step in steps] == [
        "labelleak tune --target-advantage 0.2 --data DATA --model MODULE:FUNCTION"
    ]
    assert "DATA like the clients'" in steps[0].says


def test_a_search_is_of_the_case_that_was_judged_and_of_the_model_that_was_audited() -> None:
    command = "labelleak audit --activation=tanh --init xavier --trials 5"
    rows = few(trials=10, command=command, extra={"init": "as given"})
    [step] = [s for s in next_steps(rows, reach_verdict(rows), ()) if s.command]
    assert step.command.endswith("--activation tanh --init xavier --batch-size 32 --scheme iid")
    assert "models that the search trains itself" in step.says
    forged = few(trials=10, command="labelleak 'audit --init x")
    [step] = [s for s in next_steps(forged, reach_verdict(forged), ()) if s.command]
    assert "--init" not in step.command


def test_beside_a_verdict_without_a_defense_stands_what_the_best_one_leaves() -> None:
    free = few(trials=30)

    def under(defense: str, advantage: float) -> list:
        asr = {r.attack: r.asr_free + (1 - r.asr_free) * advantage for r in free}
        return [
            replace(r, defense=defense)
            if r.attack == "free"
            else replace(r, defense=defense, asr=asr[r.attack], advantage=advantage)
            for r in free
        ]

    open_, some, best = (
        under("none", 0.8),
        under("gaussian:1", 0.4),
        under("clip:1|gaussian:1", 0.1),
    )
    rows = [*open_, *some, *best]
    said = "That is without a defense; with clip:1|gaussian:1 the worst case has advantage 0.10"
    assert said in say_verdict(reach_verdict(rows))
    assert said in render(rows, source="r.jsonl")
    for alone in (open_, best):
        assert "without a defense;" not in say_verdict(reach_verdict(alone))


def test_thin_evidence_is_said_and_more_is_asked_for() -> None:
    text = render(few(trials=2), source="r.jsonl")
    assert "Thin: 6 updates of 3 independent models" in text
    assert "at least 100 trials on 10 models" in text


def test_what_no_attack_gains_is_no_attack_on_the_page() -> None:
    rows = [make_record(trial=t, initialisation=t % 3, asr=0.5, advantage=-0.25) for t in range(30)]
    verdict = reach_verdict(rows)
    assert verdict.worst is not None
    assert (verdict.grade, verdict.worst.attackers) == (GRADES[0], "no attack gains")
    text = render([*rows, make_record(attack="free", threat_model="none")], source="r.jsonl")
    assert "free guess" not in text
    assert "Audit again when the model" in text


def test_a_federation_is_told_in_rounds_and_clients() -> None:
    rows = federated_records(rounds=4, clients=6)
    verdict = reach_verdict(rows)
    assert verdict.judged is None
    text = render(rows, source="r.jsonl")
    assert "the updates of 6 clients over 4 rounds" in text
    assert "Keep the clients" in text
    assert "training step" not in text


def test_the_defense_that_leaves_least_is_named_with_its_price() -> None:
    text = render(defended_records(), source="r.jsonl")
    assert "Of the defenses measured, clip:1|gaussian:1 leaves least: at most 0.4" in text
    assert "it costs −1.2 points of accuracy" in text


def test_every_attack_has_a_plain_sentence() -> None:
    for attack in ATTACKS.values():
        assert 20 <= len(attack.card.plain) <= 100
        assert attack.card.plain.endswith(".")


def test_class_names_stand_where_records_have_them() -> None:
    extra = {"class_names": ["asthma", "flu"]}
    assert "have each label (asthma and flu)" in render(few(extra=extra), source="r")


def test_page_terminal_and_evidence_speak_of_one_case() -> None:
    gains = {("iid", "update"): 0.6, ("iid", "model"): 0.3, ("natural", "update"): 0.1}
    gains[("natural", "model")] = 0.5
    rows = [
        make_record(
            attack=f"a_{server}",
            threat_model=server,
            scheme=scheme,
            initialisation=model,
            asr=0.5 + gain / 2,
            asr_free=0.5,
            advantage=gain,
        )
        for (scheme, server), gain in gains.items()
        for model in range(3)
    ]
    cells = worst_cases(rows)
    verdict, shown = reach_verdict(rows), judged_cells(cells)
    assert {(cell.scheme, cell.advantage and cell.advantage.mean) for cell in shown} == {
        ("iid", 0.6)
    }
    assert [one.server for one in verdict.exposures] == ["update", "model"]
    assert verdict.judged in shown
    assert all("scheme iid" in sentence for sentence in headline(cells))
