"""Text from outside is bounded before it is read, and refused in one sentence."""

import os
import threading

import pytest

from labelleak.errors import BadInput, printable, shown_path
from labelleak.records import reading
from labelleak.records.reading import (
    open_regular,
    parse_json,
    read_json,
    read_lines,
    read_text,
    read_toml,
)


def within(seconds, call):
    """Run a call that must not hang; return what it raised."""
    raised = []

    def run():
        try:
            call()
        except BadInput as error:
            raised.append(str(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    return raised[0] if raised else None


@pytest.mark.parametrize("read", [read_text, read_json, read_toml, lambda p: list(read_lines(p))])
def test_nothing_but_regular_files_is_opened(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        said = within(5, lambda path=path: read(path))
        assert "not a regular file" in said
        assert "\n" not in said
    assert "cannot read" in within(5, lambda: read(tmp_path / "none"))
    assert "embedded null" in within(5, lambda: read(tmp_path / "a\0b"))


@pytest.mark.skipif(not os.access("/proc/kmsg", os.R_OK), reason="no /proc/kmsg")
def test_a_file_that_never_ends_is_read_to_its_size(tmp_path):
    assert within(5, lambda: read_text("/proc/kmsg")) is None
    assert within(5, lambda: list(read_lines("/proc/kmsg"))) is None


def test_sizes_are_capped_before_anything_is_read(tmp_path, monkeypatch):
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(2**40)
    for read in (read_text, read_json, read_toml, lambda p: list(read_lines(p))):
        with pytest.raises(BadInput, match="more than the"):
            read(sparse)
    monkeypatch.setattr(reading, "LONGEST_LINE", 8)
    (tmp_path / "long").write_bytes(b"1234567\n" + b"x" * 9 + b"\n")
    with pytest.raises(BadInput, match="line 2 is too long"):
        list(read_lines(tmp_path / "long"))


def test_marks_of_windows_are_read(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b'\xef\xbb\xbf{\r\n"a": 1}\r\n\r\n{}\r\nhalf')
    assert [number for number, _ in read_lines(path)] == [1, 2, 4]
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n')
    assert read_json(path) == {"a": 1}
    path.write_bytes(b"\xef\xbb\xbfa = 1\r\n")
    assert read_toml(path) == {"a": 1}
    path.write_bytes("a = 1".encode("utf-16"))
    with pytest.raises(BadInput, match="not UTF-8"):
        read_toml(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 200_000, "too many lists"),
        ("[" * 50_000 + "]" * 50_000, "nested too deeply"),
        ('{"a":' * 40 + "1" + "}" * 40, "nested too deeply"),
        ("9" * 5000, "whole number of 5000 digits"),
        ("-" + "9" * 45, "whole number of 46 digits"),
        ("9" * 400 + ".5", "not finite"),
        ("1e999", "not finite"),
        ("[NaN]", "holds NaN"),
        ('{"x\u2028": 1, "x\u2028": 2}', "names 'x\\\\u2028' twice"),
        ('["\\ud800"]', "half a character"),
        ("{", "is not JSON"),
        ("", "is not JSON"),
    ],
)
def test_json_is_bounded(text, said):
    with pytest.raises(BadInput, match=said) as refused:
        parse_json(text)
    assert len(str(refused.value)) < 100


def test_what_json_may_hold_is_read():
    deep = "[" * 31 + "]" * 31
    assert parse_json(f'[{deep}, {"9" * 40}, 0.{"1" * 400}, "\\u2028"]')[1:] == [
        int("9" * 40),
        1 / 9,
        "\u2028",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = " + "[" * 900 + "]" * 900, "nested too deeply"),
        ("a = " + "[" * 50 + "]" * 50, "nested too deeply"),
        ("a." * 10_000 + "b = 1", "more than 400 dots"),
        (".".join("a" * 100) + " = 1", "nested too deeply"),
        ("a = " + "9" * 5000, "not read"),
        ("a = 0x" + "f" * 60, "more than 40 digits"),
        ("a = " + "9" * 400 + ".0", "not finite"),
        ("a = \x1b", "not TOML"),
        ("a = 1\n" * 60_000, "more than the 262144"),
    ],
)
def test_toml_is_bounded(tmp_path, text, said):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(BadInput, match=said) as refused:
        read_toml(tmp_path / "x.toml")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


def test_infinity_stays_a_value_of_toml(tmp_path):
    (tmp_path / "x.toml").write_text("a = inf\nb = 1.5")
    assert read_toml(tmp_path / "x.toml") == {"a": float("inf"), "b": 1.5}


def test_nothing_from_outside_controls_the_terminal():
    assert printable("ä\xa0b\n\x1b]0;x\x07\u202e\u2028\ud800") == (
        "ä\xa0b\n\\x1b]0;x\\x07\\u202e\\u2028\\ud800"
    )
    assert shown_path("a\x1b[2J") == "'a\\x1b[2J'"


def test_a_file_is_opened_as_it_stands(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    with open_regular(tmp_path / "x") as file:
        assert file.read() == b"abc"
