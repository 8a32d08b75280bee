"""An update that was told to be what it is not is refused, or nobody is told to believe it."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from labelleak.audits.one_update import attack_update
from labelleak.cli import main
from labelleak.core.knowledge import LabelledData
from labelleak.core.training import LocalTraining
from labelleak.errors import BadInput
from labelleak.records.states import is_settled
from labelleak.simulation.user_models import name_factory

MADE = LocalTraining(batch_size=8, lr=0.1, local_steps=1)


@pytest.fixture(scope="module")
def client():
    """Make a model with weights before and after one step, and the step's gradient."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 6))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    F.cross_entropy(model(torch.rand(8, 20)), torch.arange(8) % 6).backward()
    gradient = {name: value.grad.clone() for name, value in model.named_parameters()}
    after = {name: before[name] - 0.1 * gradient[name] for name in before}
    return model, before, after, gradient


def fresh():
    return nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 6))


def attacked(**given):
    return attack_update(**given, made=MADE, attacks=["llg", "llbg"])


def test_weights_given_as_a_gradient_or_a_difference_are_refused_where_the_model_is_known(client):
    model, before, after, gradient = client
    for given in ({"gradient": after}, {"difference": after}):
        with pytest.raises(BadInput, match="holds weights, not a"):
            attacked(**given, model=model)
    with pytest.raises(BadInput, match="`difference` holds weights"):
        attacked(before=before, difference=after)
    assert attacked(gradient=gradient, model=model).disbelief == ""
    moved = {name: after[name] - before[name] for name in before}
    assert attacked(before=before, difference=moved).doubts == ()


def test_weights_given_as_a_gradient_without_a_model_are_not_believed(client):
    _, _, after, gradient = client
    found = attacked(gradient=after)
    assert "no answer here is to be believed" in found.disbelief
    assert {"not_cross_entropy", "noise_dominates"} <= {*found.doubts}
    assert not is_settled({"scale": "held", "sign": "held"}, found.results[0].flags)
    assert attacked(gradient=gradient).disbelief == ""
    adam = replace(MADE, optimiser="adam")
    told = attack_update(gradient={n: g.sign() for n, g in gradient.items()}, made=adam)
    assert {"not_cross_entropy", "adaptive_optimiser"} <= {*told.doubts}
    assert told.disbelief == ""
    assert "do not believe the counts of llg, " in told.caution
    assert told.to_json()["caution"] == told.caution


def test_where_the_head_did_not_change_no_answer_is_to_be_believed(
    client, tmp_path, monkeypatch, capsys
):
    _, before, _, gradient = client
    zero = {name: torch.zeros_like(tensor) for name, tensor in gradient.items()}
    for given in ({"before": before, "after": before}, {"gradient": zero}):
        found = attacked(**given)
        assert "the head did not change at all" in found.disbelief
        assert found.doubts == ("head_unchanged",)
        assert found.scale.says == found.sign.says == "the head did not change at all"
    said = printed(zero, tmp_path, monkeypatch, capsys)
    assert said.index("Verdict: no answer here is to be believed") < said.index("labels guessed")


def test_fresh_weights_of_a_model_are_named_first_and_judge_no_sign(client):
    _, _, _, gradient = client
    own = LabelledData(torch.rand(60, 20), torch.arange(60) % 6)
    given = {"gradient": gradient, "model": name_factory(fresh), "auxiliary": own}
    found = attack_update(**given, made=MADE, attacks=["llg", "llg_plus"])
    assert "weights_assumed" in found.doubts
    assert "unlikely_scale" not in found.doubts
    assert "fresh weights" in found.caution
    assert found.scale.state == found.sign.state == "not_known"
    assert "as it was built" in found.notes[0]


def test_a_gradient_given_as_the_weights_after_is_in_doubt(client):
    _, before, after, gradient = client
    found = attacked(before=before, after=gradient)
    assert "reply_form_uncertain" in found.doubts
    assert any("do not look like weights" in note for note in found.notes)
    assert "reply_form_uncertain" not in attacked(before=before, after=after).doubts


def test_another_number_of_labels_than_the_update_shows_is_in_doubt():
    torch.manual_seed(1)
    model, inputs = (
        nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 10)),
        torch.rand(160, 20),
    )
    labels = torch.arange(160) % 9
    loss = F.cross_entropy(model(inputs[:11]), labels[:11])
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradient = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    given = {"gradient": gradient, "model": model, "attacks": ["llbg"]}
    given["auxiliary"] = LabelledData(inputs[11:], labels[11:])

    def told(number):
        found = attack_update(**given, made=LocalTraining(batch_size=number))
        return "samples_inconsistent" in found.results[0].flags, found

    wrong, found = told(18)
    assert wrong
    assert "samples_inconsistent" in found.disbelief
    assert any("looks like that of 11 labels or a multiple" in note for note in found.notes)
    assert not told(11)[0]
    assert not told(22)[0]  # every label twice gives the same gradient


def test_the_command_says_so_above_the_table(client, tmp_path, monkeypatch, capsys):
    told = printed(client[2], tmp_path, monkeypatch, capsys)
    assert told.index("Verdict: no answer here is to be believed") < told.index("llg")
    assert "weights in its place" in told


def printed(gradient, folder, monkeypatch, capsys):
    """Attack a gradient by the command; give what it prints."""
    save_file(gradient, folder / "g.safetensors")
    words = ["attack", "--gradient", str(folder / "g.safetensors"), "--batch-size", "8"]
    monkeypatch.setattr("sys.argv", ["labelleak", *words, "--attacks", "llg"])
    with pytest.raises(SystemExit, match="0"):
        main()
    return capsys.readouterr().out


def build(input_shape, num_classes):
    """Build the module of the tests as an audit asks for it."""
    torch.manual_seed(3)
    hidden = nn.Linear(*input_shape, 40)
    return nn.Sequential(hidden, nn.ReLU(), nn.Linear(40, num_classes))


def test_attack_takes_the_factory_of_an_audit_and_says_what_it_lacks(client):
    _, before, after, gradient = client
    name = f"{__name__}:build"
    with pytest.raises(BadInput, match="takes input_shape, which is not known; give `input_shape`"):
        attacked(gradient=gradient, model=name)
    own = LabelledData(torch.rand(30, 20), torch.arange(30) % 6)
    assert attacked(before=before, after=after, model=name, auxiliary=own).model == name


def test_a_file_that_is_named_alone_is_refused_with_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["labelleak", "attack", "weights.safetensors"])
    with pytest.raises(SystemExit, match="2"):
        main()
    said = capsys.readouterr().err
    assert "takes no 'weights.safetensors' by itself; name the option that it is for" in said
