"""Updates of language models as five frameworks write them: attacked, or refused with reason."""

import pytest
import torch
from safetensors.torch import save_file

from core.token_models import GPT, gradients, texts
from labelleak.audits.one_update import attack_update
from labelleak.core.training import LocalTraining
from labelleak.errors import BadInput

IDS, LR = texts(1), 0.5
LABELS = IDS[:, 1:].flatten().tolist()


def sides(**more):
    """Return weights before and after one step of SGD, under each of their names."""
    model = GPT(**more)
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=LR)
    for name, gradient in gradients(model, IDS).items():
        dict(model.named_parameters())[name].grad = gradient
    optimiser.step()
    return before, {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def rate(before, after, **more):
    report = attack_update(
        before=before,
        after=after,
        made=LocalTraining(lr=LR),
        num_samples=len(LABELS),
        truth=LABELS,
        attacks=["row_energy"],
        **{"task": "tokens", **more},
    )
    return report.head, report.results[0].asr


@pytest.mark.parametrize("tied", [False, True])
def test_a_prefix_before_every_name_and_half_precision(tmp_path, tied):
    """NVFlare's llm_hf sends ``model.`` before each name, in bfloat16 if asked."""
    files = []
    for number, side in enumerate(sides(tied=tied)):
        files.append(tmp_path / f"{number}.pt")
        torch.save({f"model.{name}": t.bfloat16() for name, t in side.items()}, files[-1])
    head, asr = rate(*map(str, files))
    assert head == "model.lm_head"
    assert asr > 0.4  # bfloat16 weights round most of one step away


def test_a_checkpoint_with_its_round(tmp_path):
    """FederatedScope saves ``{"cur_round": ..., "model": ...}``."""
    files = []
    for number, side in enumerate(sides()):
        files.append(tmp_path / f"{number}.pt")
        torch.save({"cur_round": number, "model": side}, files[-1])
    head, asr = rate(*map(str, files))
    assert head.endswith("lm_head")
    assert asr > 0.6


def adapters(*modules):
    return {
        f"base_model.model.{module}.lora_{part}.weight": torch.randn(4, 4)
        for module in modules
        for part in "AB"
    }


def test_adapters_of_attention_alone_share_no_head(tmp_path):
    """flowertune and OpenFedLLM share PEFT's adapters of attention alone."""
    files = []
    for number in range(2):
        torch.manual_seed(number)
        files.append(tmp_path / f"{number}.safetensors")
        save_file(adapters("model.layers.0.self_attn.q_proj"), files[-1])
    with pytest.raises(BadInput, match="no head is shared: the update holds LoRA's adapters alone"):
        rate(*map(str, files))


@pytest.mark.parametrize("kept", [True, False])
def test_an_update_of_a_client_that_froze_its_head_is_refused(kept):
    """What the embedding shows then is measured by an audit."""
    before, after = sides()
    after["lm_head.weight"] = before["lm_head.weight"].clone()
    if not kept:
        before, after = (
            {n: t for n, t in side.items() if "lm_head" not in n} for side in (before, after)
        )
    with pytest.raises(BadInput, match=r"frozen|may hold no head"):
        rate(before, after)


def test_a_head_in_modules_to_save_is_attacked(tmp_path):
    files = []
    for number, side in enumerate(sides()):
        torch.manual_seed(number)
        head = {"base_model.model.lm_head.weight": side["lm_head.weight"]}
        files.append(tmp_path / f"{number}.safetensors")
        save_file({**adapters("h.0.attn.c_attn"), **head}, files[-1])
    head, asr = rate(*map(str, files))
    assert head.endswith("lm_head")
    assert asr > 0.6


def test_lora_on_the_head_is_read_at_its_second_matrix():
    """One step moves ``lora_B`` as a head whose inputs are ``A h``."""
    model = GPT()
    low = 0.3 * torch.randn(8, 24, generator=torch.Generator().manual_seed(0))
    grown = torch.zeros(300, 8, requires_grad=True)
    whole = gradients(model, IDS)["lm_head.weight"]
    torch.autograd.backward((grown @ low * whole).sum())
    names = [f"base_model.model.lm_head.lora_{part}.weight" for part in "AB"]
    before = dict(zip(names, (low, grown.detach()), strict=True))
    after = dict(zip(names, (low, grown.detach() - LR * grown.grad), strict=True))
    for more in ({}, {"head": "base_model.model.lm_head.lora_B"}):
        head, asr = rate(before, after, **more)
        assert head.endswith("lm_head.lora_B")
        assert asr > 0.5
    named = {name.replace(".weight", ".default.weight"): grad for name, grad in after.items()}
    report = attack_update(
        before={name.replace(".weight", ".default.weight"): t for name, t in before.items()},
        after=named,
        made=LocalTraining(lr=LR),
        num_samples=len(LABELS),
        attacks=["row_energy"],
        task="tokens",
    )
    assert report.head.endswith("lora_B.default")
    assert any("adapted by LoRA" in note for note in report.notes)


def test_a_list_without_names_is_told_by_its_change():
    """FATE-LLM sends a list of arrays."""
    before, after = (list(side.values()) for side in sides())
    names = list(sides()[0])
    head, asr = rate([t.numpy() for t in before], [t.numpy() for t in after], layout="torch")
    assert head == str(names.index("lm_head.weight"))
    assert asr > 0.6
