"""What was told of a client's training is held against its file, and what was assumed is said."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import labelleak
from labelleak.audits.one_update import attack_update
from labelleak.audits.simulated_scale import simulate_scale
from labelleak.cli import main
from labelleak.cli.attack import _show
from labelleak.core.contradictions import contradictions
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.measured import Measured
from labelleak.core.task import Task
from labelleak.core.training import LocalTraining
from labelleak.core.update import ReceivedUpdate
from labelleak.core.white_box import WhiteBox
from labelleak.errors import NotApplicable
from labelleak.records.states import is_settled

LR, SIZE, CLASSES = 0.05, 16, 10


def client(steps, lr=LR, seed=0):
    """Train a small model under a capture; give it, own data, the labels and the capture."""
    torch.manual_seed(seed)
    centres = torch.rand(CLASSES, 20)

    def draw(labels):
        return (centres[labels] + 0.3 * torch.randn(len(labels), 20)).clamp(0)

    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    own = torch.arange(400) % CLASSES
    data, labels = (draw(own), own), []
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)
    with labelleak.capture(model) as update:
        for _ in range(steps):
            batch = torch.randint(0, CLASSES, (SIZE,))
            labels += batch.tolist()
            optimiser.zero_grad()
            F.cross_entropy(model(draw(batch)), batch).backward()
            optimiser.step()
    model.load_state_dict(before)
    return model, data, labels, update


@pytest.fixture(scope="module")
def one():
    return client(1)


@pytest.fixture(scope="module")
def five():
    return client(5)


def saved(update, folder):
    return {
        "update": {"update": update.save(folder / "u.safetensors")},
        "both": {
            "before": update.save_before(folder / "b.safetensors"),
            "after": update.save_after(folder / "a.safetensors"),
        },
        "captured": {"captured": update},
        "gradient": {"gradient": update.save_gradient(folder / "g.safetensors")},
    }


@pytest.mark.parametrize("form", ["update", "both", "captured", "gradient"])
@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"lr": 0.5}, "the file says lr 0.05, 0.5 was told and taken"),
        ({"batch_size": 8}, "the file says batch_size 16, 8 was told and taken"),
        ({"local_steps": 2}, "the file says local_steps 1, 2 was told and taken"),
        ({"momentum": 0.9}, "the file says momentum 0, 0.9 was told and taken"),
    ],
)
def test_what_was_told_against_the_file_wins_and_is_in_doubt(one, form, told, words, tmp_path):
    given = saved(one[3], tmp_path)[form]
    found = attack_update(**given, made=LocalTraining(**told), attacks=["llg"])
    assert words in found.caution
    assert found.scale.state != "held"
    assert "training_contradicted" in found.results[0].flags
    assert "training_contradicted" in found.to_json()["doubts"]
    assert not is_settled({"scale": "held", "sign": "held"}, found.results[0].flags)


@pytest.mark.parametrize("form", ["update", "both", "captured", "gradient"])
def test_what_was_told_as_the_file_has_it_stays_held(one, form, tmp_path):
    given = saved(one[3], tmp_path)[form]
    for told in ({}, {"lr": LR, "batch_size": SIZE, "local_steps": 1}):
        found = attack_update(**given, made=LocalTraining(**told), attacks=["llg"])
        assert found.scale.state == found.sign.state == "held"
        assert found.caution == ""


def test_a_number_of_labels_that_the_file_contradicts_is_named(one, tmp_path):
    given = saved(one[3], tmp_path)["update"]
    found = attack_update(**given, num_samples=40, attacks=["llg"])
    assert "the file says 16 labels in all, 40 were told and taken" in found.caution
    assert attack_update(**given, num_samples=16, attacks=["llg"]).caution == ""


def test_two_files_that_contradict_each_other_are_named(one, tmp_path):
    given = saved(one[3], tmp_path)["both"]
    other = tmp_path / "other"
    other.mkdir()
    other = saved(client(1, lr=0.1)[3], other)["both"]
    found = attack_update(before=given["before"], after=other["after"], attacks=["llg"])
    assert "a file says lr" in found.caution


def test_what_says_the_same_is_no_contradiction():
    plain = [LocalTraining(class_weights=(), pos_weight=(2.0,), lr=0.1, optimiser="sgd")]
    told = LocalTraining(class_weights=(1.0, 1.0), pos_weight=(2.0, 2.0), lr=0.1 + 1e-12)
    assert contradictions(told, plain) == ()
    assert contradictions(LocalTraining(pos_weight=()), plain) != ()
    assert contradictions(LocalTraining(optimiser="adam"), plain) != ()
    share = Measured(gradient_scale=0.25)
    assert "0.25" in contradictions(LocalTraining(loss_share=0.5), [], share)[0]
    assert contradictions(LocalTraining(loss_share=0.25), [], share) == ()


def test_steps_that_nobody_told_are_taken_as_one_and_said(five):
    _, _, _, update = five
    sides = {"before": update.before, "after": update.after}
    moved = {name: update.after[name] - update.before[name] for name in update.after}
    told = LocalTraining(lr=LR, batch_size=SIZE)
    for given in (sides, {"difference": moved}, {"before": update.before, "difference": moved}):
        found = attack_update(**given, made=told, attacks=["llg"])
        assert "number of local steps was not told" in found.caution
        assert {"steps_unknown"} == {*found.to_json()["doubts"]}
        assert found.scale.says.startswith("one local step was assumed")
        known = attack_update(**given, made=replace(told, local_steps=5), attacks=["llg"])
        assert "steps_unknown" not in known.doubts
    gradient = attack_update(gradient=update.gradient, made=told, attacks=["llg"])
    assert gradient.doubts == ()  # one by nature


def test_the_command_says_both_above_its_table(one, tmp_path, monkeypatch, capsys):
    def printed(*words):
        monkeypatch.setattr("sys.argv", ["labelleak", "attack", *map(str, words)])
        with pytest.raises(SystemExit, match="0"):
            main()
        return capsys.readouterr().out

    file = one[3].save(tmp_path / "u.safetensors")
    said = printed("--update", file, "--lr", 0.5, "--attacks", "llg")
    assert said.index("Caution: the file says lr 0.05, 0.5 was told") < said.index("labels guessed")
    for side in ("before", "after"):
        save_file(getattr(one[3], side), tmp_path / side)
    words = ["--before", tmp_path / "before", "--after", tmp_path / "after", "--lr", LR]
    said = printed(*words, "--batch-size", 16, "--attacks", "llg")
    assert "1 local step (assumed)" in said
    assert said.index("give --local-steps") < said.index("labels guessed")
    told = json.loads(printed(*words, "--batch-size", 16, "--attacks", "llg", "--json"))
    assert told["doubts"] == ["steps_unknown"]


def test_what_a_capture_measured_stays_held_where_own_data_cannot_tell(five, one):
    model, data, _, update = five
    known = {"model": model, "auxiliary": data, "attacks": ["llbg"]}
    found = attack_update(update, **known)
    assert found.scale.state == found.sign.state == "held"
    assert "the capture measured" in found.scale.says
    assert "unlikely_scale" not in found.doubts
    model, data, _, update = one
    wrong = LocalTraining(lr=LR * 20)
    found = attack_update(update, made=wrong, model=model, auxiliary=data, attacks=["llbg"])
    assert found.scale.state == "failed"  # which own data contradict


def shown(capsys, **given):
    """Print an answer as the command does; give its lines."""
    _show(attack_update(**given), None, None)
    return capsys.readouterr().out.splitlines()


def test_of_weights_the_rate_and_the_steps_are_asked_for_first(one, five):
    for steps, (_, _, _, update) in ((1, one), (5, five)):
        given = {"before": update.before, "after": update.after, "attacks": ["llbg"]}
        small = LocalTraining(lr=LR / 10, batch_size=SIZE, local_steps=steps)
        found = attack_update(**given, made=small).scale.says
        asked = f"is the learning rate told too small, or were there more local steps than {steps}?"
        assert asked in found
        assert "divide the gradient" not in found
    model, data, _, update = one
    given = {"before": update.before, "after": update.after, "attacks": ["llbg"]}
    large = LocalTraining(lr=LR * 10, batch_size=SIZE, local_steps=1)
    found = attack_update(**given, made=large, model=model, auxiliary=data).scale.says
    assert ": the learning rate or the number of local steps told wrongly" in found
    summed = {name: value * SIZE for name, value in update.gradient.items()}
    found = attack_update(gradient=summed, made=LocalTraining(batch_size=SIZE), attacks=["llbg"])
    assert "times the largest possible: is the loss summed" in found.scale.says


def test_what_own_data_cannot_tell_has_no_infinite_figures(five, capsys):
    model, data, _, update = five
    known = {"before": update.before, "after": update.after, "model": model, "auxiliary": data}
    made = LocalTraining(lr=LR, batch_size=SIZE, local_steps=5)
    said = "\n".join(shown(capsys, **known, made=made, attacks=["soft_label_shares"]))
    assert "inf" not in said.split("Scale: ")[1].split("Sign: ")[0]


def test_the_last_line_does_not_reassure_where_something_was_taken_as_told(five, one, capsys):
    update = five[3]
    both = {"before": update.before, "after": update.after}
    made = LocalTraining(lr=LR, batch_size=SIZE, local_steps=5)
    last = shown(capsys, **both, made=made, attacks=["llbg", "llg"])[-2:]
    assert "since each assumes one step" in " ".join(last)
    moved = {"before": one[3].before, "after": one[3].after}
    made = replace(made, local_steps=1)
    last = " ".join(shown(capsys, **moved, made=made, attacks=["llbg", "llg"])[-2:])
    assert "nothing that could be checked of what any of them assumes failed" in last
    assert "scale and sign were taken as told" in last
    last = " ".join(shown(capsys, captured=one[3], attacks=["llbg", "llg"])[-2:])
    assert "nothing that any of them assumes failed; an audit" in last


def test_what_concerns_no_row_is_said_without_advice(five, capsys):
    model, data, _, update = five
    known = {"captured": update, "model": model, "auxiliary": data}
    said = shown(capsys, **known, attacks=["interpolation", "soft_label_shares"])
    line = " ".join(said)
    assert "did not hold, and no row assumes it: several_local_steps" in line
    assert "use interpolation" not in line


def told_as(five, lr, *, turned=False):
    """Attack five steps of a client that is held, told with a learning rate; give the answer."""
    model, data, _, update = five
    first, last = (update.after, update.before) if turned else (update.before, update.after)
    made = LocalTraining(lr=lr, batch_size=SIZE, local_steps=5)
    given = {"before": first, "after": last, "model": model, "auxiliary": data}
    return attack_update(**given, made=made, attacks=["interpolation", "soft_label_shares"])


def test_a_wrong_rate_over_several_steps_is_seen_by_clients_that_are_simulated(five):
    right = told_as(five, LR)
    assert right.scale.state == "not_known"
    assert right.sign.state == "held"
    assert right.scale.low < 1 < right.scale.high
    assert "unlikely_scale" not in right.doubts
    for lr in (LR * 10, LR / 5):
        wrong = told_as(five, lr)
        assert wrong.scale.state == "failed"
        assert wrong.sign.state == "held"
        assert "unlikely_scale" in wrong.disbelief
    large = told_as(five, LR * 10).scale
    assert large.factor == pytest.approx(0.1, rel=0.3)


def test_weights_the_wrong_way_round_are_seen_by_clients_that_are_simulated(five):
    turned = told_as(five, LR, turned=True)
    assert turned.sign.state == "failed"
    assert "unlikely_scale" in turned.disbelief
    assert "the sign turned round" in turned.scale.says


def test_clients_that_cannot_be_simulated_tell_nothing(five):
    model, data, _, update = five
    known = Knowledge(WhiteBox(model, "2"), auxiliary=LabelledData(*data))
    seen = ReceivedUpdate(update.before, update.after, training=update.made, task=Task.classes)
    seen = seen.observe("2")
    for how, why in (
        (None, "its learning rate"),
        (replace(update.made, optimiser="adam"), "of SGD"),
        (replace(update.made, lr=1e9), "simulated on own data"),
    ):
        with pytest.raises(NotApplicable, match=why):
            simulate_scale(seen, replace(known, training=how))
    with pytest.raises(NotApplicable, match="with the model and data"):
        simulate_scale(seen, replace(known, training=update.made, model=None))


def test_true_labels_unlike_the_scheme_are_named(one):
    update = one[3]
    few, even = [0] * 5 + [1] * 4 + [2] * 4 + [3] * 3, [*range(10), 0, 1, 2, 3, 4, 5]

    def caution(truth, **more):
        return attack_update(update, truth=truth, attacks=["free", "llg"], **more).caution

    assert caution([0] * 14 + [1, 2]).startswith("the true labels are unlike a batch drawn iid")
    assert caution([0] * 14 + [1, 2], scheme="unbalanced") == ""
    assert caution(even) == ""
    wide = attack_update(
        gradient={name: value * 0.9 for name, value in update.gradient.items()},
        made=LocalTraining(batch_size=100),
        truth=few * 6 + [0] * 4,
        attacks=["free"],
    )
    assert "give `scheme` unbalanced" in wide.caution
