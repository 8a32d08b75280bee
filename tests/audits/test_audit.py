"""The audit: same seed same records, resumable, each choice of its options seen in the records."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from threadpoolctl import threadpool_info, threadpool_limits
from torch import nn

import labelleak
from commands import command
from labelleak.attacks import STANDARD
from labelleak.attacks.choice import GROUPS
from labelleak.audits.options import QUICK, AuditOptions, check_options, quickened
from labelleak.audits.plan import plan_audit
from labelleak.audits.run import Part, open_run, run_parts
from labelleak.errors import BadInput
from labelleak.records.record import read_records
from labelleak.simulation.data.datasets import Dataset
from labelleak.simulation.models import build_model

FEW = ("random", "free", "llg", "llg_star", "llg_plus", "rlu")
# Quick rules of every threat model; the battery with all that learns meets fewer conditions.
SMALL = {
    "attacks": FEW,
    "batch_sizes": (1, 8),
    "schemes": ("iid", "unbalanced"),
    "trials": 6,
    "initialisations": 2,
    "training_steps": (0, 3),
    "shadow_batches": 20,
}


WHOLE = {
    "attacks": STANDARD,
    "batch_sizes": (1, 8),
    "schemes": ("unbalanced",),
    "trials": 4,
    "initialisations": 1,
    "training_steps": (0, 3),
    "shadow_batches": 20,
    "keep_counts": True,
}


@pytest.fixture(scope="module")
def whole():
    return labelleak.audit(**WHOLE).records


@pytest.fixture(scope="module")
def small():
    return labelleak.audit(**SMALL).records


def plain(records):
    """Leave out what time of day may change."""
    return [replace(record, seconds=0.0) for record in records]


def test_same_seed_same_records_and_another_seed_others(whole):
    assert plain(labelleak.audit(**WHOLE).records) == plain(whole)
    other = labelleak.audit(**{**WHOLE, "attacks": FEW}, seed=1).records
    assert [r.asr for r in other] != [r.asr for r in whole if r.attack in FEW]


def test_every_cell_has_its_trials_and_every_attack_meets_the_same_batches(whole, small):
    found = whole
    assert len(found) == 2 * 2 * 4 * len(STANDARD)
    batches = {}
    for r in found:
        key = (r.scheme, r.batch_size, r.trial)
        assert sum(r.extra["counts"]) == sum(r.extra["true_counts"]) == r.num_samples
        assert batches.setdefault(key, r.extra["true_counts"]) == r.extra["true_counts"]
    assert len(small) == 2 * 2 * 2 * 6 * len(FEW)
    assert {r.initialisation for r in small} == {0, 1}
    assert all(r.extra["gradient"] == "head_table" for r in found)


def test_an_attack_does_not_change_the_answers_of_the_others(whole):
    alone = labelleak.audit(**{**WHOLE, "attacks": ("llg_plus",)})
    wanted = [r for r in whole if r.attack == "llg_plus"]
    assert plain(alone.records) == [
        replace(r, seconds=0.0, command=alone.records[0].command) for r in wanted
    ]


def test_autograd_and_head_table_give_the_same_records(small):
    assert {r.extra["gradient"] for r in small} == {"head_table"}
    slow = labelleak.audit(**SMALL, gradient="autograd").records
    assert {r.extra["gradient"] for r in slow} == {"autograd"}
    assert [r.asr for r in small] == [r.asr for r in slow]


class Stop(Exception):
    """Stands for Ctrl-C at some moment."""


@pytest.mark.parametrize("moment", [0, 1, 5, 9, 15])
def test_an_interrupted_audit_goes_on_to_the_same_records(tmp_path, moment, small):
    options = check_options(**SMALL)
    calls = 0

    def interrupt(done, total):
        nonlocal calls
        calls += 1
        if calls > moment:
            raise Stop

    parts = [Part(options=options)]
    with pytest.raises(Stop), open_run(parts, tmp_path) as journal:
        run_parts(parts, journal, numbered=False, progress=interrupt)
    path = tmp_path / "records.jsonl"
    if path.exists():  # a kill in the middle of a write leaves part of a line
        path.write_text(path.read_text() + '{"schema": 1, "tri')
    seen = []
    with open_run(parts, tmp_path) as journal:
        run_parts(
            parts, journal, numbered=False, progress=lambda done, total: seen.append((done, total))
        )
    assert seen[-1] == (16, 16)
    resumed = [replace(r, command=small[0].command) for r in read_records(path)]
    assert sorted(plain(resumed), key=str) == sorted(plain(small), key=str)
    with open_run(parts, tmp_path) as journal:
        run_parts(parts, journal, numbered=False)
    assert len(read_records(path)) == len(small)


def test_records_of_an_unmarked_unit_are_done_again(tmp_path):
    labelleak.audit(**SMALL, out=tmp_path)
    before = read_records(tmp_path / "records.jsonl")
    mark = json.loads((tmp_path / "run.json").read_text())
    mark["done"].remove([0, 1, 0])
    (tmp_path / "run.json").write_text(json.dumps(mark))
    after = labelleak.audit(**SMALL, out=tmp_path).records
    assert sorted(plain(after), key=str) == sorted(plain(before), key=str)


def test_a_folder_of_another_audit_is_left_alone_unless_told(tmp_path):
    labelleak.audit(**SMALL, out=tmp_path)
    kept = (tmp_path / "records.jsonl").read_text()
    with pytest.raises(BadInput, match=r"differs in: .*seed.*`overwrite`"):
        labelleak.audit(**SMALL, seed=5, out=tmp_path)
    assert (tmp_path / "records.jsonl").read_text() == kept
    found = labelleak.audit(**SMALL, seed=5, out=tmp_path, overwrite=True)
    assert {r.seed for r in found.records} == {5}
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(BadInput, match="damaged"):
        labelleak.audit(**SMALL, out=tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(BadInput, match="records of something else"):
        labelleak.audit(**SMALL, out=tmp_path)


def tiny_data(rows=40):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(rows, 1, 8, 8, generator=generator)
    y = torch.arange(rows) % 4
    return Dataset("tiny", x, y, x[:8], y[:8], ("a", "b", "c", "d"), "none")


def test_a_module_and_a_data_set_of_ones_own_are_audited_as_they_are():
    model = build_model("lenet", input_shape=(1, 8, 8), num_classes=4, seed=3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = labelleak.audit(model=model, data=tiny_data(), batch_sizes=[4], trials=3, attacks=FEW)
    assert {(r.model, r.data, r.extra["init"]) for r in found.records} == {
        ("Classifier", "tiny", "as given")
    }
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def with_weights():
    model = build_model("lenet", input_shape=(1, 8, 8), num_classes=4, seed=3)
    return model.train()


def without_weights(input_shape, num_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))


@pytest.mark.parametrize(
    ("make", "more", "init"),
    [
        (with_weights, {}, "as given"),
        (without_weights, {}, "default"),
        (with_weights, {"init": "xavier"}, "xavier"),
    ],
)
def test_a_factory_that_makes_the_same_weights_from_every_seed_gives_them(make, more, init):
    choices = {"batch_sizes": [4], "trials": 2, "attacks": FEW, "training_steps": [0], **more}
    found = labelleak.audit(model=make, data=tiny_data(), **choices)
    assert {r.extra["init"] for r in found.records} == {init}
    assert {r.initialisation for r in found.records} == ({0} if init == "as given" else {0, 1})


@pytest.mark.parametrize("model", [with_weights, with_weights()])
def test_one_model_is_not_counted_as_several(model):
    choices = {"initialisations": 2, "batch_sizes": [4], "trials": 2, "attacks": FEW}
    with pytest.raises(BadInput, match="one model whatever the seed"):
        labelleak.audit(model=model, data=tiny_data(), **choices)


def table(rows=200):
    """Two features of very different size, and a model made for them as they are."""
    rng = np.random.default_rng(0)
    y = np.arange(rows) % 2
    x = np.stack([100 + 50 * y + rng.normal(0, 5, rows), rng.normal(0, 1, rows)], axis=1)
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-0.1, 0.0], [0.1, 0.0]]))
        model.bias.copy_(torch.tensor([12.5, -12.5]))
    return x, y, model


def fitted():
    return table()[2]


def test_a_model_with_weights_of_its_own_is_fed_tables_as_they_were_given(tmp_path):
    x, y, model = table()
    choices = {"batch_sizes": [4], "trials": 2, "attacks": FEW, "training_steps": [0]}
    for own in (model, fitted):
        found = labelleak.audit(model=own, data=(x, y), **choices).records
        assert {r.extra["normalisation"] for r in found} == {"none"}
        assert {r.model_accuracy for r in found} == {1.0}
    scaled = labelleak.audit(model=model, data=(x, y), tables="standardised", **choices).records
    assert all(r.model_accuracy < 0.7 for r in scaled)
    np.savez(tmp_path / "a.npz", X=x, y=y)
    fresh = labelleak.audit(model="mlp", data=str(tmp_path / "a.npz"), **choices).records
    assert {r.extra["normalisation"] for r in fresh} == {"standardised by the training part"}
    raw = labelleak.audit(model="mlp", data=str(tmp_path / "a.npz"), tables="given", **choices)
    assert {r.extra["normalisation"] for r in raw.records} == {"none"}


def test_data_too_few_to_be_parted_are_refused():
    x, y, model = table(rows=4)
    with pytest.raises(BadInput, match="too few to be parted"):
        labelleak.audit(model=model, data=(x, y), batch_sizes=[1], trials=2, attacks=FEW)


def test_labels_that_run_from_one_are_named_as_such():
    data = tiny_data()
    data = replace(
        data, y_train=data.y_train + 1, y_test=data.y_test + 1, class_names=tuple("-abcd")
    )
    with pytest.raises(BadInput, match="do these run from 1"):
        labelleak.audit(model="mlp", data=data, batch_sizes=[4], trials=2, attacks=FEW)


def test_given_weights_are_loaded_from_safetensors(tmp_path):
    model = build_model("mlp", input_shape=(1, 8, 8), num_classes=10, seed=3)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    choices = {"model": "mlp", "weights": str(tmp_path / "w.safetensors"), "trials": 2}
    choices["attacks"] = FEW
    found = labelleak.audit(**choices, batch_sizes=[2], training_steps=[0])
    direct = labelleak.audit(model=model, batch_sizes=[2], trials=2, attacks=FEW)
    assert [r.extra["model_fingerprint"] for r in found.records] == [
        r.extra["model_fingerprint"] for r in direct.records
    ]


def test_batch_norm_in_train_mode_takes_autograd_and_says_so():
    small = {"model": "resnet20", "batch_sizes": [4], "schemes": ["iid"], "trials": 2}
    small |= {"initialisations": 1, "training_steps": [0], "attacks": ["llg", "llg_plus"]}
    assert {r.extra["gradient"] for r in labelleak.audit(**small).records} == {"autograd"}
    evaluated = labelleak.audit(**small, mode="eval").records
    assert {(r.extra["gradient"], r.extra["mode"]) for r in evaluated} == {("head_table", "eval")}
    with pytest.raises(BadInput, match="head table is not exact"):
        labelleak.audit(**small, gradient="head_table")


def test_seen_victims_come_from_what_the_model_learned():
    small = {**SMALL, "training_steps": (0,), "attacks": ("llg",)}
    unseen, seen = labelleak.audit(**small), labelleak.audit(**small, victims="seen")
    sizes = [
        (r.extra["train_size"], r.extra["victim_size"])
        for r in (unseen.records[0], seen.records[0])
    ]
    assert sizes[0][0] == sizes[1][0] == sizes[1][1] != sizes[0][1]


def test_a_head_without_bias_is_audited():
    class NoBias(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(64, 20)
            self.out = nn.Linear(20, 10, bias=False)

        def forward(self, x):
            return self.out(self.body(x.flatten(1)).relu())

    found = labelleak.audit(
        model=NoBias(), batch_sizes=[1], trials=4, schemes=["iid"], shadow_batches=20
    )
    assert {r.asr for r in found.records if r.attack == "llg"} == {1.0}


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"attacks": ["llgg"]}, "did you mean 'llg'"),
        ({"data": "digit"}, "did you mean 'digits'"),
        ({"model": "lenett"}, "did you mean 'lenet'"),
        ({"model": "no_such_package.x:f"}, "no_such_package"),
        ({"schemes": ["uid"]}, "did you mean 'iid'"),
        ({"init": "unifrom"}, "did you mean 'uniform'"),
        ({"activation": "rellu"}, "did you mean 'relu'"),
        ({"batch_sizes": [0]}, "`batch_sizes` 0: must be at least 1"),
        ({"batch_sizes": []}, "`batch_sizes` is empty"),
        ({"batch_sizes": [8, 8]}, "more than once"),
        ({"batch_sizes": [4000]}, "larger than the victims' data"),
        ({"trials": 0}, "`trials` 0: must be at least 1"),
        ({"trials": 2, "initialisations": 3}, "cannot be spread"),
        ({"training_steps": [-1]}, "`training_steps` -1"),
        ({"victims": "some"}, "`victims` 'some'"),
        ({"mode": "test"}, "`mode` 'test'"),
        ({"seed": -1}, "`seed` -1"),
        ({"colour": "red"}, "unknown option 'colour'"),
        ({"weights": "none.safetensors"}, "cannot read none.safetensors"),
        ({"weights": "x", "initialisations": 2}, "leave out `initialisations`"),
        ({"head": "fc"}, "'fc' does not exist"),
        ({"model": "cnn", "data": "NO.npz"}, "NO.npz"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_in_a_sentence(tmp_path, choices, sentence):
    with pytest.raises(BadInput, match=sentence) as caught:
        labelleak.audit(**{"trials": 2, "out": tmp_path / "out", **choices})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "records.jsonl").exists()


def test_weights_that_do_not_fit_or_are_none_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(BadInput, match="do not fit the model"):
        labelleak.audit(weights=str(path), trials=1)
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(BadInput, match="no whole safetensors, npz or PyTorch file"):
        labelleak.audit(weights=str(path), trials=1)


def test_headline_and_report_come_from_the_same_records(tmp_path):
    found = labelleak.audit(**SMALL)
    lines = found.headline()
    page = found.write_report(tmp_path / "page.html").read_text()
    assert any("of 8 labels" in line.lower() or "8 labels" in line for line in lines)
    assert "<html" in page
    assert np.isfinite(len(page))


def test_a_request_that_fails_leaves_an_older_audit_and_a_folder_alone(tmp_path):
    labelleak.audit(**SMALL, out=tmp_path)
    kept = (tmp_path / "records.jsonl").read_bytes()
    for wrong in ({"head": "nosuch"}, {"gradient": "head_table", "model": "resnet20"}):
        with pytest.raises(BadInput):
            labelleak.audit(**{**SMALL, **wrong}, out=tmp_path, overwrite=True)
        assert (tmp_path / "records.jsonl").read_bytes() == kept


def test_an_audit_that_finished_nothing_does_not_block_its_folder(tmp_path):
    parts = [Part(options=check_options(**SMALL, seed=9))]
    with open_run(parts, tmp_path):
        pass
    assert labelleak.audit(**SMALL, out=tmp_path).records


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    parts = [Part(options=check_options(**SMALL))]
    refused = pytest.raises(BadInput, match="another run is writing")
    with open_run(parts, tmp_path), refused:
        labelleak.audit(**SMALL, out=tmp_path)


def test_other_weights_are_another_audit(tmp_path):
    path = tmp_path / "w.safetensors"
    choices = {"model": "mlp", "weights": str(path), "trials": 2, "batch_sizes": [2]}
    choices["attacks"] = FEW
    for seed, out in ((0, tmp_path / "a"), (1, tmp_path / "a")):
        model = build_model("mlp", input_shape=(1, 8, 8), num_classes=10, seed=seed)
        save_file(model.state_dict(), path)
        if seed == 0:
            labelleak.audit(**choices, training_steps=[0], out=out)
        else:
            with pytest.raises(BadInput, match="model_fingerprint"):
                labelleak.audit(**choices, training_steps=[0], out=out)


def test_slow_attacks_are_left_out_of_the_standard_battery_for_many_classes(monkeypatch):
    monkeypatch.setitem(GROUPS, "standard", ("free", "gdbr", "shadow_layers"))
    small = {"data": "synthetic:257", "model": "mlp", "batch_sizes": [2], "schemes": ["iid"]}
    small |= {"shadow_batches": 10, "initialisations": 1}
    found = labelleak.audit(**small, trials=1, training_steps=[0]).records
    assert {r.attack for r in found} == {"free"}
    for name in ("gdbr", "shadow_layers"):
        assert "left out" in found[0].extra["not_applicable"][name]
    named = plan_audit(check_options(**small, trials=1, training_steps=[0], attacks=["gdbr"]))
    assert [attack.name for attack in named.attacks] == ["gdbr"]


def test_a_module_is_audited_in_the_mode_that_it_is_in():
    model = build_model("lenet", input_shape=(1, 8, 8), num_classes=4, seed=3).eval()
    found = labelleak.audit(model=model, data=tiny_data(), batch_sizes=[4], trials=1, attacks=FEW)
    assert {r.extra["mode"] for r in found.records} == {"eval"}
    assert found.records[0].command.startswith("labelleak.audit(data=<tiny>, model=<your")


def blas_threads():
    return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]


def test_an_audit_in_python_uses_one_thread_and_gives_torch_its_own_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threadpool_limits(2, user_api="blas"):
            for threads in (1, None, 2):
                seen: list[int] = []
                of_blas: list[int] = []
                labelleak.audit(
                    batch_sizes=[1],
                    schemes=["iid"],
                    attacks=["llg"],
                    trials=1,
                    initialisations=1,
                    training_steps=[0],
                    threads=threads,
                    progress=lambda done, total, seen=seen, more=of_blas: (
                        seen.append(torch.get_num_threads()),
                        more.extend(blas_threads()),
                    ),
                )
                assert set(seen) == {threads or 2}
                assert threads is None or set(of_blas) == {threads}
                assert set(blas_threads()) == {2}
                assert torch.get_num_threads() == 2
            with pytest.raises(BadInput, match="threads must be at least 1"):
                labelleak.audit(threads=0)
    finally:
        torch.set_num_threads(before)


def test_a_first_look_is_small_but_for_what_was_said():
    found = labelleak.audit(model="mlp", quick=True, trials=10, attacks=["llg"], schemes=["iid"])
    assert {(r.batch_size, r.training_steps, r.attack) for r in found.records} == {(8, 0, "llg")}
    assert len(found.records) == 10
    first = quickened(AuditOptions(), said=())
    assert set(QUICK) == {k for k, v in vars(first).items() if v != vars(AuditOptions())[k]}


def test_a_first_look_keeps_what_was_said_where_it_is_the_default(tmp_path):
    plain = AuditOptions().trials
    quick = {"quick": True, "attacks": ["llg"], "schemes": ["iid"]}
    assert len(labelleak.audit(model="mlp", trials=plain, **quick).records) == plain
    words = ["audit", "--model=mlp", "--quick", "--attacks=llg", "--schemes=iid", "--out", tmp_path]
    status, _, said = command(*words, f"--trials={plain}")
    assert status == 0, said
    rows = read_records(tmp_path / "records.jsonl")
    assert {row.batch_size for row in rows} == {8}
    assert len(rows) == plain
