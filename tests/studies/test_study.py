"""The runner of studies keeps what is done, goes on after a stop, and writes what is found."""

from contextlib import nullcontext
from dataclasses import replace

import pytest

from labelleak.audits.options import check_options
from labelleak.audits.run import Part
from labelleak.errors import BadInput
from labelleak.records.record import read_records
from labelleak.studies.study import Asked, Measurement, Study, run_study

made = []


def parts(asked):
    options = {"model": "mlp", "batch_sizes": (2,), "schemes": ("iid",), "attacks": ("free", "llg")}
    few = {"trials": 4, "initialisations": 2, "training_steps": (0, 2), "seed": asked.seed}
    return [
        Part(options=check_options(**options, **few, init=init)) for init in ("default", "xavier")
    ]


def measure(number):
    made.append(number)
    return (number, "kept as JSON")


STUDY = Study(
    name="tiny",
    parts=parts,
    measurements=lambda asked: [
        Measurement(f"number {n}", lambda n=n: measure(n)) for n in range(2)
    ],
    report=lambda found: {
        "tiny.md": f"{len(found.records)} records by {found.records[0].command}, {found.measured}\n"
    },
)


def run(out, seed=0, stop=None, **more):
    def show(done, total):
        if done == stop:
            raise KeyboardInterrupt

    asked = Asked(seed=seed, command="labelleak paper tiny")
    return run_study(STUDY, asked, out, bar=lambda what, unit: nullcontext(show), **more)


def plain(out):
    return [replace(row, seconds=0.0) for row in read_records(out / "records.jsonl")]


def test_an_interrupted_study_goes_on_to_the_same_files(tmp_path):
    whole = run(tmp_path / "whole")
    assert [path.name for path in whole.files] == ["tiny.md"]
    text = (tmp_path / "whole" / "tiny.md").read_text()
    assert text == (
        "32 records by labelleak paper tiny, [[0, 'kept as JSON'], [1, 'kept as JSON']]\n"
    )
    for moment in (3, 6):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", stop=moment)
    assert 0 < len(read_records(tmp_path / "cut" / "records.jsonl")) < 32
    made.clear()
    run(tmp_path / "cut")
    assert made == [0, 1]
    assert plain(tmp_path / "cut") == plain(tmp_path / "whole")
    assert (tmp_path / "cut" / "tiny.md").read_text() == text
    made.clear()
    run(tmp_path / "cut")
    assert made == []


def test_another_run_in_the_folder_is_refused_unless_it_may_be_dropped(tmp_path):
    run(tmp_path)
    with pytest.raises(BadInput, match="another run"):
        run(tmp_path, seed=1)
    run(tmp_path, seed=1, overwrite=True)
    assert {row.seed for row in read_records(tmp_path / "records.jsonl")} == {1}


def test_what_takes_all_stages_together_is_done_as_one(tmp_path, bar):
    calls = []

    def both(*stages):
        calls.append([stage.steps for stage in stages])
        for stage in stages:
            yield [row for cell in stage.audit(stage.plan.cells) for row in cell]

    def whole(asked):
        return [replace(part, measure=both, whole=True) for part in parts(asked)]

    apart = run(tmp_path / "apart").found.records
    study = replace(STUDY, parts=whole, measurements=lambda asked: ())
    found = run_study(study, Asked(), tmp_path / "whole", bar=bar).found.records
    assert calls == [[0, 2]] * 4
    assert [row.asr for row in found] == [row.asr for row in apart]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, bar):
    (tmp_path / "file").write_text("")
    for study in (STUDY, Study(report=lambda found: {"a.md": "a"})):
        with pytest.raises(BadInput, match="cannot write"):
            run_study(study, Asked(), tmp_path / "file" / "below", bar=bar)
