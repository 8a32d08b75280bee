"""How a client's training tells the audit, on the client, which labels it used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flwr.app import Context, MetricRecord
from numpy.typing import ArrayLike

from labelleak.core.task import NO_LABEL

KEY = "labelleak.labels"


@dataclass(frozen=True)
class Images:
    """How labels of maps are spread over images, as their arrays told.

    Attributes:
        sizes: labels of each image, in the order of the labels.
        axes: dimensions of an image; 0 where labels came one by one.
    """

    sizes: tuple[int, ...] = ()
    axes: int = 0


NO_IMAGES = Images()


@dataclass(frozen=True)
class Reported:
    """Labels behind one update.

    Attributes:
        labels: every label, in the order of use; one that was used twice stands twice.
        steps: local steps that they were spread over.
        images: how they are spread over images, if they are labels of maps.
    """

    labels: tuple[int, ...]
    steps: int = 1
    images: Images = NO_IMAGES

    @classmethod
    def of(cls, labels: ArrayLike) -> Reported:
        """Take the labels of one step.

        >>> Reported.of([[[0, 1], [1, -100]]]).images
        Images(sizes=(3,), axes=2)
        """
        array = np.asarray(labels)
        if array.ndim < 2:
            return cls(plain_labels(array))
        held = (array >= 0).reshape(len(array), -1).sum(axis=1)
        return cls(plain_labels(array), 1, Images(tuple(held.tolist()), array.ndim - 1))


def plain_labels(labels: ArrayLike) -> tuple[int, ...]:
    """Return labels one by one, those that are negative left out: they are none.

    >>> plain_labels([[0, 2], [-100, 1]])
    (0, 2, 1)
    """
    flat = np.asarray(labels).ravel()
    return tuple(flat[flat >= 0].astype(np.int64).tolist())


def report_labels(context: Context, labels: ArrayLike, *, ignore_index: int = NO_LABEL) -> None:
    """Note the labels of one local step for the audit mod; call it once for each step.

    They are kept in the client's own state and taken out of it before the reply is handed on;
    they are never put into a message.

    Args:
        context: the context that the ClientApp's function was given.
        labels: class indices of the step's batch, in an array of any shape: 0 and 1 of a binary
            task, rows of them of a multilabel one, masks of a dense one (images first, as the loss
            takes them), whose negative entries are pixels without a label.
        ignore_index: another number that stands for no label, as torch's losses have it.

    >>> from flwr.app import RecordDict
    >>> context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    >>> report_labels(context, [3, 3])
    >>> report_labels(context, [1])
    >>> take_labels(context).labels
    (3, 3, 1)
    """
    array = np.asarray(labels)
    new = Reported.of(np.where(array == ignore_index, NO_LABEL, array))
    held = take_labels(context) or Reported((), 0, Images((), new.images.axes))
    alike = held.images.axes == new.images.axes
    kept: dict[str, int | float | list[int] | list[float]] = {
        "labels": [*held.labels, *new.labels],
        "steps": held.steps + 1,
        "sizes": [*held.images.sizes, *new.images.sizes] if alike else [],
        "axes": new.images.axes if alike else 0,
    }
    context.state[KEY] = MetricRecord(kept)


def take_labels(context: Context) -> Reported | None:
    """Take the reported labels out of the client's state; None if there are none."""
    if KEY not in context.state:
        return None
    held = context.state.metric_records[KEY]
    labels, steps, sizes, axes = (held[name] for name in ("labels", "steps", "sizes", "axes"))
    del context.state[KEY]
    assert isinstance(labels, list)
    assert isinstance(steps, int)
    assert isinstance(sizes, list)
    assert isinstance(axes, int)
    return Reported(tuple(map(int, labels)), steps, Images(tuple(map(int, sizes)), axes))


__all__ = ["NO_IMAGES", "Images", "Reported", "plain_labels", "report_labels", "take_labels"]
