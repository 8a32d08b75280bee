"""A new study is one file and one line, as CONTRIBUTING says: the rest follows by itself."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import labelleak
from labelleak.records.record import read_records

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
    package = tmp_path / "labelleak"
    shutil.copytree(
        Path(labelleak.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    (package / "studies" / "pairs.py").write_text(OWN)
    registry = package / "studies" / "registry.py"
    last = '    "shadow_studies": '
    line = '    "pairs": "Table: batches of two",\n'
    registry.write_text(registry.read_text().replace(last, line + last))

    def run(*words):
        done = subprocess.run(
            [sys.executable, "-m", "labelleak", *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "Table: batches of two" in run("list", "paper")
    said = run("paper", "pairs", "--quick", "--seed", "3", "--out", "found")
    rows = read_records(tmp_path / "found" / "records.jsonl")
    assert {(row.attack, row.trial, row.seed) for row in rows} == {
        (attack, trial, 3) for attack in ("free", "llg") for trial in (0, 1)
    }
    text = (tmp_path / "found" / "pairs.md").read_text()
    assert text.startswith("| attack | ASR |\n|---|---|\n| free | ")
    assert text in said
