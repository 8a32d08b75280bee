"""The page's section on defenses: only where there are several, adaptive attackers marked."""

from __future__ import annotations

import numpy as np
import pytest

from labelleak.defenses import DEFENSES, parse_defense
from labelleak.defenses.catalogue import uncovered
from labelleak.defenses.describe import describe_defense
from labelleak.records.record import altered
from labelleak.report import render
from labelleak.report.defenses import compare_defenses

from .federated import federated_records
from .samples import THREATS, make_record

EXTRA = {"init": "uniform", "victims": "unseen"}
COSTS = {
    "accuracy_cost": -0.0123,
    "wire_bytes": 4321.0,
    "epsilon": 7.5,
    "epsilon_method": "closed form <of> noise",
}


def defended_records():
    """No defense, noise that hides from all but an adaptive attacker, and compression."""
    rng = np.random.default_rng(0)
    gains = {"none": 0.9, "clip:1|gaussian:1": 0.1, "topk:0.1": 0.8}
    rows = []
    for defense, gain in gains.items():
        attackers = [(name, threat, False) for name, threat in THREATS.items()]
        if defense != "none":
            attackers.append(("llg_plus_adaptive", "auxiliary", True))
        for attack, threat, adaptive in attackers:
            for trial in range(12):
                skill = {"random": -0.4, "free": 0.0}.get(attack, gain)
                gained = float(skill + (0.3 if adaptive else 0) + 0.02 * rng.normal())
                rows.append(
                    make_record(
                        trial=trial,
                        initialisation=trial % 3,
                        attack=attack,
                        threat_model=threat,
                        adaptive=adaptive,
                        defense=defense,
                        asr=0.6 + 0.4 * gained,
                        advantage=gained,
                        extra=EXTRA | (COSTS if "gaussian" in defense else {}),
                    )
                )
    return rows


def test_each_defense_stands_beside_none_and_adaptive_attackers_count():
    (found,) = compare_defenses(defended_records())
    assert [row.defense for row in found.rows] == ["none", "clip:1|gaussian:1", "topk:0.1"]
    assert found.servers == ("update", "model", "auxiliary")
    none, noise, topk = found.rows
    assert none.leakages["auxiliary"].adaptive is None
    assert abs(none.leakages["auxiliary"].usual.advantage.mean - 0.9) < 0.05
    leakage = noise.leakages["auxiliary"]
    assert abs(leakage.usual.advantage.mean - 0.1) < 0.05
    assert abs(leakage.strongest.advantage.mean - 0.4) < 0.05
    assert leakage.strongest.chosen == (("llg_plus_adaptive", True),)
    assert noise.costs == COSTS
    assert not topk.costs
    assert topk.words


def test_the_page_shows_leakage_cost_privacy_and_what_is_left_open():
    page = render(defended_records(), source="records.jsonl")
    section = page[page.index('id="defenses"') :]
    section = section[: section.index("</section>")]
    assert "adaptive" in section
    assert "not knowing the defense 0.1" in section
    assert "−1.2 points" in section
    assert "4,321" in section
    assert "closed form &lt;of&gt; noise" in section
    assert "not computed" in section
    assert "noise averages out" in section
    assert "Compression adds no noise" in section


def test_records_without_a_second_defense_have_no_section():
    one = [row for row in defended_records() if row.defense == "none"]
    assert compare_defenses(one) == []
    assert 'id="defenses"' not in render(one, source="records.jsonl")


def test_a_federation_with_its_defense_off_and_on_keeps_to_its_own_section():
    assert compare_defenses(federated_records()) == []


def test_search_and_fresh_seeds_are_not_averaged():
    rows = defended_records()
    phased = [
        make_record(**{**_fields(row), "extra": {**row.extra, **more}})
        for more in ({"phase": "search"}, {"phase": "fresh", "accuracy_cost": 0.25})
        for row in rows
    ]
    found = compare_defenses(phased)
    assert [one.title for one in found] == [
        "on seeds that the search never saw",
        "during the search",
    ]
    assert [one.rows[1].costs["accuracy_cost"] for one in found] == [0.25, -0.0123]
    assert "On seeds that the search never saw, 32 labels" in render(phased, source="records.jsonl")


def test_what_records_say_of_a_defense_is_on_the_page_and_what_is_off_has_no_words():
    texts = ("none", "clip:1|gaussian:1", "gaussian:0", "clip:1|topk:1", "historical_dp:1")
    rows = [
        make_record(
            trial=trial,
            initialisation=trial % 3,
            defense=text,
            extra={**EXTRA, "wire_bytes": 10.0, **describe_defense(parse_defense(text), rounds=3)},
        )
        for text in texts
        for trial in range(6)
    ]
    (found,) = compare_defenses(rows)
    words = {row.defense: " ".join(row.words) for row in found.rows}
    assert words["none"] == ""
    assert "Client-level privacy of the whole update over 3 round(s)" in words["clip:1|gaussian:1"]
    assert words["gaussian:0"].startswith("gaussian:0 is off")
    assert "noise" not in words["gaussian:0"]
    assert "compression" not in words["clip:1|topk:1"].lower()
    assert "hides no label" in words["clip:1|topk:1"]
    assert "not differentially private" in words["historical_dp:1"]
    page = render(rows, source="records.jsonl")
    assert "for one update, 3 updates shared, delta 1e-05" in page
    assert "none proved" in page
    assert "was not measured here" in page


def test_costs_are_found_where_only_a_guess_met_other_conditions():
    rows = [
        make_record(**{**_fields(row), "extra": {**row.extra, "clients": 1}})
        for row in defended_records()
    ]
    guess = [row for row in rows if row.attack == "free"]
    other = [make_record(**{**_fields(row), "extra": {**row.extra, "clients": 2}}) for row in guess]
    (found,) = compare_defenses([*rows, *other])
    assert found.rows[1].costs == COSTS


@pytest.mark.parametrize("name", DEFENSES)
def test_there_are_words_for_every_defense(name):
    assert uncovered(name)


def _fields(row):
    return {name: getattr(row, name) for name in row.__dataclass_fields__ if name != "extra"}


def test_attackers_who_know_no_defense_stand_beside_whatever_else_varies():
    sizes = {("topk:0.1", True): 200}  # one adaptive attacker alone ran under another condition
    rows = [
        altered(row, extra={**row.extra, "train_size": sizes.get((row.defense, row.adaptive), 100)})
        for row in defended_records()
    ]
    (found,) = compare_defenses(rows)
    noise = next(row for row in found.rows if "gaussian" in row.defense)
    assert abs(noise.leakages["auxiliary"].usual.advantage.mean - 0.1) < 0.05
    assert abs(noise.leakages["auxiliary"].strongest.advantage.mean - 0.4) < 0.05
