"""The attacks' table names every attack that was run, with the free guess beside them."""

import labelleak
from labelleak.attacks import RULES
from labelleak.report.wording import name_attack
from labelleak.studies.attacks import ATTACKS, SIZES, make_table, plan_table
from labelleak.studies.study import Asked


def test_the_plan_takes_every_size_that_the_data_reach():
    (part,) = plan_table(Asked(model="mlp"))
    assert part.options.batch_sizes == SIZES[:-1]
    assert part.options.model == "mlp"
    assert [attack.name for attack in part.plan().attacks] == list(ATTACKS)
    (wide,) = plan_table(Asked(data="synthetic:60", model="mlp"))
    assert wide.options.batch_sizes[-1] <= len(wide.plan().roles.victims)


def test_the_table_holds_every_attack_and_the_strongest():
    few = {"attacks": ["rules"], "trials": 4, "initialisations": 2, "training_steps": [0]}
    found = labelleak.audit(batch_sizes=[1, 8], schemes=["iid"], **few)
    text = make_table(found.records)
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert {name_attack(attack) for attack in RULES} <= set(rows)
    assert "advantage of the strongest" in rows
    llg = [r for r in found.records if r.attack == "llg" and r.batch_size == 8]
    mean = sum(r.asr for r in llg) / len(llg)
    assert f"| {mean:.2f} / " in rows["LLG"]
    assert rows["LLG"].split("|")[3].strip() == "1.00 / 1.00 / 1.00"
