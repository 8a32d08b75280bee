"""A file that is read by column holds what it holds record by record, and is refused alike."""

import gzip
import json
import random

import numpy as np
import pytest

from labelleak.errors import BadInput
from labelleak.records import columns, parts
from labelleak.records.cells import mean_each, tabulate
from labelleak.records.columns import Column, Unmade, code_together, first_uses
from labelleak.records.frame import RecordFrame
from labelleak.records.record import Record, read_records
from labelleak.records.strongest import strongest_records, worst_cases
from labelleak.records.whole import read_frame
from labelleak.report.gate import judge
from labelleak.report.page import render
from labelleak.report.policy import Policy
from records.broken_lines import REPEATED, TWISTED, changed
from report.samples import make_record

ATTACKS = {"free": "none", "llg": "update", "shadow": "auxiliary", "zlg": "model"}


def audit_lines():
    """Return the lines of an audit: several models, sizes and attacks, ten trials of each."""
    drawn = random.Random(0)
    rows = []
    for size in (1, 8):
        for model in (0, 1, 2):
            for name, held in ATTACKS.items():
                for trial in range(10):
                    free = 0.25 if size == 8 else 0.5
                    asr = free if name == "free" else drawn.choice([free, 0.625, 1.0])
                    asr = drawn.choice([0.0, 0.125]) if size == 1 else asr
                    row = make_record(
                        trial=trial,
                        attack=name,
                        threat_model=held,
                        initialisation=model,
                        batch_size=size,
                        num_samples=size,
                        asr=asr,
                        asr_free=free,
                        advantage=round((asr - free) / (1 - free), 6),
                        flags=("momentum",) if name == "llg" and model else (),
                        extra={"init": "uniform", "users": size, "scale": "held"},
                    )
                    own = {"presence_accuracy": trial / 16, "exact": trial % 2 == 0}
                    own |= {"asr_image": asr, "asr_image_free": free} if model == 1 else {}
                    own |= {"flag_figures": {"momentum": trial}} if name == "llg" and model else {}
                    rows.append(json.dumps(json.loads(row.to_json()) | own))
    return rows


LINES = audit_lines()


def write(path, lines, end="\n"):
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def outcome(read, path):
    """Return the records that a reader gives, key by key in their order, or its refusal."""
    try:
        found = read(path)
    except BadInput as error:
        return str(error)
    return [(row.to_json(), list(vars(row)), row) for row in found]


def both(path):
    """Return the records of a file by column, which must not have been made, and one by one."""
    frame = read_frame(path)
    assert isinstance(frame.held, Unmade)
    return frame, [Record.from_json(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("good", [LINES, REPEATED * 3])
def test_whatever_is_wrong_is_refused_in_the_same_words(tmp_path, good):
    rng = random.Random(1)
    by_column = 0
    for _ in range(120):
        path = write(tmp_path / "records.jsonl", changed(rng, good))
        assert outcome(read_frame, path) == outcome(read_records, path)
        by_column += parts.read_parts(path) is not None
    assert by_column > 20, "both ways must come"


@pytest.mark.parametrize("twist", TWISTED)
@pytest.mark.parametrize("places", [[3], range(9), range(54)])
def test_lines_that_are_whole_by_parts_only_are_not_read(tmp_path, twist, places):
    before, after, then, at_last = twist
    lines = REPEATED * 3
    for place in places:
        lines[place] = lines[place].replace(before, after, 1)
        lines[place] = lines[place].replace(then, at_last, 1) if then else lines[place]
    path = write(tmp_path / "records.jsonl", lines)
    assert outcome(read_frame, path) == outcome(read_records, path)


START = b'{"schema": 1'
TRIAL = b'"trial": 1,'
ODD = {
    "nothing": lambda whole: b"",
    "half a last line": lambda whole: whole[:-40],
    "a line that is no record": lambda whole: whole.replace(b"\n", b"\n[1]\n", 5),
    "a blank line": lambda whole: whole.replace(b"\n", b"\n \n", 5),
    "marks of windows": lambda whole: b"\xef\xbb\xbf" + whole.replace(b"\n", b"\r\n"),
    "a line broken in two": lambda whole: whole.replace(b', "asr_free"', b',\n"asr_free"', 1),
    "all lines broken in two": lambda whole: whole.replace(b', "asr_free"', b',\n"asr_free"'),
    "two records in a line": lambda whole: whole.replace(b"\n", b", ", 1),
    "a trial with a zero before": lambda whole: whole.replace(TRIAL, b'"trial": 01,'),
    "a trial that is no integer": lambda whole: whole.replace(TRIAL, b'"trial": 1.0,'),
    "a trial beyond all floats": lambda whole: whole.replace(TRIAL, b'"trial": 1%s,' % (b"0" * 30)),
    "a trial of other digits": lambda whole: whole.replace(TRIAL, '"trial": \u0661,'.encode()),
    "letters that are none": lambda whole: whole.replace(b'"uniform"', b'"\xff"'),
    "letters that are cut": lambda whole: whole.replace(b"uniform", "\u00e9".encode()[:1]),
    "letters of others": lambda whole: whole.replace(b"uniform", "\u00e9".encode()),
    "a key in two parts": lambda whole: whole.replace(b'"exact"', b'"init"'),
    "a key of the contract at the end": lambda whole: whole.replace(b'"exact"', b'"seed"'),
    "a key among the rates": lambda whole: whole.replace(b', "asr_f', b', "more": 1, "asr_f'),
    "an unknown server": lambda whole: whole.replace(b'"auxiliary"', b'"all"'),
    "a rate above one": lambda whole: whole.replace(b'"asr": 1.0', b'"asr": 1.5'),
    "an advantage that does not follow": lambda whole: whole.replace(b'"asr": 1.0', b'"asr": 0.75'),
    "one that does not, once": lambda whole: whole.replace(b'"asr": 1.0', b'"asr": 0.75', 1),
    "another schema": lambda whole: whole.replace(b'"schema": 1', b'"schema": 2'),
    "another schema in the last line": lambda whole: b'{"schema": 2'.join(whole.rsplit(START, 1)),
    "no schema in the last line": lambda whole: b'["schema": 1'.join(whole.rsplit(START, 1)),
    "another schema once": lambda whole: whole.replace(b'\n{"schema": 1', b'\n{"schema": 2', 1),
    "a number that is none": lambda whole: whole.replace(b'"exact": true', b'"exact": NaN'),
    "labels of an input": lambda whole: whole.replace(b'"exact": true', b'"class_asr": [1]'),
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("packed", [False, True])
def test_odd_files_are_read_or_refused_as_line_by_line(tmp_path, what, packed):
    odd = ODD[what]("".join(f"{line}\n" for line in LINES).encode())
    path = tmp_path / "records.jsonl"
    path.write_bytes(gzip.compress(odd) if packed else odd)
    assert outcome(read_frame, path) == outcome(read_records, path)
    path.write_bytes(path.read_bytes()[:-9])
    assert outcome(read_frame, path) == outcome(read_records, path)


def test_a_file_that_shares_little_or_is_too_large_is_left_to_the_other_reader(
    tmp_path, monkeypatch
):
    path = write(tmp_path / "records.jsonl", LINES)
    assert parts.read_parts(path) is not None
    monkeypatch.setattr(parts, "LARGEST_RECORDS", 1000)
    assert parts.read_parts(path) is None
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert parts.read_parts(path) is None
    monkeypatch.undo()
    monkeypatch.setattr(parts, "_PIECE", 64)
    monkeypatch.setattr(parts, "LONGEST_LINE", 600)
    assert parts.read_parts(path) is None
    others = [line.replace("llg", f"attack{n}") for n, line in enumerate(LINES)]
    assert parts.read_parts(write(path, others)) is None


@pytest.mark.parametrize("size", [100, 1999, 2**18])
def test_lines_are_cut_alike_wherever_a_piece_ends(tmp_path, monkeypatch, size):
    path = write(tmp_path / "records.jsonl", LINES)
    whole = read_frame(path).rows
    monkeypatch.setattr(parts, "_PIECE", size)
    frame = read_frame(path)
    assert isinstance(frame.held, Unmade)
    assert frame.rows == whole == read_records(path)


def test_columns_say_what_records_say(tmp_path):
    frame, rows = both(write(tmp_path / "records.jsonl", LINES))
    made = RecordFrame(rows)
    few = [*range(30, 50), 7, 7, 3]
    for mine, theirs in (
        (frame, made),
        (frame.take(few), RecordFrame([rows[n] for n in few])),
        (frame.ordered("attack", "trial"), made.ordered("attack", "trial")),
        (frame.take([]), RecordFrame([])),
    ):
        assert mine.columns() == theirs.columns()
        assert list(mine.columns()) == list(theirs.columns())
        assert mine.conditions == theirs.conditions
        assert mine.attackers == theirs.attackers
        assert mine.titles == theirs.titles
        assert mine.unsettled == theirs.unsettled
        assert mine.blocks.tolist() == theirs.blocks.tolist()
        assert mine.count("seed", "initialisation", "trial") == theirs.count(
            "seed", "initialisation", "trial"
        )
        for name in mine.columns():
            assert mine.distinct(name) == theirs.distinct(name)
            assert str(mine.numbers(name)) == str(theirs.numbers(name))
        assert {k: v.tolist() for k, v in mine.cells.items()} == {
            k: v.tolist() for k, v in theirs.cells.items()
        }
        assert tabulate(mine) == tabulate(theirs)
        assert worst_cases(mine) == worst_cases(theirs)
        assert list(mine) == list(theirs)


def test_single_records_are_made_as_a_list_gives_them(tmp_path):
    frame, rows = both(write(tmp_path / "records.jsonl", LINES))
    assert (frame[0], frame[-1], frame[np.int64(9)]) == (rows[0], rows[-1], rows[9])
    for place in (len(rows), -len(rows) - 1):
        with pytest.raises(IndexError):
            frame[place]
    assert frame[3:5] == rows[3:5]
    assert frame[-1] is frame[len(rows) - 1], "once all are made they are kept"


def test_sorted_records_are_those_of_sorted():
    rows = [make_record(trial=t, seed=s) for t, s in ((3, 2**70), (1, 5), (3, 2**70 + 1), (1, 4))]
    key = ("trial", "seed")
    wanted = sorted(rows, key=lambda row: (row.trial, row.seed))
    assert list(RecordFrame(rows).ordered(*key)) == wanted


def test_the_strongest_attackers_are_chosen_alike_by_column(tmp_path):
    frame, rows = both(write(tmp_path / "records.jsonl", LINES))
    chosen = strongest_records(rows)
    assert {row.extra["chosen"] for row in chosen} > {"free"}, "both kinds must come"
    assert strongest_records(frame) == chosen
    assert worst_cases(frame) == tabulate(chosen)


def test_gates_and_pages_make_no_more_records_than_they_show(tmp_path, monkeypatch):
    path = write(tmp_path / "records.jsonl", LINES)
    policy = Policy(
        max_advantage={"update": 0.2, "auxiliary": 0.9},
        min_trials=2,
        must_run=["llg"],
        flags={"momentum": 0.1},
        cells={"batch_sizes": [8], "defended": False},
    )
    wanted = judge(read_records(path), policy), render(read_records(path), source="x")

    def make_all(self):
        raise AssertionError("all records were made")

    monkeypatch.setattr(columns.Unmade, "_all", make_all)
    assert judge(read_frame(path), policy) == wanted[0]
    assert render(read_frame(path), source="x") == wanted[1]


def naive_codes(rows):
    numbers = {}
    return [numbers.setdefault(row, len(numbers)) for row in rows]


@pytest.mark.parametrize("seed", range(20))
def test_records_are_numbered_by_their_values_in_the_order_of_first_use(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 60))
    own = Column([int(n) for n in rng.integers(0, 3, size)], None)
    shared = rng.integers(0, 7, size)
    two = [Column([*"abcabca"], shared), Column([1, 1, 2, 1, 3, 2, True], shared)]
    other = Column([0.5, 0.5, None], rng.integers(0, 3, size))
    columns_of = [own, *two, other]
    codes, number = code_together(columns_of, size)
    rows = list(zip(*(column.by_row() for column in columns_of), strict=True))
    assert codes.tolist() == naive_codes(rows)
    assert number == len(set(rows))
    told = [tuple((type(value), value) for value in row) for row in rows]
    assert code_together(columns_of, size, typed=True)[0].tolist() == naive_codes(told)
    assert first_uses(codes, number + 5) == list(range(number))


def test_values_that_cannot_be_hashed_are_numbered_by_what_they_say():
    one = [1, 2]
    column = Column([one, [1, 2], one, ["1", 2], {"a": 1}], None)
    assert code_together([column], 5)[0].tolist() == [0, 0, 0, 1, 2]


@pytest.mark.parametrize("seed", range(10))
def test_means_of_many_groups_are_those_of_each_to_the_last_digit(seed):
    rng = np.random.default_rng(seed)
    values = rng.random(2000)
    values[rng.random(2000) < rng.choice([0, 0.01, 1])] = np.nan
    groups = [rng.choice(2000, n, replace=False) for n in rng.choice([1, 7, 20, 200], 30)]
    found = mean_each(values, groups)
    for group, mean in zip(groups, found, strict=True):
        known = values[group][~np.isnan(values[group])]
        assert mean == (float(known.mean()) if known.size else None)


def test_trials_that_were_timed_one_by_one_are_read_by_column_too(tmp_path):
    timed = [
        line.replace('"seconds": ', f'"seconds": {number}.5e-3, "was": ', 1)
        for number, line in enumerate(LINES)
    ]
    path = write(tmp_path / "records.jsonl", timed)
    assert outcome(read_frame, path) == outcome(read_records, path)
    timed = [line.replace(f', "was": {make_record().seconds}', "") for line in timed]
    frame, rows = both(write(path, timed))
    assert frame.values("seconds") == [row.seconds for row in rows]
    assert list(frame) == rows
