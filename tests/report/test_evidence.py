"""Evidence: its published schema, what it is bound to, and what a changed file does to it."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from labelleak.cli.app import app
from labelleak.core.digests import digest_tensors
from labelleak.errors import BadInput
from labelleak.records.record import append_records, read_records
from labelleak.report.evidence import make_evidence, to_text
from labelleak.report.evidence_form import read_evidence, schema

from .federated import federated_records
from .samples import make_records

DOCS = Path(__file__).parents[2] / "docs"
TENSORS = {"b": torch.arange(3.0), "a": torch.ones(2, 2, dtype=torch.bfloat16)}


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    path = tmp_path / "records.jsonl"
    append_records(path, make_records(stages=(0,), schemes=("iid",), batch_sizes=(32,), trials=8))
    save_file(TENSORS, tmp_path / "update.safetensors")
    torch.save(TENSORS, tmp_path / "update.pt")
    (tmp_path / "policy.toml").write_text("[max_advantage]\nupdate = 0.9\n")
    return path


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.output or str(done.exception)


def file_evidence(audit: Path) -> Path:
    place = audit.with_name("evidence.json")
    words = ("--policy", audit.with_name("policy.toml"), "--evidence", place, "--system", "S")
    code, out = run("gate", audit, *words, "--released", audit.with_name("update.safetensors"))
    assert code == 0, out
    return place


def test_the_schema_in_the_docs_is_that_of_the_program_and_files_keep_to_it(audit: Path) -> None:
    published = (DOCS / "evidence.schema.json").read_text(encoding="utf-8")
    assert published == schema()
    filed = json.loads(file_evidence(audit).read_text())
    jsonschema.validate(filed, json.loads(published))
    assert filed["passed"] is True
    assert filed["policy"]["max_advantage"] == {"update": 0.9}
    assert filed["who"]["system"] == "S"
    assert set(filed["nist_ai_100_2"]) == {"class", "update", "model", "auxiliary"}
    assert {run["server"] for run in filed["attacks"]["run"]} == {"update", "model", "auxiliary"}
    page = (DOCS / "evidence.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in page for key in filed if key not in ("format", "limits"))


def test_evidence_is_of_this_update_in_any_format_and_of_no_other(audit: Path) -> None:
    place = file_evidence(audit)
    for name in ("update.safetensors", "update.pt"):
        assert run("verify", place, audit.with_name(name))[0] == 0
    save_file(TENSORS | {"b": torch.tensor([0.0, 1.0, 2.5])}, audit.with_name("other.safetensors"))
    code, _ = run("verify", place, audit.with_name("other.safetensors"), "--json")
    assert code == 1


def test_a_verdict_of_clients_is_bound_to_updates_that_left_and_to_nothing_else(
    audit: Path,
) -> None:
    for name in ("sent", "blocked", "other"):
        save_file({"w": torch.full((2,), float(len(name)))}, audit.with_name(name))
    rows = [
        replace(
            row,
            extra={
                **row.extra,
                "action": fate,
                "update_digest": digest_tensors({"w": torch.full((2,), float(len(fate)))}),
            },
        )
        for row, fate in zip(read_records(audit), cycle(["sent", "blocked"]), strict=False)
    ]
    audit.unlink()
    append_records(audit, rows)
    place = audit.with_name("e.json")
    words = ("--policy", audit.with_name("policy.toml"), "--evidence", place)
    for name, said in (
        ("blocked", "it was blocked, and did not leave: 'blocked'"),
        ("other", "none is of this file: 'other'"),
    ):
        assert said in run("gate", audit, *words, "--released", audit.with_name(name))[1]
        assert not place.exists()
    assert run("gate", audit, *words, "--released", audit.with_name("sent"))[0] == 0
    assert json.loads(place.read_text())["released"]["in_records"] is True
    assert "hold no digest" not in run("verify", place, audit.with_name("sent"))[1]


def test_evidence_of_an_audit_says_that_nothing_but_the_name_ties_it_to_a_file(
    audit: Path,
) -> None:
    place = file_evidence(audit)
    assert json.loads(place.read_text())["released"]["in_records"] is False
    said = " ".join(run("verify", place, audit.with_name("update.pt"))[1].split())
    assert "the records hold no digest of an update" in said


def test_records_that_were_changed_are_noticed(audit: Path) -> None:
    place = file_evidence(audit)
    assert run("verify", place)[0] == 0
    audit.write_text(audit.read_text().replace('"seed": 0', '"seed": 1'))
    assert run("verify", place)[0] == 1


@pytest.mark.parametrize(
    ("key", "forge"),
    [
        ("verdict", lambda e: e["verdict"].update(word="Small leak")),
        ("verdict", lambda e: e["verdict"]["worst"]["advantage"].update(high=0.01)),
        ("passed", lambda e: e.update(passed=not e["passed"])),
        ("checks", lambda e: e["checks"][0].update(passed=not e["checks"][0]["passed"])),
        ("checks", lambda e: e["checks"].clear()),
        ("cases", lambda e: e["cases"].pop()),
        ("attacks", lambda e: e["attacks"]["left_out"].update(llg="too slow")),
        ("released", lambda e: e["released"].update(in_records=True)),
        ("limits", lambda e: e.update(limits="It is safe.")),
        ("scale", lambda e: e["scale"][0].update(upper_end_to=0.9)),
    ],
)
def test_evidence_that_its_records_do_not_bear_out_is_refused(audit: Path, key: str, forge) -> None:
    place = file_evidence(audit)
    update = audit.with_name("update.pt")
    filed = json.loads(place.read_text())
    forge(filed)
    place.write_text(json.dumps(filed))
    code, out = run("verify", place, update, "--records", audit)
    assert code == 1
    said = " ".join(out.split())
    assert "ANOTHER: verdict and checks, made anew from the records" in said
    assert f"The evidence says of {key} what these records do not bear out" in said
    assert "gate: " not in said
    found = json.loads(run("verify", place, update, "--json")[1])
    assert (found["verified"], found["judged_anew"], found["differs"]) == (False, True, [key])


def test_what_failed_beside_the_records_cannot_be_taken_out_of_evidence(audit: Path) -> None:
    failed = {"event": "audit_failed", "policy": "record", "reason": "no labels"}
    audit.with_name("events.jsonl").write_text(json.dumps(failed) + "\n")
    words = (audit, "--policy", audit.with_name("policy.toml"))
    place = audit.with_name("evidence.json")
    assert run("gate", *words, "--evidence", place)[0] == 1
    assert run("verify", place, "--records", audit.parent)[0] == 0
    filed = json.loads(place.read_text())
    filed["checks"] = [one for one in filed["checks"] if one["rule"] != "audited"]
    place.write_text(json.dumps({**filed, "passed": True}))
    code, out = run("verify", place, "--records", audit.parent)
    assert code == 1
    assert "of checks, passed what these records do not bear out" in " ".join(out.split())


def test_where_the_records_are_not_at_hand_nothing_is_said_to_be_verified(audit: Path) -> None:
    place, update = file_evidence(audit), audit.with_name("update.pt")
    assert "not checked" not in run("verify", place, update)[1]
    audit.rename(audit.with_name("elsewhere.jsonl"))
    code, out = run("verify", place, update)
    assert code == 0
    said = " ".join(out.split())
    assert "The records were not checked: " in said
    assert "is not there; give --records. So what follows is what the file says" in said
    assert not json.loads(run("verify", place, update, "--json")[1])["judged_anew"]
    audit.write_text("other")
    code, out = run("verify", place, update)
    assert code == 1
    assert "is not the file that was judged. So what follows is what" in " ".join(out.split())


def test_what_report_files_follows_from_its_records(audit: Path, tmp_path: Path) -> None:
    assert run("report", audit)[0] == 0
    assert run("verify", tmp_path / "evidence.json")[0] == 0
    federated = tmp_path / "federation" / "records.jsonl"
    federated.parent.mkdir()
    append_records(federated, federated_records())
    assert run("report", federated, "--system", "S")[0] == 0
    code, out = run("verify", federated.with_name("evidence.json"))
    assert code == 0, out


def test_what_cannot_be_compared_is_refused(audit: Path, tmp_path: Path) -> None:
    code, _ = run("report", audit)
    assert code == 0
    place = tmp_path / "evidence.json"
    assert read_evidence(place).passed is None
    assert "names no update" in run("verify", place, tmp_path / "update.pt")[1]
    forged = json.loads(place.read_text()) | {"passed": "yes, surely"}
    place.write_text(json.dumps(forged))
    with pytest.raises(BadInput, match="no evidence of this format: 'passed'"):
        read_evidence(place)
    words = ("--policy", tmp_path / "policy.toml", "--released", tmp_path / "update.pt")
    assert run("gate", audit, *words)[1].startswith("--released needs --evidence")


def test_the_same_records_give_the_same_evidence(audit: Path) -> None:
    rows = make_records(stages=(0,), schemes=("iid",), batch_sizes=(32,), trials=8)
    texts = {to_text(make_evidence(rows, audit, when="2026-11-28")) for _ in range(2)}
    assert len(texts) == 1
    assert read_evidence_text(texts.pop(), audit) == "2026-11-28"


def read_evidence_text(text: str, audit: Path) -> str:
    place = audit.with_name("again.json")
    place.write_text(text)
    return read_evidence(place).when


@pytest.mark.parametrize(
    "other",
    [
        {"a": TENSORS["a"], "c": TENSORS["b"]},
        {"a": TENSORS["a"], "b": TENSORS["b"].double()},
        {"a": TENSORS["a"], "b": TENSORS["b"].reshape(3, 1)},
        {"a": TENSORS["a"], "b": -TENSORS["b"]},
        {"a": TENSORS["a"]},
    ],
)
def test_a_digest_tells_names_types_shapes_and_values_apart(other: dict) -> None:
    assert digest_tensors(other) != digest_tensors(TENSORS)


def test_a_digest_does_not_depend_on_order_library_or_layout() -> None:
    mine = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3), "f": torch.tensor([True])}
    arrays = {name: np.asarray(tensor.numpy(), order="F") for name, tensor in mine.items()}
    turned = dict(reversed(arrays.items()))
    big = {n: a.astype(a.dtype.newbyteorder(">")) for n, a in turned.items()}
    assert digest_tensors(mine) == digest_tensors(turned) == digest_tensors(big)
    assert digest_tensors({}) == digest_tensors(dict[str, torch.Tensor]())
