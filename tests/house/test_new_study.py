"""A new study is one file and one line, as CONTRIBUTING says: the rest follows by itself."""

from labelleak.records.record import read_records

from .test_new_attack import copy_package, run

OWN = '''"""How many labels LLG names in a batch of two."""

from __future__ import annotations

from labelleak.audits.options import check_options
from labelleak.audits.run import Part
from labelleak.report.markdown import table
from labelleak.studies.study import Asked, Study


def plan_pairs(asked: Asked) -> list[Part]:
    """Plan one audit."""
    options = check_options(
        data=asked.data,
        model="mlp",
        batch_sizes=(2,),
        schemes=("iid",),
        attacks=("free", "llg"),
        trials=2 if asked.quick else 50,
        initialisations=1,
        training_steps=(0,),
        seed=asked.seed,
    )
    return [Part(options=options)]


STUDY = Study(
    parts=plan_pairs,
    report=lambda found: {
        "pairs.md": table(["attack", "ASR"], [[row.attack, row.asr] for row in found.records])
    },
    takes=frozenset({"quick"}),
)
'''


def test_a_new_study_needs_its_file_and_one_line(tmp_path):
    package = copy_package(tmp_path)
    (package / "studies" / "pairs.py").write_text(OWN)
    registry = package / "studies" / "registry.py"
    last = '    "shadow_studies": '
    line = '    "pairs": "Table: batches of two",\n'
    registry.write_text(registry.read_text().replace(last, line + last))

    assert "Table: batches of two" in run(tmp_path, "list", "paper").stdout
    said = run(tmp_path, "paper", "pairs", "--quick", "--seed", "3", "--out", "found").stdout
    rows = read_records(tmp_path / "found" / "records.jsonl")
    assert {(row.attack, row.trial, row.seed) for row in rows} == {
        (attack, trial, 3) for attack in ("free", "llg") for trial in (0, 1)
    }
    text = (tmp_path / "found" / "pairs.md").read_text()
    assert text.startswith("| attack | ASR |\n|---|---|\n| free | ")
    assert text in said
