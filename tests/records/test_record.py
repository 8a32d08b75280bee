"""Records go out and come back; what is no record is refused with its line."""

import json
from dataclasses import replace

import pytest

from labelleak.errors import BadInput
from labelleak.records.record import SCHEMA, Record, append_records, read_records

RECORD = Record(
    trial=3,
    seed=0,
    attack="llg",
    threat_model="update",
    adaptive=False,
    data="digits",
    model="cnn",
    initialisation=1,
    training_steps=0,
    model_accuracy=0.1,
    scheme="iid",
    num_classes=10,
    batch_size=8,
    local_steps=1,
    num_samples=8,
    defense="none",
    asr=0.875,
    asr_free=0.57,
    advantage=0.709302,
    presence_precision=1.0,
    presence_recall=0.9,
    seconds=1e-4,
    flags=("no_bias",),
    labelleak="0.1.0",
    torch="2.13.0",
    command="labelleak audit",
    extra={"init": "uniform", "notes": ["x"]},
)
CONTRACT = (
    "schema trial seed attack threat_model adaptive data model initialisation training_steps "
    "model_accuracy scheme num_classes batch_size local_steps num_samples defense asr asr_free "
    "advantage presence_precision presence_recall seconds flags labelleak torch command"
)


def test_a_record_comes_back_as_it_went(tmp_path):
    path = tmp_path / "records.jsonl"
    other = replace(RECORD, trial=4, model_accuracy=None, asr_free=1.0, advantage=None, extra={})
    append_records(path, [RECORD])
    append_records(path, [other])
    assert read_records(path) == [RECORD, other]


def test_the_keys_of_the_contract_are_all_there_and_flat():
    row = json.loads(RECORD.to_json())
    assert " ".join(list(row)[:27]) == CONTRACT
    assert row["init"] == "uniform"
    assert row["schema"] == SCHEMA


def test_a_line_cut_short_at_the_end_is_passed_over(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(RECORD.to_json() + "\n" + RECORD.to_json()[:50])
    assert read_records(path) == [RECORD]


def changed(**keys):
    return json.dumps({**json.loads(RECORD.to_json()), **keys})


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 is not a JSON object"),
        (changed(schema=99), "line 2 has schema 99"),
        (json.dumps({"schema": SCHEMA}), "line 2 lacks the keys trial"),
        (changed(asr="high"), "line 2 has 'high' under 'asr'"),
        (changed(asr=float("nan")), "line 2 holds NaN, which JSON"),
        (changed(trial=True), "has True under 'trial'"),
        (changed(threat_model="god"), "unknown threat model 'god'"),
        (changed(flags="none"), "under 'flags'"),
    ],
)
def test_what_is_no_record_is_refused_with_its_line(tmp_path, line, sentence):
    path = tmp_path / "records.jsonl"
    path.write_text(RECORD.to_json() + "\n" + line + "\n")
    with pytest.raises(BadInput, match=sentence):
        read_records(path)


def test_files_that_cannot_be_read_or_written_are_refused(tmp_path):
    with pytest.raises(BadInput, match="cannot read records"):
        read_records(tmp_path / "none.jsonl")
    with pytest.raises(BadInput, match="cannot write"):
        append_records(tmp_path / "nowhere" / "records.jsonl", [RECORD])
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe\n")
    with pytest.raises(BadInput, match="line 1 is not UTF-8"):
        read_records(binary)


def test_numbers_that_json_cannot_say_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        append_records(tmp_path / "r.jsonl", [replace(RECORD, asr=float("nan"))])
    with pytest.raises(ValueError, match="repeat contract keys"):
        replace(RECORD, extra={"asr": 1}).to_json()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"advantage": -1e9}, "does not follow"),
        ({"advantage": 0.72}, "does not follow"),
        ({"advantage": 0.7}, "does not follow"),
        ({"advantage": None}, "has no advantage"),
        ({"asr_free": 1.0, "asr": 1.0, "advantage": 0.0}, "nothing is left to learn"),
        ({"asr": -5}, "asr -5, which is not between 0 and 1"),
        ({"asr": 10**39}, "asr 1e.39"),
        ({"asr_free": 7}, "asr_free 7"),
        ({"num_samples": -3}, "num_samples -3, where at least 1"),
        ({"num_samples": 0}, "num_samples 0"),
        ({"num_samples": 2**60}, "num_samples 1.15"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"seconds": -1.0}, "seconds -1"),
        ({"presence_recall": 1.5}, "presence_recall"),
        ({"model_accuracy": -0.1}, "model_accuracy"),
        ({"model": "x" * 10**5}, "100000 characters under 'model'"),
        ({"asr": "x" * 10**5}, "under 'asr', where float"),
        ({"schema": "\x1b[31m"}, "schema '.x1b"),
        ({"round": "3"}, "has '3' under 'round', where int belongs"),
        ({"clients": [1]}, "under 'clients'"),
        ({"client": ["\x1b"] * 300_000}, "under 'client', where str or int belongs"),
        ({"flag_figures": 3}, "under 'flag_figures'"),
    ],
)
def test_values_that_no_run_finds_are_refused(keys, said):
    with pytest.raises(BadInput, match=said) as refused:
        Record.from_json(changed(**keys))
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    "keys",
    [
        {"asr": 1.0, "asr_free": 1.0, "advantage": None},
        {"asr": 0.875, "asr_free": 0.57, "advantage": 0.7093},
        {"asr": 0.0, "asr_free": 0.99, "advantage": -99.0},
        {"round": 3, "client": 7, "clients": 2, "defended": True},
    ],
)
def test_values_that_follow_are_read(keys):
    assert Record.from_json(changed(**keys)).trial == 3


def test_records_that_hold_the_truth_are_their_owners(tmp_path):
    path = tmp_path / "records.jsonl"
    append_records(path, [replace(RECORD, extra={"true_counts": [8]})])
    assert path.stat().st_mode & 0o77 == 0
