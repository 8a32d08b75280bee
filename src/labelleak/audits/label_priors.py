"""How the labels of an audit's clients come, and how attackers take them to come."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from labelleak.audits.plan import CellOptions, Plan
from labelleak.core.frequencies import (
    FrequencyPrior,
    TextPrior,
    prior_of_frequencies,
    smooth_frequencies,
)
from labelleak.core.priors import Prior
from labelleak.core.task import Task
from labelleak.core.task_priors import MapPrior, summed
from labelleak.core.token_bands import TokenBands
from labelleak.simulation.batches import prior_of


@dataclass(frozen=True, eq=False)
class LabelPriors:
    """What is believed of labels under each cell of a plan.

    Attributes:
        plan: the audit.
        task: what labels are.
    """

    plan: Plan
    task: Task

    def of(self, cell: CellOptions) -> tuple[Prior, Prior, Prior]:
        """Return how one client's counts come, how attackers take all to, and how they do."""
        classes, told, pool = self.plan.data.num_classes, self.told, self._pool
        if self.task is Task.tokens:
            assert told is not None
            return told, told, self._texts
        alone = prior_of(cell.scheme, pool, classes, self.task.problems(classes))
        if isinstance(alone, MapPrior):
            alone = replace(alone, maps=cell.batch_size * cell.local_steps)
        real = summed(alone, cell.clients)
        return alone, told or real, real

    @cached_property
    def bands(self) -> TokenBands | None:
        """Which tokens are common and which rare in own text."""
        if self.task is not Task.tokens:
            return None
        shares = self._own_counts / self._own_counts.sum()
        return TokenBands.of(shares, self.plan.data.class_names)

    @cached_property
    def told(self) -> Prior | None:
        """The prior of frequencies that were given, of texts else of those in own text."""
        told, classes = self.plan.frequencies, self.plan.data.num_classes
        if told:
            return prior_of_frequencies(told, classes, self.task.problems(classes))
        if self.task is not Task.tokens:
            return None
        return FrequencyPrior(tuple(smooth_frequencies(self._own_counts).tolist()))

    @property
    def _pool(self) -> np.ndarray:
        return self.plan.roles.victims.labels.numpy()

    @cached_property
    def _texts(self) -> TextPrior:
        return TextPrior(self._pool)

    @cached_property
    def _own_counts(self) -> np.ndarray:
        own = self.plan.roles.auxiliary.labels.numpy().ravel()
        return np.bincount(own, minlength=self.plan.data.num_classes)


__all__ = ["LabelPriors"]
