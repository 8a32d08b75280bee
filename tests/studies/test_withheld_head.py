"""The study of withheld heads: how far its models are trained, and what its table says."""

from dataclasses import replace

from labelleak.audits.audit import audit
from labelleak.records.record import Record
from labelleak.studies import withheld_head as study
from labelleak.studies.options import Asked

ASKED = Asked(quick=True, model="mlp")


def test_models_are_trained_until_the_first_is_accurate():
    (part,) = study.plan_withheld(ASKED)
    untrained, trained = part.options.training_steps
    assert untrained == 0
    assert trained % 20 == 0
    found = audit(
        model="mlp",
        batch_sizes=(1,),
        schemes=("iid",),
        attacks=("free",),
        trials=1,
        initialisations=1,
        training_steps=(trained - 20, trained),
    )
    before, after = (record.model_accuracy for record in found.records)
    assert before < study.ACCURACY <= after
    assert set(study.ATTACKS) == set(part.options.attacks)


def _made(found: tuple[Record, ...]) -> str:
    return study.make_withheld_table(found)


def test_the_table_sets_the_layers_beside_the_blind_head():
    options = replace(
        study.ask(ASKED, "mlp", (0,)),
        batch_sizes=(8,),
        schemes=("unbalanced",),
        attacks=("free", "llg", "layer_least_squares", "gdbr", "layer_regression"),
        trials=8,
        initialisations=2,
    )
    given = {key: value for key, value in vars(options).items() if key not in ("data", "model")}
    written = _made(audit(model="mlp", **given).records)
    (row,) = [line for line in written.splitlines() if line.startswith("| mlp")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    blind, plain, regression = (float(cells[place]) for place in (6, 7, 8))
    assert blind < 0.6 < 0.9 < min(plain, regression)
    assert cells[10] == "-"  # no shadow models were asked for
    assert cells[11].startswith(("0.9", "1.0"))
