"""Audits of language models: texts from files, honest guesses, bands of words, and refusals."""

import json

import numpy as np
import pytest
import torch

from core.token_models import GPT, texts
from labelleak import audit
from labelleak.attacks.catalogue import TOKEN_BATTERY
from labelleak.audits.options import AuditOptions
from labelleak.audits.plan import plan_audit
from labelleak.errors import BadInput
from labelleak.records.text import BANDS

SMALL = {
    "task": "tokens",
    "trials": 2,
    "initialisations": 1,
    "training_steps": 0,
    "sequence_length": 16,
    "vocabulary": 60,
    "batch_sizes": 4,
    "seed": 1,
}


def rows(found):
    return [vars(record) | record.extra for record in found.records]


@pytest.mark.parametrize("model", ["gpt2-small", "gpt2-untied", "llama-small", "lstm"])
def test_every_language_model_is_audited(news, model):
    found = rows(audit(data=news, model=model, **SMALL))
    best = {row["attack"]: row for row in found}
    assert set(TOKEN_BATTERY) == set(best)
    assert best["token_posterior"]["asr"] > best["free"]["asr_free"] + 0.05
    assert {(row["task"], row["num_samples"], row["num_classes"]) for row in found} == {
        ("tokens", 64, 60)
    }
    assert all(row["model_loss"] > 3 and row["scheme"] == "natural" for row in found)


def test_records_tell_common_and_rare_words_apart(news):
    found = rows(audit(data=news, model="lstm", keep_counts=True, **SMALL))
    for row in found:
        assert sum(row["band_labels"]) == row["num_samples"]
        assert sum(row["band_named"]) == pytest.approx(row["asr"] * row["num_samples"])
        special = row["band_labels"][BANDS.index("special")]
        assert special == sum(row["true_counts"][:2])
        recall, precision = row["presence_recall"], row["presence_precision"]
        f1 = 2 * recall * precision / (recall + precision)
        assert row["presence_f1"] == pytest.approx(f1, abs=1e-4)


def test_steps_optimisers_defenses_and_several_clients(news, tmp_path):
    some = {**SMALL, "attacks": ("free", "row_energy", "token_posterior")}
    found = rows(
        audit(
            data=news,
            model="gpt2-small",
            local_steps=(1, 2),
            clients=(1, 2),
            defenses=("none", "gaussian:0.001", "clip:0.1", "dpsgd:1:1"),
            out=tmp_path,
            **some,
        )
    )
    assert {row["num_samples"] for row in found} == {64, 128, 256}
    assert all("asr_client" in row for row in found if row["clients"] == 2)
    assert "tokens" in (tmp_path / "records.jsonl").read_text()
    adamw = rows(audit(data=news, model="lstm", optimiser="adamw", lr=0.001, **some))
    assert all("adaptive_optimiser" in r["flags"] for r in adamw if r["attack"] != "free")


def test_the_guess_without_the_update_is_that_of_own_text(news):
    plain = plan_audit(AuditOptions(data=news, model="lstm", **SMALL))
    own, victims = plain.roles.auxiliary, plain.roles.victims
    assert own.inputs.dtype == torch.int64
    assert not {tuple(r) for r in own.inputs.tolist()} & {tuple(r) for r in victims.inputs.tolist()}
    found = rows(audit(data=news, model="lstm", **{**SMALL, "trials": 40, "attacks": "free"}))
    assert np.mean([r["asr"] for r in found]) == pytest.approx(found[0]["asr_free"], abs=0.03)


def test_own_text_may_be_little_or_of_another_source(news, tmp_path):
    other = tmp_path / "other.jsonl"
    lines = [json.dumps({"text": f"w{k % 7} strange w1 w{k % 3}"}) for k in range(300)]
    other.write_text("\n".join(lines))
    plan = plan_audit(
        AuditOptions(data=news, model="lstm", own_text=str(other), auxiliary_size=5, **SMALL)
    )
    assert len(plan.roles.auxiliary) == 5
    assert plan.text_keys == {"tokens": "words", "sequence_length": 16, "own_text": "other.jsonl"}
    assert (plan.roles.auxiliary.labels == 0).any()


def test_a_model_of_ones_own_that_is_tied_and_returns_objects(news):
    found = rows(audit(data=news, model=GPT(tied=True, tokens=60), **SMALL))
    assert {row["head"] for row in found} <= {"lm_head", "wte"}
    assert max(r["asr"] for r in found) > found[0]["asr_free"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model": "cnn"}, "cnn is no model of tokens"),
        ({"schemes": "iid"}, "natural"),
        ({"activation": "relu"}, "activation"),
        ({"tokenizer": "nowhere.json"}, "labelleak|nowhere"),
        ({"data": "digits", "task": None}, "lstm is no model of classes"),
        ({"own_text": "nowhere.txt"}, "no file"),
        ({"sequence_length": 3000}, "too little text"),
        ({"task": "classes"}, "has tokens, so its task is not classes"),
    ],
)
def test_what_cannot_be_is_one_sentence(news, options, sentence):
    own = {"data": news, "model": "lstm", **SMALL, **options}
    with pytest.raises(BadInput, match=sentence):
        plan_audit(AuditOptions(**own))


def test_token_ids_are_taken_as_they_are(tmp_path):
    file = tmp_path / "ids.npz"
    np.savez(file, x_train=texts(1, rows=60).numpy())
    plan = plan_audit(AuditOptions(data=str(file), model="lstm", **SMALL))
    assert plan.data.num_classes == int(texts(1, rows=60).max()) + 1
    assert plan.data.x_train.shape[1] == 16
    assert plan.data.normalisation == "token ids as given"


@pytest.mark.parametrize(
    ("name", "held", "sentence"),
    [
        ("a.jsonl", '{"text": "one two"}\n[1]\n', "line 2"),
        ("a.jsonl", '{"text": 3}\n', "line 1"),
        ("a.txt", b"\xff\xfe\x00bad", "UTF-8"),
        ("a.txt", "three words only", "too little text"),
    ],
)
def test_files_without_text_are_refused(tmp_path, name, held, sentence):
    file = tmp_path / name
    file.write_bytes(held if isinstance(held, bytes) else held.encode())
    with pytest.raises(BadInput, match=sentence):
        plan_audit(AuditOptions(data=str(file), model="lstm", **SMALL))


def test_arrays_that_are_no_text_are_refused(tmp_path):
    for number, array in enumerate((np.zeros((9, 4)), np.arange(9), np.full((9, 4), -1))):
        file = tmp_path / f"{number}.npz"
        np.savez(file, x_train=array)
        with pytest.raises(BadInput, match="token ids"):
            plan_audit(AuditOptions(data=str(file), model="lstm", **SMALL))
