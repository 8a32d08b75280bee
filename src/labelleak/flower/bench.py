"""Measure what the observer and the client's audit add to a federation's round."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from labelleak.simulation.models import build_model

CLIENTS, BATCH, LR = 10, 32, 0.05
# Samples of a client, and rounds: MNIST's 60,000 images divided evenly, and a tenth of them. An
# audit takes as long whatever a client holds, so it weighs most where clients are small. What is
# aimed at is the share of a round of the small ones, by part.
SIZES = ((6000, 1), (600, 10))
OBSERVER, MOD = 0.03, 0.1


@dataclass
class Stopwatch:
    """Seconds that were spent in one call, round by round."""

    laps: list[float] = field(default_factory=list)

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Time every call of a function."""

        def timed(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                self.laps.append(time.perf_counter() - start)

        return timed


def run_flower_bench() -> Iterator[str]:
    """Time rounds of ten clients that train a CNN on MNIST-sized images for one epoch.

    An audit is timed inside the rounds that it belongs to: what surrounds the client's own work
    is what was added, so that what other jobs do to the machine falls on both sides of the ratio.

    Raises:
        MissingExtra: if Flower is not installed.
    """
    for samples, rounds in SIZES:
        for part, measure, aim in (
            ("observer", _observer, OBSERVER),
            ("client's audit mod", _mod, MOD),
        ):
            added, rest = measure(samples, rounds)
            share = added / rest
            yield (
                f"{'ok  ' if share <= aim else 'MISS'} Flower round, {CLIENTS} clients of "
                f"{samples} samples (28 x 28, paper's CNN): the {part} with the standard battery's "
                f"rules on the update alone (no shadow attack) adds {share:.1%} "
                f"({added / rounds / CLIENTS * 1e3:.1f} ms a client "
                f"to {rest / rounds:.2f} s a round; aim <= {aim:.0%})"
            )


def _observer(samples: int, rounds: int) -> tuple[float, float]:
    """Return seconds that the observing grid added, and seconds of the rounds without it."""
    from labelleak import flower

    inner, outer = Stopwatch(), Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        grid = flower.InProcessGrid(_make_app(samples), CLIENTS)
        grid.send_and_receive = inner.around(grid.send_and_receive)  # type: ignore[method-assign]
        watched = flower.observe(grid, _make_auditor(folder, samples))
        _rounds(outer.around(watched.send_and_receive), rounds)
    rest = sum(inner.laps[1:])
    return sum(outer.laps[1:]) - rest, rest


def _mod(samples: int, rounds: int) -> tuple[float, float]:
    """Return seconds that the audit mod added, and seconds of the rounds without it."""
    from labelleak import flower

    inner, outer, whole = Stopwatch(), Stopwatch(), Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        mod = outer.around(flower.audit_mod(_make_auditor(folder, samples)))

        def timed(message: Any, context: Any, call_next: Callable[..., Any]) -> Any:
            return mod(message, context, inner.around(call_next))

        grid = flower.InProcessGrid(_make_app(samples, timed), CLIENTS)
        _rounds(whole.around(grid.send_and_receive), rounds)
    added = sum(outer.laps[CLIENTS:]) - sum(inner.laps[CLIENTS:])
    return added, sum(whole.laps[1:]) - added


def _rounds(send_and_receive: Callable[..., Any], rounds: int) -> None:
    """Run a first round, which pays for imports and caches, and those that count."""
    from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

    for number in range(1, rounds + 2):
        arrays = ArrayRecord(_make_model().state_dict())
        config = ConfigRecord({"server-round": number})
        content = RecordDict({"arrays": arrays, "config": config})
        send_and_receive([Message(content, node + 1, "train") for node in range(CLIENTS)])


def _make_model() -> torch.nn.Module:
    return build_model("cnn", input_shape=(1, 28, 28), num_classes=10, seed=0)


@cache
def _labels(client: str, server_round: int, samples: int) -> np.ndarray:
    """Draw a client's labels, once: what it takes to draw them is no part of an audit."""
    return np.random.default_rng([int(client), server_round]).integers(10, size=samples)


def _make_auditor(folder: str, samples: int) -> Any:
    from labelleak import flower

    def truth(client: str, server_round: int) -> np.ndarray:
        return _labels(client, server_round, samples)

    steps = -(-samples // BATCH)
    return flower.Auditor(folder=Path(folder), lr=LR, local_steps=steps, truth=truth)


def _make_app(samples: int, *mods: Any) -> Any:
    """Make clients that train for one epoch of random images."""
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    images = torch.rand(samples, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    app, steps = ClientApp(mods=list(mods)), -(-samples // BATCH)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = str(context.node_config["partition-id"])
        number = message.content.config_records["config"]["server-round"]
        assert isinstance(number, int)
        labels = torch.from_numpy(_labels(client, number, samples))
        model = _make_model()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        optimiser = torch.optim.SGD(model.parameters(), lr=LR)
        for batch in torch.tensor_split(torch.arange(samples), steps):
            optimiser.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(images[batch]), labels[batch]))
            optimiser.step()
        metrics = MetricRecord({"num-examples": samples, "partition-id": int(client)})
        content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
        return Message(content, reply_to=message)

    return app


__all__ = ["run_flower_bench"]
