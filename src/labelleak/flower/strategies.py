"""The observer as a strategy around any other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from labelleak.flower.auditor import Auditor
from labelleak.flower.grid import Watch, observe


class AuditedStrategy(Strategy):
    """A strategy that audits each client's update, then does what the one inside does.

    Put it outermost: inside one of Flower's differential-privacy strategies it sees updates that
    were clipped already. Those strategies want FedAvg itself inside, too.

    Args:
        strategy: the strategy to run.
        auditor: how to audit, and where to write.
    """

    def __init__(self, strategy: Strategy, auditor: Auditor) -> None:
        self._strategy = strategy
        self._watch = Watch(auditor)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_strategy":  # not yet there while being unpickled
            raise AttributeError(name)
        return getattr(self._strategy, name)

    def start(self, grid: Grid, *args: Any, **options: Any) -> Result:
        """Start the strategy inside on an observed grid; a loop of its own is kept."""
        return self._strategy.start(observe(grid, self._watch.auditor), *args, **options)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the strategy inside make the messages, and note them."""
        messages = list(self._strategy.configure_train(server_round, arrays, config, grid))
        self._watch.sent(messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Audit the replies, then let the strategy inside aggregate them."""
        listed = list(replies)
        self._watch.returned(listed)
        return self._strategy.aggregate_train(server_round, listed)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Leave it to the strategy inside."""
        return self._strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Leave it to the strategy inside."""
        return self._strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """Leave it to the strategy inside."""
        self._strategy.summary()


__all__ = ["AuditedStrategy"]
