"""Commands in records and reports name files and what they hold, not where they lie."""

import hashlib
import json

import numpy as np
import pytest
from typer.testing import CliRunner

import labelleak
from labelleak.cli.app import app
from labelleak.errors import BadInput
from labelleak.records import provenance
from labelleak.records.provenance import command_of
from labelleak.records.record import read_records


@pytest.fixture
def data(tmp_path):
    """A data set in a folder that is nobody's business."""
    folder = tmp_path / "people of ward 3"
    folder.mkdir()
    y = np.arange(60) % 3
    x = (
        np.random.default_rng(0).random((60, 4), dtype=np.float32)
        + 3 * np.eye(4, dtype=np.float32)[y]
    )
    halves = {"x_train": x[:40], "y_train": y[:40], "x_test": x[40:], "y_test": y[40:]}
    np.savez(folder / "own data.npz", **halves)
    return folder / "own data.npz"


def run(monkeypatch, *words):
    """Run the program as if its words had been typed."""
    typed = [str(word) for word in words]
    monkeypatch.setattr("sys.argv", ["labelleak", *typed])
    done = CliRunner().invoke(app, typed)
    if isinstance(done.exception, BadInput):
        raise done.exception
    assert done.exit_code == 0, done.output


def test_files_are_named_and_what_they_hold_is_said(tmp_path):
    kept = tmp_path / "a b.npz"
    kept.write_bytes(b"abc")
    digest = hashlib.sha256(b"abc").hexdigest()
    words = ["labelleak", "audit", f"--data={kept}", "--out", "/no/where", "--lr", "1/2"]
    assert command_of(words) == (
        f"labelleak audit '--data=a b.npz' --out where --lr 1/2  # a b.npz sha256:{digest}"
    )
    assert str(kept) in command_of(words, full_paths=True)
    assert digest in command_of(words, full_paths=True)
    # What a command writes is not what it read; odd names stay on the line; no link is followed.
    assert "#" not in command_of(["labelleak", "attack", "--save", str(kept)])
    odd = tmp_path / "x\nrm -rf"
    odd.write_bytes(b"")
    assert "\n" not in command_of(["labelleak", str(odd)]).partition("#")[2]


AUDIT = ["--model", "mlp", "--batch-sizes", "2", "--trials", "2", "--initialisations", "1"]
AUDIT += ["--training-steps", "0", "--attacks", "llg", "--schemes", "natural"]


@pytest.mark.parametrize("full", [False, True])
def test_no_folder_reaches_records_or_pages_unless_it_is_asked_for(
    tmp_path, data, monkeypatch, full
):
    out = tmp_path / "out"
    more = ["--full-paths"] if full else []
    run(monkeypatch, "audit", "--data", data, *AUDIT, "--out", out, *more)
    (command,) = {record.command for record in read_records(out / "records.jsonl")}
    assert hashlib.sha256(data.read_bytes()).hexdigest() in command
    for name in ("records.jsonl", "report.html"):
        assert ("people of ward" in (out / name).read_text()) == full
    assert "people of ward" not in (out / "run.json").read_text()
    # The run goes on wherever its data lie, and is another one if they changed.
    moved = tmp_path / data.name
    data.rename(moved)
    run(monkeypatch, "audit", "--data", moved, *AUDIT, "--out", out, *more)
    with np.load(moved) as held:
        other = {**held, "x_test": held["x_test"] + 1}
    np.savez(moved, **other)
    with pytest.raises(BadInput, match=r"another run \(it differs in: .*data"):
        run(monkeypatch, "audit", "--data", moved, *AUDIT, "--out", out, *more)


def test_python_and_a_search_name_no_folder_either(tmp_path, data, monkeypatch):
    found = labelleak.audit(
        data=str(data), model="mlp", batch_sizes=2, trials=2, initialisations=1,
        training_steps=0, attacks="llg", schemes="natural",
    )  # fmt: skip
    assert "data='own data.npz'" in found.records[0].command
    assert "sha256:" in found.records[0].command
    words = ["tune", "--data", data, "--model", "mlp", "--scheme", "natural", "--trials", "2"]
    words += ["--families", "sign", "--batch-size", "2", "--training-steps", "0", "--users", "2"]
    words += ["--initialisations", "1", "--rounds", "25", "--repeats", "1", "--attacker", "update"]
    words += ["--executor", "serial", "--target-advantage", "0.9", "--out", tmp_path / "found"]
    run(monkeypatch, *words)
    written = list((tmp_path / "found").iterdir())
    assert len(written) >= 5
    for path in written:
        assert "people of ward" not in path.read_text(), path
        assert str(tmp_path) not in path.read_text(), path
    assert "sha256:" in json.loads((tmp_path / "found" / "tune.json").read_text())["command"]


def test_the_version_of_torch_is_looked_up_once(monkeypatch):
    asked = []
    monkeypatch.setattr("importlib.metadata.version", lambda name: asked.append(name) or "9.9")
    provenance._version_of_torch.cache_clear()
    try:
        told = [provenance.software()["torch"] for _ in range(3)]
    finally:
        provenance._version_of_torch.cache_clear()
    assert told == ["9.9"] * 3
    assert asked == ["torch"]
