"""A language model that is fine-tuned in a federation: a full head, and one adapted by LoRA."""

import copy
import json

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from core.token_models import GPT, TOKENS, WIDTH, loss_of, texts
from labelleak import flower
from labelleak.core.knowledge import LabelledData

IDS = texts(1)
LABELS = IDS[:, 1:].flatten()


def full_head():
    """Take one step of SGD on the whole model."""
    model = GPT()
    client = copy.deepcopy(model)
    optimiser = torch.optim.SGD(client.parameters(), lr=0.1)
    torch.autograd.backward(loss_of(client, IDS))
    optimiser.step()
    return dict(model.state_dict()), dict(client.state_dict())


def low_rank():
    """Take one step on LoRA's matrices of the head alone, which are all that is shared."""
    model, generator = GPT(), torch.Generator().manual_seed(0)
    first = 0.3 * torch.randn(8, WIDTH, generator=generator)
    second = torch.zeros(TOKENS, 8, requires_grad=True)
    base = model.lm_head.weight.detach()
    del model.lm_head.weight
    model.lm_head.weight = base + second @ first
    (slope,) = torch.autograd.grad(loss_of(model, IDS), second)
    names = [f"base_model.model.lm_head.lora_{part}.weight" for part in "AB"]
    sides = (first, second.detach()), (first, second.detach() - 0.1 * slope)
    return tuple(dict(zip(names, side, strict=True)) for side in sides)


@pytest.mark.parametrize("make", [full_head, low_rank])
def test_a_client_that_fine_tunes_a_language_model_is_audited_and_blocked(make, tmp_path):
    before, after = make()

    def train(message, context):
        flower.report_labels(context, LABELS)
        found = {"arrays": ArrayRecord(after), "metrics": MetricRecord({"num-examples": 8})}
        return Message(RecordDict(found), reply_to=message)

    own = texts(60, rows=100)
    knows = {"model": GPT, "auxiliary": LabelledData(own, own)} if make is full_head else {}
    often = (1 + torch.bincount(own.flatten(), minlength=TOKENS)).tolist()
    auditor = flower.Auditor(
        folder=tmp_path, lr=0.1, task="tokens", attacks=["row_energy"],
        **(knows or {"prior": often}),
    )  # fmt: skip
    app = ClientApp(mods=[flower.audit_mod(auditor, "block")])
    app.train()(train)
    sent = {"arrays": ArrayRecord(before), "config": ConfigRecord({"server-round": 1})}
    (reply,) = flower.InProcessGrid(app, 2).send_and_receive(
        [Message(RecordDict(sent), 1, "train")]
    )
    rows = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert {(row["task"], row["action"], row["num_samples"]) for row in rows} == {
        ("tokens", "blocked", len(LABELS))
    }
    assert rows[0]["asr"] > rows[0]["asr_free"] + 0.1
    assert rows[0]["head"].endswith("lm_head" if make is full_head else "lora_B")
    assert reply.has_error()
