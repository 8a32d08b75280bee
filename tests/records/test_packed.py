"""Records packed by gzip are read as others are, and damaged or huge ones are refused."""

import gzip

import pytest
from typer.testing import CliRunner

from labelleak.cli.app import app
from labelleak.errors import BadInput
from labelleak.records import reading
from labelleak.records.record import read_records
from report.samples import make_records

RECORDS = list(make_records())[:20]
TEXT = "".join(f"{record.to_json()}\n" for record in RECORDS).encode()


def packed(path, *parts):
    path.write_bytes(b"".join(map(gzip.compress, parts)))
    return path


def test_packed_records_are_read_whether_in_one_member_or_several(tmp_path):
    assert read_records(packed(tmp_path / "one.jsonl.gz", TEXT)) == RECORDS
    half = TEXT.index(b"\n") + 1
    assert read_records(packed(tmp_path / "two.jsonl.gz", TEXT[:half], TEXT[half:])) == RECORDS
    assert read_records(packed(tmp_path / "whatever", TEXT)) == RECORDS


def test_a_last_line_without_its_newline_is_passed_over(tmp_path):
    assert read_records(packed(tmp_path / "records.gz", TEXT[:-5])) == RECORDS[:-1]


@pytest.mark.parametrize("harm", ["cut", "changed", "magic alone", "no gzip behind it"])
def test_a_damaged_packed_file_is_refused(tmp_path, harm):
    whole = gzip.compress(TEXT)
    broken = {
        "cut": whole[:-20],
        "changed": whole[:200] + bytes(40) + whole[240:],
        "magic alone": whole[:2],
        "no gzip behind it": whole[:2] + TEXT,
    }
    path = tmp_path / "records.jsonl.gz"
    path.write_bytes(broken[harm])
    with pytest.raises(BadInput, match="is cut short or no gzip file"):
        read_records(path)


def test_a_small_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    path = packed(tmp_path / "bomb.gz", b"\n" * 10**6)
    monkeypatch.setattr(reading, "LARGEST_RECORDS", 10**5)
    with pytest.raises(BadInput, match="unpacks to more than the 100000 bytes that are read"):
        read_records(path)


def test_a_page_is_made_of_packed_records(tmp_path):
    path = packed(tmp_path / "records.jsonl.gz", TEXT)
    words = ["report", str(path), "--out", str(tmp_path / "page.html")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "records.jsonl.gz" in (tmp_path / "page.html").read_text()
