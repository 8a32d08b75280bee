"""A test file that cannot be imported fails the run: none is passed over in silence."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_test_file_that_cannot_be_imported_is_an_error(tmp_path):
    (tmp_path / "test_broken.py").write_text("from labelleak.errors import nothing_of_this_name\n")
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "src")])
    whole = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-p", "conftest"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *whole, "-p", "no:cacheprovider", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert "nothing_of_this_name" in run.stdout, run.stdout + run.stderr
    assert run.returncode == 2, run.stdout
