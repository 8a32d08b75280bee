"""The lines of the how-to for a Flower app run as they are pasted."""

import json
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("flwr")
from labelleak import flower  # first: it keeps Flower from phoning home

from flower import federation  # isort: skip
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "flower.md"
(LINES,) = [
    block
    for block in re.findall(r"```py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    if "flower.observe" in block
]


def fit(message, context, each_step):
    """Train for an epoch of three batches, as a user's own function does."""
    model = federation.make_model()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    picked = federation.indices_of(context.node_config["partition-id"], 1, steps=3)
    for rows in picked.reshape(3, -1):
        x = torch.tensor(federation.PIXELS[rows] / 16, dtype=torch.float32)
        y = torch.tensor(federation.LABELS[rows])
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
        each_step(y)
    metrics = MetricRecord({"num-examples": len(picked)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content, reply_to=message)


@pytest.mark.parametrize(
    ("policy", "file"), [("block", "client/records"), ("record", "server/estimates")]
)
def test_the_lines_run_as_pasted(tmp_path, monkeypatch, policy, file):
    monkeypatch.chdir(tmp_path)
    lines = LINES.replace('"block"', f'"{policy}"')
    weights = ArrayRecord(federation.make_model().state_dict())
    names = {"fit": fit, "weights": weights, "build_model": federation.make_model}
    exec(compile(lines, "flower.md", "exec"), names)
    grid = flower.InProcessGrid(names["app"], 2)
    names["server"](grid, federation.empty_context())
    found = [json.loads(row) for row in (tmp_path / f"{file}.jsonl").read_text().splitlines()]
    assert {row["steps"] for row in found} == {3}
    assert {row["lr"] for row in found} == {0.1}
    assert {row["num_samples"] for row in found} == {48}
    if policy == "block":
        assert {row["action"] for row in found} == {"blocked"}
    assert "model" in {row["threat_model"] for row in found}  # the server that holds it is tried
    assert "steps_unknown" not in {flag for row in found for flag in row["flags"]}
