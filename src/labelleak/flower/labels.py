"""How a client's training tells the audit, on the client, which labels it used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flwr.app import Context, MetricRecord
from numpy.typing import ArrayLike

KEY = "labelleak.labels"


@dataclass(frozen=True)
class Reported:
    """Labels behind one update.

    Attributes:
        labels: every label, in the order of use; one that was used twice stands twice.
        steps: local steps that they were spread over.
    """

    labels: tuple[int, ...]
    steps: int


def plain_labels(labels: ArrayLike) -> tuple[int, ...]:
    """Return labels one by one, those that are negative left out: they are none.

    >>> plain_labels([[0, 2], [-100, 1]])
    (0, 2, 1)
    """
    flat = np.asarray(labels).ravel()
    return tuple(flat[flat >= 0].astype(np.int64).tolist())


def report_labels(context: Context, labels: ArrayLike) -> None:
    """Note the labels of one local step for the audit mod; call it once for each step.

    They are kept in the client's own state and taken out of it before the reply is handed on;
    they are never put into a message.

    Args:
        context: the context that the ClientApp's function was given.
        labels: class indices of the step's batch, in an array of any shape: 0 and 1 of a binary
            task, rows of them of a multilabel one, masks of a dense one, whose negative entries are
            pixels without a label.

    >>> from flwr.app import RecordDict
    >>> context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    >>> report_labels(context, [3, 3])
    >>> report_labels(context, [1])
    >>> take_labels(context)
    Reported(labels=(3, 3, 1), steps=2)
    """
    held = context.state.metric_records.get(KEY, MetricRecord({"labels": [], "steps": 0}))
    before, steps = held["labels"], held["steps"]
    assert isinstance(before, list)
    assert isinstance(steps, int)
    new = plain_labels(labels)
    context.state[KEY] = MetricRecord({"labels": [*before, *new], "steps": steps + 1})


def take_labels(context: Context) -> Reported | None:
    """Take the reported labels out of the client's state; None if there are none."""
    if KEY not in context.state:
        return None
    held = context.state.metric_records[KEY]
    labels, steps = held["labels"], held["steps"]
    del context.state[KEY]
    assert isinstance(labels, list)
    assert isinstance(steps, int)
    return Reported(tuple(int(label) for label in labels), steps)


__all__ = ["Reported", "plain_labels", "report_labels", "take_labels"]
