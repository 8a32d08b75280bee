"""Adapters of low rank: what they compute, what is trained, and where they cannot be put."""

import pytest
import torch
from torch import nn

from core.token_models import GPT, texts
from labelleak.core.task import Task
from labelleak.errors import BadInput
from labelleak.simulation.adapters import LowRank, attach_adapters, silent_adapters
from labelleak.simulation.lora_form import parse_lora
from labelleak.simulation.models import build_model

ATTENTION = {f"blocks.{number}.attention" for number in (0, 1)}


def attached(text, name="gpt2-untied"):
    model = build_model(name, input_shape=(9,), num_classes=40, seed=1, task=Task.tokens)
    attach_adapters(model, parse_lora(text), "lm_head", seed=3)
    return model


def test_an_adapter_adds_b_a_x_times_alpha_over_r():
    layer, x = nn.Linear(5, 4), torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    adapted = LowRank(layer, 2, 6.0)
    assert torch.equal(adapted(x), layer(x))  # B is zero at first
    nn.init.normal_(adapted.lora_B.weight)
    product = adapted.lora_B.weight @ adapted.lora_A.weight * 6 / 2
    assert torch.allclose(adapted(x), layer(x) + x @ product.T, atol=1e-5)


def test_the_second_matrix_has_the_gradient_of_the_layer_times_the_first():
    layer, x = nn.Linear(5, 4), torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    adapted = LowRank(layer, 2, 6.0)
    adapted(x).square().sum().backward()
    product = layer.weight.grad @ adapted.lora_A.weight.T
    assert torch.allclose(adapted.lora_B.weight.grad, 3 * product, atol=1e-4)
    assert not adapted.lora_A.weight.grad.any()  # since B is zero


@pytest.mark.parametrize(
    ("text", "name", "trained"),
    [
        ("head:4", "gpt2-untied", {"lm_head"}),
        ("head:4", "gpt2-small", {"lm_head"}),
        ("attention:2:8", "llama-small", ATTENTION),
        ("blocks.1.inner:3", "gpt2-untied", {"blocks.1.inner"}),
        ("head+attention:2", "gpt2-untied", {"lm_head", *ATTENTION}),
    ],
)
def test_only_the_adapters_of_the_parts_are_trained(text, name, trained):
    model = attached(text, name)
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    assert all("lora_A" in n or "lora_B" in n for n in names)
    assert {part for part in trained if any(n.startswith(f"{part}.") for n in names)} == trained
    assert all(any(n.startswith(f"{part}.") for part in trained) for n in names)


def test_the_model_is_at_first_what_it_was_and_the_seed_decides_the_adapters():
    ids = torch.arange(9)[None]
    plain = build_model("gpt2-untied", input_shape=(9,), num_classes=40, seed=1, task=Task.tokens)
    first, again = attached("head+attention:8"), attached("head+attention:8")
    assert torch.equal(first(ids), plain(ids))
    assert torch.equal(first.lm_head.lora_A.weight, again.lm_head.lora_A.weight)
    assert silent_adapters(first, ids) == []


@pytest.mark.parametrize("text", ["head", "head:0", ":8", "head:8:0", "head:8:x", "a b:8"])
def test_what_is_no_part_with_a_rank_is_refused(text):
    with pytest.raises(BadInput, match="PART:RANK"):
        parse_lora(text)


@pytest.mark.parametrize("part", ["hed:8", "embedding:8", "blocks.7:8"])
def test_a_part_without_a_linear_layer_is_refused(part):
    with pytest.raises(BadInput, match="no linear layer of the model is"):
        attached(part)


def test_an_adapter_that_the_model_goes_around_is_named():
    class Around(GPT):
        def hidden(self, ids):
            return nn.functional.linear(super().hidden(ids), self.extra.weight)

        @property
        def weight(self):
            return self.lm_head.weight

    model = Around()
    model.extra = nn.Linear(24, 24, bias=False)
    attach_adapters(model, parse_lora("c_fc:2"), "lm_head", seed=0)
    model.extra = LowRank(nn.Linear(24, 24, bias=False), 2, 2.0)
    model.extra.weight = model.extra.base_layer.weight
    assert silent_adapters(model, texts(0)[:, :9]) == ["extra"]
