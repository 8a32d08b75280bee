"""The observer as a strategy of Flower's old interface, where clients answer by FitRes."""

from __future__ import annotations

from typing import Any

import torch
from flwr.common import FitIns, FitRes, Parameters, parameters_to_ndarrays
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import Strategy
from torch import Tensor

from labelleak.flower.auditor import Auditor
from labelleak.flower.claims import lr_said
from labelleak.flower.partitions import Claims
from labelleak.flower.server import (
    Arrival,
    audit_at_server,
    audit_average,
    log_failures,
)


class AuditedLegacyStrategy(Strategy):
    """An old strategy that audits each client's answer, then does what the one inside does.

    The old interface sends arrays without names, so give the auditor the model, or let it take
    the last matrix for the head. Under SecAgg+ every answer holds the clients' average: what is
    audited then is what the server really sees of each client, which is the same for all, and
    beside it the average against the labels of all clients together (``aggregates.jsonl``).

    Args:
        strategy: the strategy to run.
        auditor: how to audit, and where to write.
    """

    def __init__(self, strategy: Strategy, auditor: Auditor) -> None:
        self._strategy = strategy
        self._auditor = auditor
        self._sent: dict[str, tuple[dict[str, Tensor], float | None]] = {}
        self._claims = Claims()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_strategy":
            raise AttributeError(name)
        return getattr(self._strategy, name)

    def initialize_parameters(self, client_manager: Any) -> Parameters | None:
        """Leave it to the strategy inside."""
        return self._strategy.initialize_parameters(client_manager)

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: Any
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Let the strategy inside choose, and note what each client is sent."""
        chosen = self._strategy.configure_fit(server_round, parameters, client_manager)
        copies: dict[int, dict[str, Tensor]] = {}
        for proxy, instruction in chosen:
            self._sent.pop(proxy.cid, None)
            with log_failures(self._auditor, (server_round, proxy.cid)):
                key = id(instruction.parameters)
                if key not in copies:
                    copies[key] = _unpack(instruction.parameters)
                lr = lr_said([instruction.config], self._auditor.lr_key)
                self._sent[proxy.cid] = copies[key], lr
        return chosen

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],
    ) -> Any:
        """Audit the answers, then let the strategy inside aggregate them."""
        found: list[Arrival] = []
        for proxy, answer in results:
            with log_failures(self._auditor, (server_round, proxy.cid)):
                found += self._pair(server_round, proxy, answer)
        found = self._claims.settle(self._auditor, found)
        audit_at_server(self._auditor, found)
        sent = [answer.parameters.tensors for _, answer in results]
        if all(tensors == sent[0] for tensors in sent):
            audit_average(self._auditor, found)
        return self._strategy.aggregate_fit(server_round, results, failures)

    def _pair(self, server_round: int, proxy: ClientProxy, answer: FitRes) -> list[Arrival]:
        metrics = dict(answer.metrics or {})
        metrics.setdefault("num_examples", answer.num_examples)
        sent = self._sent.pop(proxy.cid, None)
        if sent is None:
            self._auditor.note("no_update", round=server_round, client=proxy.cid)
            return []
        before, lr = sent
        arrival = Arrival(
            before, lambda: _unpack(answer.parameters), metrics, server_round, proxy.cid, lr=lr
        )
        return [self._claims.take(self._auditor, arrival)]

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: Any
    ) -> Any:
        """Leave it to the strategy inside."""
        return self._strategy.configure_evaluate(server_round, parameters, client_manager)

    def aggregate_evaluate(self, server_round: int, results: Any, failures: Any) -> Any:
        """Leave it to the strategy inside."""
        return self._strategy.aggregate_evaluate(server_round, results, failures)

    def evaluate(self, server_round: int, parameters: Parameters) -> Any:
        """Leave it to the strategy inside."""
        return self._strategy.evaluate(server_round, parameters)


def _unpack(parameters: Parameters) -> dict[str, Tensor]:
    arrays = parameters_to_ndarrays(parameters)
    return {str(place): torch.from_numpy(array.copy()) for place, array in enumerate(arrays)}


__all__ = ["AuditedLegacyStrategy"]
