"""One update under attack, in both forms, by Python and by the command."""

import json
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from labelleak.audits.one_update import attack_update
from labelleak.cli import main
from labelleak.cli.attack import _show
from labelleak.core.forms import torch_form
from labelleak.core.head import locate_head
from labelleak.core.knowledge import LabelledData
from labelleak.core.training import LocalTraining
from labelleak.errors import BadInput
from labelleak.files.truth import labels_in, read_many, read_maps, read_truth
from labelleak.records.record import read_records
from labelleak.simulation.data.given import dataset_of

LABELS = [0, 0, 0, 2, 2, 3, 3]
COUNTS = (3, 0, 2, 2)


def told_of(batch_size=7, **more):
    return LocalTraining(batch_size=batch_size, **more)


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 4))


def gradient_of(model, labels=LABELS):
    x = torch.rand(len(labels), 6, generator=torch.Generator().manual_seed(3))
    loss = F.cross_entropy(model(x), torch.tensor(labels))
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def auxiliary():
    rng = torch.Generator().manual_seed(4)
    return LabelledData(torch.rand(80, 6, generator=rng), torch.arange(80) % 4)


def stepped(model, lr=0.1):
    before = model.state_dict()
    return before, {n: before[n] - lr * g for n, g in gradient_of(model).items()}


def test_both_forms_give_the_same_answers():
    model = build()
    before, after = stepped(model)
    told = {"truth": LABELS, "attacks": ["llg", "row_min", "llbg"]}
    one = attack_update(gradient=gradient_of(model), made=told_of(), **told)
    two = attack_update(before=before, after=after, made=told_of(lr=0.1), **told)
    assert [r.counts for r in one.results] == [r.counts for r in two.results]
    assert all(sum(r.counts) == 7 for r in one.results)
    assert one.head == two.head == "2"
    assert one.truth.counts.tolist() == list(COUNTS)


def test_labels_and_counts_score_alike():
    given = {
        "gradient": gradient_of(build()),
        "made": told_of(),
        "attacks": ["llg"],
    }
    scores = [
        attack_update(**given, truth=truth).results[0].asr
        for truth in (LABELS, {"counts": COUNTS}, {"labels": LABELS}, list(COUNTS))
    ]
    assert len(set(scores)) == 1
    assert scores[0] > 0.5


def test_a_white_box_attacker_with_data_finds_the_counts():
    model = build()
    report = attack_update(
        gradient=gradient_of(model),
        made=told_of(),
        model=model,
        auxiliary=auxiliary(),
        truth=LABELS,
        attacks=["ilrg", "llg_plus"],
    )
    assert {r.threat_model for r in report.results} <= {"model", "auxiliary"}
    assert max(r.asr for r in report.results) > report.asr_free
    assert report.model == "Sequential"


def test_an_attack_that_gives_probabilities_says_what_it_expects(capsys):
    data = auxiliary()
    noisy = {
        n: g + 0.1 * torch.randn(g.shape, generator=torch.Generator().manual_seed(1))
        for n, g in gradient_of(build()).items()
    }
    given = {"gradient": noisy, "made": told_of(), "model": build()}
    attacks = ["shadow", "llg"]
    report = attack_update(**given, auxiliary=data, truth=LABELS, attacks=attacks)
    shadow, llg = report.results
    assert 0 < shadow.expected_asr <= 1
    assert all(0 <= chance <= 1 for chance in shadow.confidence)
    assert min(shadow.confidence) > 0  # not scaled to this update's range
    assert llg.expected_asr is None
    known, blind = report.records(keep_counts=True), report.records()
    assert known[0].extra["expected_asr"] == blind[0].extra["expected_asr"] == shadow.expected_asr
    assert known[0].extra["presence_chances"] == list(shadow.confidence)
    assert "presence_chances" not in blind[0].extra
    assert "expected_asr" not in known[1].extra
    _show(report, None, None)
    said = capsys.readouterr().out
    assert "expected" in said
    assert f"{shadow.expected_asr:.1%}" in said


def test_an_unknown_size_is_read_off_the_update_where_the_model_is_held():
    model = build()
    report = attack_update(
        gradient=gradient_of(model), model=model, auxiliary=auxiliary(), attacks=["llbg"]
    )
    assert report.estimated.num_samples == report.num_samples == 7
    assert "7 labels were read off the bias gradient, with confidence" in report.notes[0]
    assert report.to_json()["estimated"]["num_samples"] == 7
    assert sum(report.results[0].counts) == 7


def test_without_the_model_an_unknown_size_cannot_be_told_and_it_is_said_why():
    with pytest.raises(BadInput, match=r"give `batch_size`: .* does not tell it without the model"):
        attack_update(gradient=gradient_of(build()), attacks=["row_min", "llg"])


def test_momentum_that_was_taken_out_is_a_note_and_no_flag():
    before, after = stepped(build())
    made = LocalTraining(batch_size=7, lr=0.1, momentum=0.9)
    report = attack_update(before=before, after=after, made=made, attacks=["llg"])
    assert report.checked["momentum"]["state"] == "repaired"
    assert "momentum 0.9 was taken out" in report.notes[-1]
    raw = attack_update(gradient=gradient_of(build()), made=made, attacks=["llg"])
    assert raw.checked["momentum"]["failed"]


def test_the_scheme_sets_the_guess_without_the_update():
    given = {
        "gradient": gradient_of(build()),
        "made": told_of(8),
        "attacks": ["llg"],
    }
    plain = attack_update(**given)
    skewed = attack_update(**given, scheme="unbalanced")
    assert plain.asr_free != skewed.asr_free
    with pytest.raises(BadInput, match="needs a pool"):
        attack_update(**given, scheme="natural")


def test_the_guess_gains_nothing_over_itself_though_it_is_lucky(capsys):
    given = {"gradient": gradient_of(build(), [0, 1, 2, 3]), "made": told_of(4)}
    found = attack_update(**given, truth=[0, 1, 2, 3], attacks=["free", "llg"])
    guess, other = found.results
    assert (guess.asr, guess.advantage, found.asr_of_guess) == (1.0, 0.0, 1.0)
    assert other.advantage == pytest.approx((other.asr - found.asr_free) / (1 - found.asr_free))
    _show(found, None, None)
    assert "Of this batch it names 100.0%" in capsys.readouterr().out


def test_dlg_takes_the_whole_gradient():
    model = build()
    report = attack_update(
        gradient=gradient_of(model, [2]),
        made=LocalTraining(batch_size=1),
        model=model,
        auxiliary=auxiliary(),
        truth=[2],
        attacks=["dlg"],
    )
    assert report.results[0].counts == (0, 0, 1, 0)


def test_attacks_on_all_layers_read_a_pair_and_a_difference_as_they_read_a_gradient():
    model = build()
    before, after = stepped(model)
    told = {"attacks": ["gdbr", "layer_regression"], "model": model, "auxiliary": auxiliary()}
    one = attack_update(gradient=gradient_of(model), made=told_of(), **told)
    moved = {name: after[name] - before[name] for name in before}
    pairs = ({"before": before, "after": after}, {"difference": moved})
    for given in pairs:
        two = attack_update(**given, made=told_of(lr=0.1), **told)
        assert [r.counts for r in one.results] == [r.counts for r in two.results]
        assert len(two.results) == 2
    part = {name: value for name, value in moved.items() if name.startswith("2.")}
    with pytest.raises(BadInput, match="needs the gradient of every parameter"):
        attack_update(difference=part, made=told_of(lr=0.1), **told)


def test_without_a_bias_the_attacks_on_it_say_so():
    weight = {"weight": gradient_of(build())["2.weight"]}
    report = attack_update(gradient=weight, made=told_of(), attacks=["llg", "llbg"])
    assert [r.attack for r in report.results] == ["llg"]
    assert "bias" in report.not_applicable["llbg"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "in one form"),
        ({"before": {}}, "in one form"),
        ({"gradient": {"w": torch.zeros(3)}}, "no tensor looks like a linear layer"),
        ({"gradient": {"weight": torch.ones(3, 2)}, "attacks": ["llbg"]}, "give `batch_size`"),
        ({"gradient": {"weight": torch.ones(3, 2)}, "truth": [1]}, "give `batch_size`"),
        ({"gradient": {"weight": torch.ones(3, 2)}, "attacks": []}, "at least one attack"),
    ],
)
def test_what_cannot_be_is_said(given, sentence):
    with pytest.raises(BadInput, match=sentence):
        attack_update(**given)


def test_huge_numbers_in_what_is_known_are_refused():
    with pytest.raises(BadInput, match="`lr` must be a number"):
        LocalTraining(lr=10**400)


@pytest.mark.parametrize(
    ("truth", "sentence"),
    [
        ([1, 1], "could be labels or counts"),
        ({"labels": [1], "counts": [1]}, "either"),
        ("text", "cannot read"),
        ([0.5, 1], "whole numbers"),
        ({"counts": [3, -1]}, "at least 0"),
        ({"labels": [0]}, "the update 2"),
    ],
)
def test_a_truth_that_is_none_is_said(truth, sentence):
    with pytest.raises(BadInput, match=sentence):
        read_truth(truth, num_classes=2, num_samples=2)


@pytest.mark.parametrize(
    "truth",
    [
        np.array(3),
        torch.tensor(3),
        torch.tensor([0, 1]).bfloat16(),
        b"ab",
        np.array([1, 0], dtype="m8[s]"),
        {"labels": 5},
        {"labels": {"a": 1}},
        {"labels": "ab"},
        {"counts": np.array(2)},
        {"labels": b"ab"},
    ],
    ids=str,
)
@pytest.mark.parametrize("read", [read_truth, read_maps])
def test_what_holds_no_row_of_whole_numbers_is_refused_in_words(truth, read):
    with pytest.raises(BadInput, match="the truth must be"):
        read(truth, num_classes=2, num_samples=2)


@pytest.mark.parametrize("truth", [np.array(3), b"ab", {"labels": 5}, {"labels": {"a": 1}}])
def test_labels_are_looked_for_in_rows_alone(truth):
    with pytest.raises(BadInput, match="the truth must be"):
        labels_in(truth)
    assert labels_in({"counts": 5}) is None


@pytest.mark.parametrize("truth", [[["1", "0"]], [[1, None]], [[10**40, 0]], "[[1], [0, 1]]"])
def test_rows_of_several_labels_are_numbers(truth):
    with pytest.raises(BadInput, match="rows of 0 and 1"):
        read_many(truth, num_classes=2, num_samples=1)
    assert read_many(torch.tensor([[1.0, 0.0]]).bfloat16(), 2, 1).counts.tolist() == [0, 1, 1, 0]


def test_a_head_is_found_by_shape_or_asked_for():
    layers = {"a.weight": torch.zeros(8, 4), "b.weight": torch.zeros(3, 8)}
    assert locate_head(layers).name == "b"
    assert locate_head(layers, name="a").name == "a"
    two = {**layers, "c.weight": torch.zeros(5, 8)}
    with pytest.raises(BadInput, match="several layers could be the head"):
        locate_head(two)
    assert set(torch_form({"0": torch.zeros(3, 2), "1": torch.zeros(3)})) == {
        "0.weight",
        "0.bias",
    }


def command(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["labelleak", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert ended.value.code in (0, None), shown.err
    return shown.out


@pytest.mark.parametrize("kind", ["npz", "pt"])
def test_the_command_reads_other_formats(tmp_path, monkeypatch, capsys, kind):
    path, held = tmp_path / f"g.{kind}", gradient_of(build())
    if kind == "npz":
        np.savez(path, **{n: t.numpy() for n, t in held.items()})
    else:
        torch.save(held, path)
    out = command(
        monkeypatch,
        capsys,
        "attack",
        "--gradient",
        path,
        "--batch-size",
        7,
        "--attacks",
        "llg",
        "--json",
    )
    direct = attack_update(gradient=held, made=told_of(), attacks=["llg"])
    assert json.loads(out)["results"][0]["counts"] == list(direct.results[0].counts)


def test_what_was_learnt_is_kept_and_learning_is_told(tmp_path, monkeypatch, capsys):
    out = tmp_path / "caught"
    command(monkeypatch, capsys, "capture", "--out", out, "--model", "mlp", "--batch-size", 4)
    given = ("--gradient", out / "gradient.safetensors", "--batch-size", 4, "--model", "mlp")
    more = ("--weights", out / "before.safetensors", "--auxiliary", "digits", "--json")
    answers, told = [], []
    for _ in range(2):
        argv = ["attack", *given, *more, "--attacks", "shadow", "--learnt", tmp_path / "learnt"]
        monkeypatch.setattr(sys, "argv", ["labelleak", *map(str, argv)])
        with pytest.raises(SystemExit):
            main()
        said = capsys.readouterr()
        told.append(said.err)
        (result,) = json.loads(said.out)["results"]
        answers.append({key: value for key, value in result.items() if key != "seconds"})
    assert told[0].startswith("shadow: learning from batches of its own, N = 4")
    assert told[1] == ""
    assert answers[0] == answers[1]


def test_capture_then_attack(tmp_path, monkeypatch, capsys):
    out = tmp_path / "caught"
    said = command(
        monkeypatch, capsys, "capture", "--out", out, "--model", "mlp", "--batch-size", 8
    )
    assert "labelleak attack" in said
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("before.safetensors", "after.safetensors", "gradient.safetensors"),
        *("update.safetensors", "labels.json"),
    }
    saved = tmp_path / "records.jsonl"
    update = ("--update", out / "update.safetensors", "--truth", out / "labels.json")
    said = command(
        monkeypatch, capsys, "attack", *update, "--scheme", "unbalanced", "--save", saved
    )
    assert "batches drawn unbalanced" in said
    records = read_records(saved)
    assert {r.scheme for r in records} == {"captured"}
    best = max(r.asr for r in records if r.threat_model == "update")
    assert best > records[0].asr_free


def scaled(model, times):
    return {name: times * tensor for name, tensor in gradient_of(model).items()}


def test_what_is_too_large_is_called_impossible_with_its_cause():
    report = attack_update(gradient=scaled(build(), 7 * 4), made=told_of(), attacks=["llg"])
    assert report.scale.state == "impossible"
    assert "7 samples" in report.scale.says or "largest possible" in report.scale.says
    assert "impossible_scale" in report.results[0].flags
    assert report.checked["impossible_scale"]["failed"]


def test_without_own_data_scale_and_sign_are_not_known():
    report = attack_update(gradient=scaled(build(), 0.5), made=told_of(), attacks=["llg"])
    assert (report.scale.state, report.sign.state) == ("not_known", "not_known")
    assert "below 1" in report.scale.says
    assert report.to_json()["scale"]["state"] == "not_known"


def separable(number, seed):
    """Draw inputs that tell their classes apart."""
    labels = torch.arange(number) % 4
    noise = torch.rand(number, 6, generator=torch.Generator().manual_seed(seed))
    return LabelledData(3 * F.one_hot(labels, 6) + noise, labels)


@pytest.mark.parametrize(("times", "what"), [(64, "scale"), (-1, "sign")])
def test_one_usual_cause_is_repaired_where_asked_and_else_told_alone(times, what):
    model, own, batch = build(), separable(400, 1), separable(64, 2)
    loss = times * F.cross_entropy(model(batch.inputs), batch.labels)
    names, parameters = zip(*model.named_parameters(), strict=True)
    wrong = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    given = {"made": told_of(64), "model": model, "auxiliary": own, "attacks": ["llbg"]}
    told = attack_update(gradient=wrong, **given)
    assert getattr(told, what).state in ("failed", "impossible")
    mended = attack_update(gradient=wrong, **given, scale="repair")
    assert getattr(mended, what).state == "repaired"
    assert f"divided by {times}" in mended.scale.says
    assert "lower bound" in mended.scale.says
    assert mended.checked["unlikely_scale"]["state"] == "repaired"
    right = attack_update(
        gradient={n: t / times for n, t in wrong.items()}, **given, scale="repair"
    )
    assert right.scale.state == "held"
    assert right.results[0].counts == mended.results[0].counts != told.results[0].counts


def test_what_nobody_told_of_the_training_is_not_known():
    untold = attack_update(gradient=gradient_of(build()), made=told_of(), attacks=["llg"]).checked
    told = told_of(
        optimiser="sgd",
        momentum=0.0,
        clip_norm=float("inf"),
        label_smoothing=0.0,
        class_weights=(),
        local_steps=1,
    )
    held = attack_update(gradient=gradient_of(build()), made=told, attacks=["llg"]).checked
    for name in (
        "momentum",
        "adaptive_optimiser",
        "gradient_clipping",
        "label_smoothing",
        "class_weights",
        "several_local_steps",
    ):
        assert (untold[name]["state"], untold[name]["figure"]) == ("not_known", None), name
        assert held[name]["state"] == "held", name
    assert not untold["label_smoothing"]["failed"]


def test_only_what_was_checked_is_said_to_hold(capsys):
    _show(
        attack_update(gradient=gradient_of(build()), made=told_of(), attacks=["llbg"]), None, None
    )
    said = capsys.readouterr().out
    checked = next(line for line in said.splitlines() if line.startswith("Assumptions checked"))
    unknown = next(line for line in said.splitlines() if line.startswith("Not known"))
    for name in ("gradient_clipping", "label_smoothing", "class_weights"):
        assert name not in checked
        assert name in unknown
    assert "Scale: not known" in said
    above = said[: said.index("attacker holds")]
    assert "Not verified: scale and sign, taken as told; the loss: a plain cross-entropy" in above
    # Options are spelled as on the command line where a command ran before in this process.
    spelled = above.replace("--class-weights", "`class_weights`")
    spelled = " ".join(spelled.replace("--label-smoothing", "`label_smoothing`").split())
    assert "`class_weights` and `label_smoothing` not told" in spelled


def test_a_loss_that_was_told_is_not_said_to_be_assumed():
    for told, left in (((), "`label_smoothing`"), (None, "`class_weights`")):
        smoothing = None if told == () else 0.0
        made = told_of(class_weights=told, label_smoothing=smoothing)
        report = attack_update(gradient=gradient_of(build()), made=made, attacks=["llbg"])
        assert report.assumed_loss == f"a plain cross-entropy was assumed ({left} not told)"
        assert report.to_json()["assumed_loss"] == report.assumed_loss
    made = told_of(class_weights=(), label_smoothing=0.0)
    assert not attack_update(
        gradient=gradient_of(build()), made=made, attacks=["llbg"]
    ).assumed_loss


def test_true_labels_that_the_update_cannot_be_of_are_said():
    for truth, wrong in ((LABELS, False), ([max(LABELS)] * len(LABELS), True)):
        report = attack_update(
            gradient=gradient_of(build()), made=told_of(), attacks=["llbg"], truth=truth
        )
        assert ("labels_inconsistent" in report.disbelief) == wrong
        assert report.checked.get("labels_inconsistent", {}).get("failed", False) == wrong


def test_records_say_how_scale_and_sign_stand():
    report = attack_update(
        gradient=gradient_of(build()), made=told_of(), attacks=["llg"], truth=LABELS
    )
    assert report.records()[0].extra["scale"] == "not_known"


def test_an_update_that_no_attack_can_read_is_refused_with_the_reason():
    weight = torch.tensor([[-0.5, -0.5], [0.25, 0.25], [0.25, 0.25]])
    made = LocalTraining(batch_size=4, class_weights=(1.0, 2.0, 3.0))
    with pytest.raises(BadInput, match="without the bias or the model"):
        attack_update(gradient={"fc.weight": weight}, made=made, attacks=["llg"])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"made": {"batch_size": 7}}, "`made` takes a labelleak.LocalTraining"),
        ({"gradient": torch.rand(4, 8)}, "by name, as in .* not as Tensor"),
        ({"gradient": 5}, "not as int"),
        ({"gradient": nn.Linear(2, 4)}, "`gradient` takes no module"),
        ({"captured": nn.Linear(2, 4), "gradient": None}, "`labelleak.capture` caught"),
        (
            {"attacks": "llg,lgl"},
            "unknown attack 'lgl'; did you mean 'llg'. Known: standard, rules",
        ),
        ({"attacks": ()}, "or standard, or rules"),
        ({"truth": 5}, "the truth must be labels or counts"),
        ({"truth": "[0, 1"}, "the text of the truth"),
        ({"model": 5}, "not int"),
        ({"scale": "x"}, "unknown scale"),
        ({"num_samples": None}, "^give `batch_size`: .* `model` and `auxiliary`"),
    ],
)
def test_what_python_cannot_take_is_refused_in_a_sentence(given, sentence):
    usual = {"gradient": gradient_of(build()), "num_samples": 7, "attacks": ["llg"]}
    with pytest.raises(BadInput, match=sentence):
        attack_update(**{**usual, **given})


def test_modules_are_taken_for_their_weights_and_a_text_of_json_for_a_truth():
    model = build()
    before, after = stepped(model)
    moved = build()
    moved.load_state_dict(after)
    named = {"made": told_of(lr=0.1), "truth": str(LABELS), "attacks": "llg, llbg"}
    one = attack_update(before=model, after=moved, **named)
    two = attack_update(before=before, after=after, **named)
    assert [r.attack for r in one.results] == ["llg", "llbg"]
    assert [r.counts for r in one.results] == [r.counts for r in two.results]
    assert tuple(one.truth.counts) == COUNTS


def test_the_last_line_names_the_rows_to_read(capsys):
    told = {"made": told_of(momentum=0.9), "attacks": ["llg", "llbg"]}
    _show(attack_update(gradient=gradient_of(build()), **told), None, None)
    assert "each assumes something that failed" in capsys.readouterr().out.splitlines()[-1]
    told = {"made": told_of(), "attacks": ["llg", "idlg"], "num_samples": None}
    _show(attack_update(gradient=gradient_of(build()), **told), None, None)
    assert capsys.readouterr().out.splitlines()[-1].startswith("Which row to read: ")


def test_own_tables_are_taken_as_the_model_behind_the_update_is_fed():
    x, y = load_digits(return_X_y=True)
    torch.manual_seed(0)
    model = nn.Linear(64, 10)
    batch, labels = torch.tensor(x[:64], dtype=torch.float32), torch.tensor(y[:64])
    named = dict(model.named_parameters())
    loss = F.cross_entropy(model(batch), labels)
    gradient = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
    data = dataset_of((x[64:], y[64:]))

    def scale_by(own, tables=None):
        return attack_update(
            gradient=gradient,
            model=model,
            auxiliary=own,
            tables=tables,
            attacks=["rlu"],
            made=LocalTraining(batch_size=64),
        ).scale

    given = scale_by((x[64:], y[64:]))
    assert given == scale_by(LabelledData(data.given[0], data.y_train))
    assert given == scale_by(data)
    assert scale_by(data, "standardised") == scale_by(LabelledData(data.x_train, data.y_train))
    assert scale_by(data, "standardised") != given


def test_another_form_of_tables_is_refused_with_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'standardised'"):
        attack_update(gradient={"fc.weight": torch.ones(2, 2)}, tables="standardized")
