"""A new defense is one file and one line, as CONTRIBUTING says: the rest follows by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from .test_new_attack import add_line, copy_package, run

OWN = '''"""Take a share off every entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from labelleak.core.update import Memory, SharedTensors
from labelleak.defenses.composition import Part
from labelleak.defenses.facts import Kind, Ladders


@dataclass(frozen=True)
class Shrinking(Part):
    """Make every entry smaller by the same share."""

    share: float

    name = "shrink"
    example = "shrink:0.5"
    kind = Kind.CLIP
    leaves_open = ("Shrinking hides nothing at all.",)
    ladders: ClassVar[Ladders] = {"shrink": ("shrink:0.1", "shrink:0.9")}

    def apply(
        self, update: SharedTensors, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[SharedTensors, Memory | None]:
        """Scale all that is shared."""
        kept = {name: value * (1 - self.share) for name, value in update.floats.items()}
        return update.replaced(kept), None
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("defense")
    package = copy_package(place)
    (package / "defenses" / "shrinking.py").write_text(OWN)
    add_line(package / "defenses" / "catalogue.py", '"shrink": "shrinking:Shrinking"')
    return place


def test_a_new_defense_needs_its_file_and_one_line(folder):
    listed = run(folder, "list", "defenses").stdout
    assert "Make every entry smaller by the same share. shrink:SHARE" in listed
    words = ["audit", "--batch-sizes=4", "--schemes=iid", "--trials=4", "--initialisations=2"]
    words += ["--training-steps=0", "--attacks=llg,free", "--defenses=none,shrink:0.5"]
    run(folder, *words, "--out", "found")
    page = (folder / "found" / "report.html").read_text()
    assert "Shrinking hides nothing at all." in page
    assert "Clipping alone scales an update" in page
    program = "from labelleak.tune.ladders import make_family; print(make_family('shrink').labels)"
    assert run(folder, code=("-c", program)).stdout == "('shrink:0.1', 'shrink:0.9')\n"


def test_the_tests_of_all_defenses_try_a_new_one(folder):
    tests = Path(__file__).parents[1]
    files = [str(tests / "contract/test_defenses.py"), str(tests / "defenses/test_limits.py")]
    words = ["-v", "-p", "no:cacheprovider", f"--rootdir={tests}", "-k", "shrink or every_defense"]
    said = run(folder, *words, *files, code=("-m", "pytest"), check=False).stdout
    assert "test_same_seed_same_answer[shrink] PASSED" in said, said
    assert "failed" not in said, said
