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
from typing import ClassVar

import numpy as np

from labelleak.core.interfaces import Estimate, Knowledge, Need, Prepared, samples
from labelleak.core.observation import Observation


@dataclass(frozen=True)
class Steepest:
    """Give all labels to the class whose row falls most."""

    name: ClassVar[str] = "steepest"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.WEIGHT, Need.NUM_SAMPLES})
    cite: ClassVar[str] = "made up for a test"

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Nothing to prepare."""

        def answer(observation: Observation) -> Estimate:
            lowest = observation.row_sums.argmin(axis=-1)
            counts = np.eye(num_classes, dtype=np.int64)[lowest] * samples(observation)
            return Estimate(counts, -observation.row_sums)

        return answer
'''


def test_a_new_attack_needs_its_file_and_one_line(tmp_path):
    package = tmp_path / "labelleak"
    shutil.copytree(
        Path(labelleak.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    (package / "attacks" / "steepest.py").write_text(OWN)
    registry = package / "attacks" / "__init__.py"
    line = "ATTACKS.setdefault('steepest', __import__('labelleak.attacks.steepest', "
    line += "fromlist=['Steepest']).Steepest)\n"
    registry.write_text(registry.read_text() + line)

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "labelleak", *words],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        ).stdout

    assert "steepest           [update] Give all labels" in run("list", "attacks")
    words = ["audit", "--batch-sizes=1,8", "--schemes=iid", "--trials=4", "--initialisations=2"]
    said = run(*words, "--training-steps", "0", "--attacks", "steepest,free", "--out", "found")
    assert "steepest" in said
    records = read_records(tmp_path / "found" / "records.jsonl")
    assert {r.asr for r in records if r.attack == "steepest" and r.batch_size == 1} == {1.0}
    assert "steepest" in (tmp_path / "found" / "report.html").read_text()
