"""A new attack is one file and one line, as CONTRIBUTING says: the rest follows by itself."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import labelleak
from labelleak.records.record import read_records

OWN = '''"""Name the class with the most negative row sum, N times."""

from dataclasses import dataclass

import numpy as np

from labelleak.core.card import Card
from labelleak.core.interfaces import Estimate, Rule, samples
from labelleak.core.needs import READS_WEIGHT
from labelleak.core.observation import Observation
from labelleak.records.assumptions import Assumption


@dataclass(frozen=True)
class Steepest(Rule):
    """Give all labels to the class whose row falls most."""

    name = "steepest"
    needs = READS_WEIGHT
    cite = "made up for a test"
    card = Card("Steepest Row", frozenset({Assumption.NON_NEGATIVE_INPUTS}))

    def answer(self, observation: Observation) -> Estimate:
        lowest = observation.row_sums.argmin(axis=-1)
        counts = np.eye(observation.num_classes, dtype=np.int64)[lowest] * samples(observation)
        return Estimate(counts, -observation.row_sums)
'''


UNKNOWN = """
import sys
sys.modules["torch"] = None
from pathlib import Path
from labelleak.cli import main
sys.argv = ["labelleak", *sys.argv[1:]]
main()
"""


def copy_package(folder):
    """Copy the package, so that something can be added to it; compiled files save compiling."""
    package = folder / "labelleak"
    shutil.copytree(Path(labelleak.__file__).parent, package)
    return package


def add_line(catalogue, line):
    """Add one line at the end of a catalogue's list, which is the first bracket of the file."""
    text = catalogue.read_text()
    catalogue.write_text(text.replace("\n}\n", f"\n    {line},\n}}\n", 1))


def run(folder, *words, code=("-m", "labelleak"), check=True):
    return subprocess.run(
        [sys.executable, *code, *words],
        capture_output=True,
        text=True,
        check=check,
        cwd=folder,
        # The first of several runs compiles for all.
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": ""},
    )


def test_a_new_attack_needs_its_file_and_one_line(tmp_path):
    package = copy_package(tmp_path)
    (package / "attacks" / "steepest.py").write_text(OWN)
    add_line(package / "attacks" / "catalogue.py", '"steepest": "steepest:Steepest"')

    listed = run(tmp_path, "list", "attacks").stdout
    assert "steepest [update] Give all labels" in " ".join(listed.split())
    words = ["audit", "--batch-sizes=1,8", "--schemes=iid", "--trials=4", "--initialisations=2"]
    words += ["--activation", "tanh", "--training-steps", "0"]
    said = run(tmp_path, *words, "--attacks", "steepest,free", "--out", "found").stdout
    assert "Steepest" in said
    records = read_records(tmp_path / "found" / "records.jsonl")
    own = [record for record in records if record.attack == "steepest"]
    assert {r.asr for r in own if r.batch_size == 1} == {1.0}
    assert all("negative_head_inputs" in record.flags for record in own if record.batch_size == 1)
    assert own[0].extra["attack_title"] == "Steepest Row"
    assert own[0].extra["concerned_by"] == ["negative_head_inputs", "impact_not_negative"]
    assert "Steepest Row" in (tmp_path / "found" / "report.html").read_text()

    # Elsewhere nobody has this attack, nor torch: the records themselves say what is needed.
    elsewhere = tmp_path / "elsewhere"
    copy_package(elsewhere)
    program = ("-c", UNKNOWN)
    found = str(tmp_path / "found" / "records.jsonl")
    assert run(elsewhere, "report", found, "--out", "page.html", code=program).returncode == 0
    page = (elsewhere / "page.html").read_text()
    assert "Steepest Row" in page
    assert "Concerned by" not in page
    policy = elsewhere / "policy.toml"
    for flag, status in (("negative_head_inputs", 1), ("momentum", 1), ("impact_not_negative", 0)):
        policy.write_text(f'min_trials = 2\nmust_run = ["steepest"]\n[flags]\n{flag} = 0.1\n')
        judged = run(elsewhere, "gate", found, "--policy", str(policy), code=program, check=False)
        assert judged.returncode == status, judged.stdout + judged.stderr
