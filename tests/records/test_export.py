"""Records as tables: what stands in a record stands in its row, whatever the form."""

import csv
import json
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from labelleak.cli.app import app
from labelleak.errors import BadInput
from labelleak.records.export import export
from labelleak.records.packing import pack
from labelleak.records.record import read_records, to_lines
from records.test_record import RECORD

ROWS = [
    RECORD,
    replace(
        RECORD,
        trial=4,
        model_accuracy=None,
        flags=(),
        extra={"client": 3, "notes": ["a", 'b "c", d'], "flag_figures": {"x": 1.5}},
    ),
    replace(RECORD, trial=5, extra={"client": "é,\n2", "exact": True}),
]


@pytest.fixture
def path(tmp_path):
    place = tmp_path / "records.jsonl.gz"
    place.write_bytes(pack(to_lines(ROWS).encode()))
    return place


def test_csv_has_a_column_for_each_key_and_json_for_lists(path, tmp_path):
    assert export(path, "csv", tmp_path / "found.csv") == 3
    with (tmp_path / "found.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    keys = {key for row in ROWS for key in json.loads(row.to_json())}
    assert rows[0].keys() == keys
    assert [row["client"] for row in rows] == ["", "3", "é,\n2"]
    assert [row["model_accuracy"] for row in rows] == ["0.1", "", "0.1"]
    assert json.loads(rows[1]["notes"]) == ["a", 'b "c", d']
    assert [row["exact"] for row in rows] == ["", "", "true"]


def test_parquet_keeps_numbers_and_lists_of_texts(path, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    export(path, "parquet", tmp_path / "found.parquet")
    table = parquet.read_table(tmp_path / "found.parquet").to_pydict()
    assert table["trial"] == [3, 4, 5]
    assert table["model_accuracy"] == [0.1, None, 0.1]
    assert table["flags"] == [["no_bias"], [], ["no_bias"]]
    assert table["client"] == [None, "3", "é,\n2"], "numbers and texts under one key"
    assert table["flag_figures"] == [None, '{"x": 1.5}', None]
    assert table["exact"] == [None, None, True]


def test_lines_come_back_as_they_were(path, tmp_path):
    export(path, "jsonl", tmp_path / "plain.jsonl")
    assert (tmp_path / "plain.jsonl").read_text(encoding="utf-8") == to_lines(ROWS)


def test_the_command_names_the_file_and_refuses_what_cannot_be(path):
    done = CliRunner().invoke(app, ["records", str(path), "--to", "csv", "--json"])
    assert json.loads(done.stdout) == {"file": str(path.with_name("records.csv")), "records": 3}
    wrong = CliRunner().invoke(app, ["records", str(path), "--to", "cvs"])
    assert "did you mean 'csv'" in str(wrong.exception)
    assert read_records(path) == ROWS


def test_records_are_not_overwritten_by_themselves_and_none_are_refused(path, tmp_path):
    with pytest.raises(BadInput, match="holds the records themselves"):
        export(path, "jsonl", path)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(BadInput, match="holds no records"):
        export(empty, "csv", tmp_path / "found.csv")


def test_without_pyarrow_the_extra_is_named(path, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadInput, match=r"install labelleak\[frames\]"):
        export(path, "parquet", tmp_path / "found.parquet")


def test_a_file_of_true_labels_stays_private(tmp_path):
    source = tmp_path / "records.jsonl"
    source.write_text(to_lines([replace(RECORD, extra={"true_counts": [1, 7]})]))
    export(source, "csv", tmp_path / "found.csv")
    assert (tmp_path / "found.csv").stat().st_mode & 0o077 == 0
