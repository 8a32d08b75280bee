"""One update of a language model under attack: whatever it returns, however its head is tied."""

import json

import numpy as np
import pytest
import torch

from core.token_models import GPT, LSTM, TOKENS, gradients, texts
from labelleak.audits.one_update import attack_update
from labelleak.audits.update_prior import BY_TEXT, DRAWN_BY
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.task import Task, logits_of, next_tokens
from labelleak.core.white_box import WhiteBox, lift, shared_names
from labelleak.errors import BadInput
from labelleak.simulation.gradients import autograd_gradients

OWN = texts(50, rows=60)


def labels_of(ids):
    return ids[:, 1:].flatten().tolist()


def found(client, ids, attacks=("row_energy",), **more):
    told = {"num_samples": ids[:, 1:].numel(), "truth": labels_of(ids), "task": "tokens", **more}
    return attack_update(gradient=gradients(client, ids), attacks=list(attacks), **told)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("conv", [False, True])
def test_tokens_of_an_untrained_model_are_named_with_and_without_the_model(tied, conv):
    model, ids = GPT(tied=tied, conv=conv), texts(1)
    alone = found(model, ids)
    whole = found(model, ids, model=model, auxiliary=LabelledData(OWN, OWN))
    assert alone.results[0].asr == whole.results[0].asr > 0.6
    assert alone.task == "tokens"
    assert any("tied" in note for note in alone.notes) == tied
    assert any("tied" in note for note in whole.notes) == tied


def test_positions_without_a_label_do_not_count():
    model, ids = GPT(), texts(2)
    labels = ids.clone()
    labels[:, 10:] = -100
    held = labels[:, 1:]
    report = attack_update(
        gradient=gradients(model, ids, labels),
        num_samples=int((held >= 0).sum()),
        truth={"labels": held.flatten().tolist()},
        attacks=["row_energy"],
        task="tokens",
    )
    assert report.truth.counts.sum() == int((held >= 0).sum())
    assert report.results[0].asr > 0.6


@pytest.mark.parametrize("model", [GPT(scale=0.25), LSTM()])
def test_the_gradient_of_the_lifted_model_is_the_clients(model):
    ids = texts(3)
    head = "lm_head" if isinstance(model, GPT) else "out"
    box = WhiteBox(lift(model, Task.tokens), head)
    data = LabelledData(ids, next_tokens(ids, ids))
    seen = autograd_gradients(box, data, np.arange(len(ids))[None])
    assert torch.allclose(seen.weight[0], gradients(model, ids)[f"{head}.weight"], atol=1e-6)
    one = box.run(ids)
    assert one.inputs.shape[0] == one.probabilities.shape[0] == ids.numel()
    assert torch.allclose(one.probabilities.sum(1), torch.ones(ids.numel()), atol=1e-5)


def test_dummies_of_a_token_model_are_tokens():
    box = WhiteBox(lift(GPT(), Task.tokens), "lm_head")
    assert box.run(5 * torch.randn(3, 9)).inputs.shape == (27, 24)


def test_own_texts_are_thinned_before_their_logits_fill_memory(monkeypatch):
    monkeypatch.setattr("labelleak.core.knowledge.MOST_ENTRIES", 5 * 17 * TOKENS)
    box = WhiteBox(lift(GPT(), Task.tokens), "lm_head")
    seen, labels = Knowledge(box, auxiliary=LabelledData(OWN, next_tokens(OWN, OWN))).pass_own()
    assert len(seen.inputs) == len(labels) == 5 * 16


def test_a_weight_that_is_shared_is_known_under_every_name():
    assert shared_names(GPT(tied=True)) == [["wte.weight", "lm_head.weight"]]
    assert shared_names(GPT()) == []


def test_outputs_without_logits_are_refused():
    assert logits_of((None, torch.zeros(1, 2, 3))).shape == (1, 2, 3)
    for wrong in (torch.zeros(2, 3), {"loss": torch.tensor(1.0)}, "text", (1, 2)):
        with pytest.raises(BadInput, match="texts x positions x tokens"):
            logits_of(wrong)


def test_only_labels_that_are_the_inputs_are_moved():
    ids = texts(4)
    assert torch.equal(next_tokens(ids, ids)[:, :-1], ids[:, 1:])
    right = next_tokens(ids, ids)
    assert torch.equal(next_tokens(ids, right), right)
    padded = ids.clone()
    padded[:, 12:] = -100
    assert (next_tokens(ids, padded)[:, 11:] == -100).all()


def test_a_prior_makes_the_guess_without_the_update_honest(tmp_path):
    model, ids = GPT(), texts(7)
    alone = found(model, ids, ["free"])
    assert any("overstated" in note for note in alone.notes)
    assert (alone.scheme, alone.asr_free) == ("iid", pytest.approx(alone.asr_free))
    often = np.bincount(OWN.flatten().numpy(), minlength=TOKENS).tolist()
    file = tmp_path / "often.json"
    file.write_text(json.dumps(often))
    told = found(model, ids, ["free"], prior=str(file))
    text = found(model, ids, ["free"], model=model, auxiliary=LabelledData(OWN, OWN))
    assert (told.scheme, text.scheme) == (DRAWN_BY, BY_TEXT)
    assert min(told.asr_free, text.asr_free) > alone.asr_free + 0.2
    assert told.results[0].asr > alone.results[0].asr
    assert not any("overstated" in note for note in (*told.notes, *text.notes))
    with pytest.raises(BadInput, match="3 frequencies"):
        found(model, ids, ["free"], prior=[1, 2, 3])


def test_attacks_on_text_go_with_the_standard_battery():
    model, ids = GPT(), texts(8)
    own = LabelledData(texts(60, rows=200), texts(60, rows=200))
    report = found(model, ids, ["rules"], model=model, auxiliary=own)
    assert "token_posterior" not in {one.attack for one in report.results}
    report = found(model, ids, ["standard"], model=model, auxiliary=own)
    best = {one.attack: one for one in report.results}["token_posterior"]
    assert "row_energy" in {one.attack for one in report.results}
    assert best.asr > 0.9
    assert best.expected_asr == pytest.approx(best.asr, abs=0.1)
