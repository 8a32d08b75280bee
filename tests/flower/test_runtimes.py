"""The example app on Flower's two runtimes, by its own commands; slow."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr")
from labelleak import flower  # first: it keeps Flower from phoning home

from flower import federation  # isort: skip
from labelleak.records.record import read_records

EXAMPLE = Path(__file__).parents[2] / "examples" / "flower-digits"
LONGEST = 300  # seconds; half a minute on an idle machine
TO_END = 60


def run_example(script, folder, *settings, example=EXAMPLE):
    """Run one of the example's scripts, and give what it printed."""
    source = EXAMPLE.parents[1] / "src"
    bin_folder = str(Path(sys.executable).parent)
    folder.mkdir(exist_ok=True)
    environment = {
        "PATH": f"{bin_folder}:/usr/bin:/bin",
        "PYTHONPATH": str(source),
        "HOME": str(folder),
    }
    started = subprocess.Popen(
        [example / script, folder, " ".join(settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        said, _ = started.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGTERM)  # the script then ends what it has started
        try:
            said, _ = started.communicate(timeout=TO_END)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            for process in ours(folder):  # one with a group of its own would hold the pipe open
                os.kill(process, signal.SIGKILL)
            said, _ = started.communicate(timeout=TO_END)
    assert started.returncode == 0, said[-4000:]
    return said


def ours(folder):
    """Number the processes that an example left running; they inherit its HOME."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"HOME={folder}\0".encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


def recall(folder, side):
    found = [r for r in read_records(folder / side / "records.jsonl") if r.attack == "llg"]
    return len(found), np.mean([r.presence_recall for r in found])


@pytest.mark.parametrize("scripts", [["simulate"], ["deploy"], []])
def test_the_table_shows_the_runtimes_that_were_run(tmp_path, scripts):
    known = {
        "attacks": ["free", "llg", "llbg", "ilrg"],
        "model": federation.make_model,
        "input_shape": (64,),
    }
    for script in scripts:
        auditor = federation.make_auditor(tmp_path / script / "plain" / "server", **known)
        grid = flower.InProcessGrid(federation.make_app(), 1)
        flower.observe(grid, auditor).send_and_receive([federation.train_message()])
    printed = subprocess.run(
        [sys.executable, EXAMPLE / "table.py", tmp_path], capture_output=True, text=True, check=True
    )
    shown = [line.split()[1] for line in printed.stdout.splitlines()[2:]]
    assert shown == scripts


def needs(script):
    if script == "simulate.sh":
        pytest.importorskip("ray")
    if shutil.which("bash") is None:
        pytest.skip("the example's scripts need bash")


@pytest.mark.slow
@pytest.mark.parametrize(("script", "clients"), [("simulate.sh", 4), ("deploy.sh", 2)])
def test_the_example_runs_and_both_sides_see_the_labels(tmp_path, script, clients):
    needs(script)
    said = run_example(script, tmp_path, "classes-per-client=3")
    assert "AUDIT server  llbg" in said
    assert "AUDIT client  llbg" in said
    assert not ours(tmp_path)
    for side in ("server", "client"):
        count, found = recall(tmp_path, side)
        assert count == 2 * clients
        assert found > 0.95


# What a training can end with: it asks to exit, is cancelled, is interrupted, or fails.
ENDS = "(SystemExit, asyncio.CancelledError, KeyboardInterrupt, ValueError)"


@pytest.mark.slow
@pytest.mark.parametrize("script", ["simulate.sh", "deploy.sh"])
def test_however_a_blocked_client_ends_the_server_is_not_told_why(tmp_path, script):
    needs(script)
    app = shutil.copytree(EXAMPLE, tmp_path / "app")
    path = app / "flowerdigits" / "client_app.py"
    text, mark = path.read_text(), '    client, options = int(context.node_config["partition-id"])'
    ends = f'    import asyncio\n    raise {ENDS}[client]("labels were 3, 3, 1")\n'
    head, start, rest = text.partition(mark)
    line, _, rest = rest.partition("\n")
    path.write_text(f"{head}{start}{line}\n{ends}{rest}")
    folder = tmp_path / "out"
    run_example(script, folder, "policy='block'", "num-server-rounds=1", example=app)
    server, client = ((folder / side / "events.jsonl").read_text() for side in ("server", "client"))
    clients = 4 if script == "simulate.sh" else 2
    assert server.count("reply_error") == client.count("labels were 3, 3, 1") == clients
    assert "labels were" not in server
