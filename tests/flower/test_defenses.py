"""Ours and Flower's own defenses side by side, on Flower's code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")
from labelleak import flower  # isort: skip  # first: it keeps Flower from phoning home
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod
from flwr.serverapp.strategy import DifferentialPrivacyServerSideAdaptiveClipping, FedAvg

from labelleak.core.update import SharedTensors
from labelleak.defenses import AdaptiveClipping, LocalDP, ServerClipping

BEFORE = {"weight": torch.full((3, 4), 0.5), "bias": torch.zeros(3)}
MOVED = {
    "weight": torch.linspace(-1, 1, 12).reshape(3, 4),
    "bias": torch.tensor([0.1, -0.2, 0.1]),
}


def train(message, _):
    after = {name: BEFORE[name] + value for name, value in MOVED.items()}
    metrics = MetricRecord({"num-examples": 1})
    content = RecordDict({"arrays": ArrayRecord(after), "metrics": metrics})
    return Message(content, reply_to=message)


def replies(*mods, clients=1, **config):
    """Let clients answer one message each, through Flower's own mods."""
    app = ClientApp(mods=list(mods))
    app.train()(train)
    content = {"arrays": ArrayRecord(BEFORE), "config": ConfigRecord(config)}
    grid = flower.InProcessGrid(app, clients)
    messages = [Message(RecordDict(content), one + 1, "train") for one in range(clients)]
    return list(grid.send_and_receive(messages))


def moved_by(reply):
    sent = reply.content["arrays"].to_torch_state_dict()
    return {name: sent[name] - value for name, value in BEFORE.items()}


def ours(defense, memory=None):
    update = SharedTensors({name: value[None] for name, value in MOVED.items()}, "")
    return defense.apply(update, np.random.default_rng(0), memory)


def test_adaptive_clipping_at_the_client():
    (reply,) = replies(adaptiveclipping_mod, clipping_norm=0.7)
    sent, _ = ours(AdaptiveClipping(0.7))
    for name, value in moved_by(reply).items():
        torch.testing.assert_close(value, sent.tensors[name][0], atol=1e-6, rtol=1e-5)
    assert reply.content["metrics"]["norm_bit"] == 1, "told in the clear"


def test_local_dp_clips_and_adds_the_same_noise():
    part = LocalDP(0.7, 0.3, 2.0)
    mod, apart = LocalDpMod(0.7, 0.3, 2.0, 1e-5), []
    clipped, _ = ours(AdaptiveClipping(0.7))
    for _ in range(200):
        found = moved_by(*replies(mod))
        apart += [(found[name] - clipped.tensors[name][0]).flatten() for name in found]
    gaps = torch.cat(apart)
    assert float(gaps.std()) == pytest.approx(part.sigma, rel=0.06)
    assert float(gaps.mean()) == pytest.approx(0, abs=5 * part.sigma / len(gaps) ** 0.5)


def test_the_bound_at_the_server_moves_as_ours():
    """Two clients, both clipped: the bound shrinks, so both are clipped the more."""
    strategy = DifferentialPrivacyServerSideAdaptiveClipping(
        FedAvg(), noise_multiplier=0.0, num_sampled_clients=2, initial_clipping_norm=0.7
    )
    strategy.current_arrays = ArrayRecord(BEFORE)
    part, memory = ServerClipping(0.7), None
    update = SharedTensors({name: value[None] for name, value in MOVED.items()}, "")
    for number in range(3):
        arrays, _ = strategy.aggregate_train(number, replies(clients=2))
        used, memory = part.on_update(update, np.random.default_rng(0), memory)
        found = arrays.to_torch_state_dict()
        for name, value in BEFORE.items():
            torch.testing.assert_close(
                found[name] - value, used.tensors[name][0], atol=1e-6, rtol=1e-5
            )
    assert strategy.clipping_norm == pytest.approx(0.7 * np.exp(-0.2 * 0.5 * 3))
    assert float(memory.residual["bound"]) == pytest.approx(strategy.clipping_norm)
