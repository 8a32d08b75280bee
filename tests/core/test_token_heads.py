"""A language model's head: by name, by its change, tied, beside GPT-2's kernels."""

import pytest
import torch

from core.token_models import GPT, LSTM, TOKENS, gradients, texts
from labelleak.core.head import locate_head
from labelleak.core.head_finding import AmbiguousHead
from labelleak.core.task import Task
from labelleak.core.token_heads import FROZEN, LOW_RANK, TIED, tied_to
from labelleak.errors import BadInput
from labelleak.simulation.adapters import attach_adapters
from labelleak.simulation.lora_form import parse_lora


def found_in(model, **more):
    seen = gradients(model, texts(0))
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    names = dict(model.named_parameters(remove_duplicate=False))
    own = {n: next(g for k, g in seen.items() if names[k] is p) for n, p in names.items()}
    after = {name: t - 0.1 * own[name] if name in own else t for name, t in before.items()}
    return [
        locate_head(seen, task=Task.tokens, **more),
        locate_head(after, before=before, task=Task.tokens, **more),
    ]


@pytest.mark.parametrize("kernels", [False, True])
def test_a_head_beside_an_embedding_is_the_head(kernels):
    heads = found_in(GPT(conv=kernels))
    assert [head.name for head in heads] == ["lm_head", "lm_head"]
    assert all(TIED not in head.evidence for head in heads)


def test_a_head_of_any_name_is_told_by_its_change():
    model = GPT()
    model.unembed = model.lm_head
    del model.lm_head
    model.forward = lambda ids: model.unembed(model.hidden(ids))
    assert {head.name for head in found_in(model)} == {"unembed"}


def test_a_tied_head_is_read_at_the_embedding_and_said():
    model = GPT(tied=True)
    gradient, both = found_in(model)
    assert (gradient.name, both.name) == ("wte", "lm_head")
    assert TIED in gradient.evidence
    assert TIED in both.evidence
    whole = locate_head(model=model, task=Task.tokens)
    assert (whole.name, whole.evidence[-1]) == ("lm_head", TIED)
    with pytest.raises(BadInput, match=r"shares its weight .*say `task` tokens"):
        locate_head(model=model)


def test_gpt2s_kernels_are_no_keras_model_where_a_head_changed_in_balance():
    model = GPT(conv=True)
    seen = gradients(model, texts(0))
    assert locate_head(seen).name == "lm_head"
    with pytest.raises(AmbiguousHead, match="say `task` tokens"):
        locate_head(gradients(GPT(conv=True, tied=True), texts(0)))


def test_a_named_head_is_the_head_though_compression_left_rows_out():
    seen = gradients(GPT(), texts(0))
    kept = torch.where(torch.arange(TOKENS)[:, None] < 9, seen["lm_head.weight"], 0)
    assert locate_head({**seen, "lm_head.weight": kept}, task=Task.tokens).name == "lm_head"
    noised = torch.randn(TOKENS, 4, generator=torch.Generator().manual_seed(0))
    found = locate_head({"embed_out.weight": noised}, task=Task.tokens)
    assert (found.name, found.how) == ("embed_out", "names")


def test_a_frozen_head_and_none_at_all_are_said():
    seen = gradients(GPT(), texts(0))
    still = {**seen, "lm_head.weight": torch.zeros_like(seen["lm_head.weight"])}
    with pytest.raises(BadInput, match="'lm_head' did not move"):
        locate_head(still, task=Task.tokens)
    without = {name: tensor for name, tensor in seen.items() if name != "lm_head.weight"}
    with pytest.raises(AmbiguousHead, match="the update may hold no head"):
        locate_head(without, task=Task.tokens)
    wide = {**without, "up_proj.weight": torch.randn(96, 24)}
    with pytest.raises(AmbiguousHead, match="the update may hold no head"):
        locate_head(wide, task=Task.tokens)
    with pytest.raises(BadInput, match="no matrix with 7 rows"):
        locate_head(seen, task=Task.tokens, num_classes=7)


def test_adapters_alone_share_no_head_and_those_of_the_head_are_named():
    alone = {f"h.0.attn.c_attn.lora_{part}.weight": torch.ones(2, 2) for part in "AB"}
    with pytest.raises(BadInput, match="no head is shared"):
        locate_head(alone, task=Task.tokens)
    of_head = {f"lm_head.lora_{part}.weight": torch.ones(2, 2) for part in "AB"}
    found = locate_head(of_head, task=Task.tokens)
    assert found.name == "lm_head.lora_B"
    assert any("adapted by LoRA" in said for said in found.evidence)
    with pytest.raises(AmbiguousHead, match=r"lm_head\.lora_B"):
        locate_head(of_head, task=Task.tokens, num_classes=7)
    with pytest.raises(AmbiguousHead, match=r"lm_head\.lora_B"):
        locate_head(of_head)


def test_two_heads_of_one_size_are_asked_for():
    gradient = torch.randn(TOKENS, 4, generator=torch.Generator().manual_seed(0))
    gradient -= gradient.mean(0)
    heads = {"lm_head.weight": gradient, "value_head.weight": 2 * gradient}
    with pytest.raises(AmbiguousHead, match="several layers"):
        locate_head(heads, task=Task.tokens)


def test_a_recurrent_model_has_its_head_found():
    assert {head.name for head in found_in(LSTM())} == {"out"}


def test_the_same_weight_under_two_names_is_tied():
    table = torch.eye(3, 2)
    assert tied_to("a", {"a.weight": table, "b.weight": table.clone(), "c.weight": 2 * table}) == (
        "b",
    )
    assert tied_to("none", {"a.weight": table}) == ()


def adapted(text, **more):
    model = GPT(**more)
    attach_adapters(model, parse_lora(text), "lm_head", seed=0)
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_a_models_head_that_lora_adapts_is_its_second_matrix(tied):
    found = locate_head(model=adapted("head:4", tied=tied), task=Task.tokens)
    assert (found.name, found.evidence[-1]) == ("lm_head.lora_B", LOW_RANK)
    named = locate_head(
        model=adapted("head:4"), name="lm_head.base_layer", task=Task.tokens, num_classes=TOKENS
    )
    assert named.name == "lm_head.lora_B"


def test_a_models_frozen_head_is_refused_unless_it_will_do():
    model = adapted("c_fc:4")
    with pytest.raises(BadInput, match="frozen"):
        locate_head(model=model, task=Task.tokens)
    found = locate_head(model=model, task=Task.tokens, frozen=True)
    assert (found.name, found.evidence[-1]) == ("lm_head", FROZEN)
