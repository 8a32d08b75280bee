"""Lines are appended after the last whole line, however long the lines before are."""

import json

import pytest

from labelleak.records import files
from labelleak.records.files import append_lines

LENGTHS = [1, 4095, 4096, 4097, 8191, 8192, 8193, 3 * 4096 + 5, 10**5]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("cut", ["whole", "no newline", "half a line"])
def test_what_a_killed_writer_left_is_cut_off_at_any_length(tmp_path, length, cut):
    path = tmp_path / "rows.jsonl"
    kept = [json.dumps("a" * 5), json.dumps("b" * length)]
    text = "".join(f"{line}\n" for line in kept)
    left = {"whole": "", "no newline": json.dumps("c" * length), "half a line": '"d' + "d" * length}
    path.write_text(text + left[cut])
    append_lines(path, '"new"\n')
    last = [left[cut]] if cut == "no newline" else []
    assert path.read_text() == "".join(f"{line}\n" for line in [*kept, *last, '"new"'])


def test_a_longer_end_is_read_in_ever_longer_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_PIECE", 4)
    path = tmp_path / "rows.jsonl"
    for length in range(1, 40):
        path.write_text("1\n" + '"' + "x" * length)
        append_lines(path, "2\n")
        assert path.read_text() == "1\n2\n"
