import json
import subprocess
import sys
import threading

import pytest

from labelleak.errors import BadInput
from labelleak.records.files import lock_of
from labelleak.records.journal import Journal

# A system without the locks of Unix, as Windows has none.
WITHOUT_FCNTL = """
import sys
sys.modules["fcntl"] = None
import labelleak.records.journal, labelleak.records.files
try:
    import labelleak.flower.events
except ModuleNotFoundError as error:
    assert error.name == "flwr"
print("imported")
"""


def test_nothing_of_ours_needs_fcntl():
    done = subprocess.run([sys.executable, "-c", WITHOUT_FCNTL], capture_output=True, text=True)
    assert done.stdout == "imported\n", done.stderr


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path):
    first = Journal.open(tmp_path, {"asked": 1})
    with pytest.raises(BadInput, match="another run is writing"):
        Journal.open(tmp_path, {"asked": 1})
    # The writer may end in another thread than it began in.
    ending = threading.Thread(target=lambda: first.__exit__())
    ending.start()
    ending.join()
    with Journal.open(tmp_path, {"asked": 1}) as again:
        assert json.loads((again.folder / "run.json").read_text())["asked"] == {"asked": 1}


def test_a_run_that_is_killed_lets_go_of_its_folder(tmp_path):
    program = (
        "import os, sys, pathlib; from labelleak.records.journal import Journal;"
        "Journal.open(pathlib.Path(sys.argv[1]), {'asked': 1}); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == 9
    with Journal.open(tmp_path, {"asked": 1}) as journal:
        assert journal.done == set()


def test_a_lock_is_waited_for(tmp_path):
    order = []
    held = lock_of(tmp_path / "lock")
    held.acquire()

    def wait():
        with lock_of(tmp_path / "lock"):
            order.append("second")

    waiting = threading.Thread(target=wait)
    waiting.start()
    waiting.join(0.05)
    order.append("first")
    held.release()
    waiting.join(5)
    assert order == ["first", "second"]
