"""Audits of clients that freeze parts of a language model, or train LoRA's adapters alone."""

import numpy as np
import pytest
import torch

from audits.test_text_audits import SMALL, rows
from core.token_models import GPT
from labelleak import audit
from labelleak.audits.audited_model import as_trained, find_head_of
from labelleak.audits.options import AuditOptions
from labelleak.audits.plan import plan_audit
from labelleak.audits.stage import train_stages
from labelleak.errors import BadInput
from labelleak.report.opening import say_verdict
from labelleak.report.verdict import reach_verdict
from labelleak.studies.registry import read_shipped

HEAD, BOTH = "withhold:head", "withhold:head|withhold:embedding"


def best(found, **where):
    """Return the mean ASR of each attack, over the rows that have these values."""
    kept = [row for row in rows(found) if all(row[key] == value for key, value in where.items())]
    names = dict.fromkeys(row["attack"] for row in kept)
    return {name: np.mean([r["asr"] for r in kept if r["attack"] == name]) for name in names}


def test_a_frozen_head_leaves_words_at_the_embedding_and_both_leave_what_layers_tell(news):
    found = audit(data=news, model="gpt2-untied", defenses=(HEAD, BOTH), **SMALL)
    one, two = best(found, defense=HEAD), best(found, defense=BOTH)
    assert set(one) == {"free", "input_tokens", "token_layers"}
    assert one["input_tokens"] > one["free"] + 0.05
    assert one["token_layers"] >= one["input_tokens"] - 0.02
    assert set(two) == {"free", "token_layers"}
    assert two["token_layers"] > two["free"]


def test_a_tied_head_that_is_frozen_takes_the_embedding_with_it(news):
    found = audit(data=news, model="gpt2-small", defenses=(HEAD,), **SMALL)
    assert set(best(found)) == {"free", "token_layers"}
    with pytest.raises(BadInput, match="unknown part to withhold 'embedding'"):
        audit(data=news, model="gpt2-small", defenses=("withhold:embedding",), **SMALL)


@pytest.mark.parametrize("model", ["gpt2-small", "gpt2-untied", "llama-small", "lstm"])
def test_lora_on_the_head_is_read_at_its_second_matrix(news, model):
    found = audit(data=news, model=model, lora="head:8", **SMALL)
    named = best(found)
    assert named["token_posterior"] > named["free"] + 0.05
    assert {(row["head"], row["lora"]) for row in rows(found)} == {("lm_head.lora_B", "head:8")}
    assert not any("several_heads" in row["flags"] for row in rows(found))


def test_lora_on_attention_shares_no_head_and_layers_are_read(news):
    for model in ("gpt2-small", "gpt2-untied"):  # the first has a tied head
        found = audit(data=news, model=model, lora="attention:8", **SMALL)
        assert set(best(found)) == {"free", "token_layers"}
        assert not any("several_heads" in row["flags"] for row in rows(found))
    why = rows(found)[0]["not_applicable"]
    assert "frozen, withheld or without an adapter" in why["token_posterior"]
    some = {**SMALL, "attacks": ("free", "row_energy", "token_posterior")}
    few = audit(data=news, model="gpt2-untied", lora="attention:8", **some)
    said = say_verdict(reach_verdict(few.records))
    assert "no attack could read the update of 1 case (lora attention:8)" in said


@pytest.mark.parametrize("defense", ["none", "gaussian:0.01", "clip:0.1", "dpsgd:1:1", "topk:0.5"])
@pytest.mark.parametrize("steps", [1, 2])
def test_without_a_head_every_defense_and_number_of_steps_is_audited(news, defense, steps):
    for attacks in (("free", "token_posterior"), ("free", "token_layers")):
        some = {**SMALL, "attacks": attacks, "defenses": (defense,), "local_steps": (steps,)}
        named = best(audit(data=news, model="gpt2-untied", lora="attention:4", **some))
        assert set(named) == set(attacks) - {"token_posterior"}


@pytest.mark.parametrize(
    ("model", "lora", "noise", "least"),
    [
        ("gpt2-untied", "head:4", 0.1, -0.02),
        ("gpt2-untied", None, 0.01, 0.1),
        ("gpt2-small", None, 0.01, 0.02),
    ],
)
def test_noise_is_found_where_few_words_are_rare(news, model, lora, noise, least):
    """Without its columns the posterior named fewer words than the guess."""
    some = {**SMALL, "attacks": ("free", "token_posterior"), "trials": 4, "batch_sizes": 8}
    named = best(audit(data=news, model=model, lora=lora, defenses=(f"gaussian:{noise}",), **some))
    assert named["token_posterior"] > named["free"] + least


def test_where_no_layer_can_be_read_the_verdict_says_so(news):
    found = audit(data=news, model="lstm", defenses=(BOTH,), **SMALL)
    assert set(best(found)) == {"free"}
    assert "no sign that it is safe" in say_verdict(reach_verdict(found.records))


def test_adapters_are_fresh_beside_a_base_that_was_trained(news):
    some = {**SMALL, "training_steps": (0, 3)}
    plans = [
        plan_audit(AuditOptions(data=news, model="gpt2-untied", lora=lora, **some))
        for lora in (None, "head+attention:4")
    ]
    stages = [train_stages(plan, 0, (0, 3)) for plan in plans]
    for plain, adapted in zip(*stages, strict=True):
        own = adapted.model
        held = {name.replace(".base_layer", ""): t for name, t in own.module.state_dict().items()}
        base = plain.model.module.state_dict()
        assert all(torch.equal(held[name], value) for name, value in base.items())
        assert all("lora" in name for name in own.trained)
        seconds = [one for name, one in own.trained.items() if "lora_B" in name]
        assert len(seconds) == 5
        assert not any(one.any() for one in seconds)


def test_local_steps_optimisers_and_defenses_move_adapters_alone(news):
    attacks = ("free", "token_posterior", "token_layers")
    more = {**SMALL, "attacks": attacks, "lora": "head:4", "model": "gpt2-untied"}
    defenses = ("none", "gaussian:0.01", "clip:0.1", "dpsgd:1:1")
    found = audit(data=news, local_steps=(1, 2), clients=(1, 2), defenses=defenses, **more)
    assert {row["num_samples"] for row in rows(found)} == {64, 128, 256}
    named = best(found, defense="none", local_steps=2)
    assert named["token_posterior"] > named["free"]
    adamw = audit(data=news, optimiser="adamw", lr=0.001, **more)
    assert all("adaptive_optimiser" in r["flags"] for r in rows(adamw) if r["attack"] != "free")
    assert {row["wire_bytes"] for row in rows(adamw)} == {4 * 4 * (128 + 60)}  # A and B


def test_a_model_of_ones_own_that_has_adapters_or_a_frozen_head_is_audited(news):
    options = AuditOptions(data=news, model="gpt2-untied", lora="head:4", **SMALL)
    plan, plain = plan_audit(options), GPT(tokens=60)
    own = as_trained(options, plan.data, plain)
    assert find_head_of(options, plan.data, own).name == "lm_head.lora_B"
    assert not any("lora" in name for name in plain.state_dict())
    named = best(audit(data=news, model=own, **SMALL))
    assert named["token_posterior"] > named["free"] + 0.1
    frozen = GPT(tokens=60)
    frozen.lm_head.weight.requires_grad_(False)
    standard = {**SMALL, "attacks": ("standard",)}
    assert set(best(audit(data=news, model=frozen, **standard))) == {
        "free", "input_tokens", "token_layers",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lora": "heads:8"}, "no linear layer of the model is heads"),
        ({"lora": "head"}, "PART:RANK"),
        ({"lora": "head:129"}, "rank 129, and lm_head has 128 inputs"),
        ({"lora": "attention:8", "model": "lstm"}, "no linear layer of the model is attention"),
        ({"lora": "head:8", "data": "digits", "task": None, "model": "mlp"}, "goes with `task`"),
    ],
)
def test_adapters_that_cannot_be_are_one_sentence(news, options, sentence):
    own = {"data": news, "model": "gpt2-untied", **SMALL, **options}
    with pytest.raises(BadInput, match=sentence):
        plan_audit(AuditOptions(**own))


def test_the_preset_of_defenses_freezes_parts_and_trains_adapters():
    audits = read_shipped("tokens_defenses").audits
    assert {one.lora for one in audits} == {None, "head:8", "attention:8"}
    assert {HEAD, "withhold:embedding", BOTH} <= {d for one in audits for d in one.defenses}
    assert ("gpt2-small", ("none", HEAD)) in {(one.model, one.defenses) for one in audits}
