"""What a model's labels are: one class an input, one of two, several, a map, or next tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import Any

from labelleak.core.lazy import Tensor, torch
from labelleak.core.resizing import usual_resizing
from labelleak.errors import BadInput, NotApplicable, unknown_name

ASKED = (
    "the head has one output, and binary cross-entropy and squared error look alike in an update; "
    "say `task` binary if its label is one of two classes"
)
# What a position without a label holds, as torch's cross-entropy has it.
NO_LABEL = -100
REGRESSION = "a regression has no labels to count; its update gives away a sum of targets at most"


class Task(StrEnum):
    """Which labels a loss compares the outputs with."""

    classes = "classes"  # softmax over all outputs: one class for each input
    binary = "binary"  # the sigmoid of one output: one of two classes
    multilabel = "multilabel"  # a sigmoid for each output: each class is there or not
    dense = "dense"  # a class for each pixel, voxel or position, by convolution
    tokens = "tokens"  # a class for each position of a text: the token that comes next

    def problems(self, num_classes: int) -> int:
        """Return how many labels of an input are told one by one.

        >>> Task.multilabel.problems(5), Task.dense.problems(5)
        (5, 1)
        """
        return num_classes if self is Task.multilabel else 1


# Tasks of several labels an input, and those of a label at every position.
SEVERAL = (Task.dense, Task.multilabel, Task.tokens)
BY_POSITION = (Task.dense, Task.tokens)


def read_task(text: str | None) -> Task | None:
    """Return the task of a name; None for none.

    Raises:
        BadInput: for an unknown name, and for a regression.

    >>> read_task("binary")
    <Task.binary: 'binary'>
    """
    if text is None:
        return None
    if text == "regression":
        raise BadInput(REGRESSION)
    if text not in set(Task):
        raise unknown_name("task", str(text), [str(task) for task in Task])
    return Task(text)


@dataclass(frozen=True)
class HeadForm:
    """How a head's own rows stand to the softmax problems that attacks work on.

    The sigmoid of one logit z is the softmax of (0, z), so a row with the gradient g stands for the
    two rows -g and g. A convolution is a linear layer on patches, so its kernel is one long row.

    Of several labels each class is a problem of its own, and the gradient is that of the losses
    summed over classes: torch's plain mean divides by K more, which is undone.

    Attributes:
        task: what its labels are.
        shape: of its own weight: ``K x D``, or ``K x C x ...`` of a convolution.
        summed: whether a loss of several labels is summed over classes, not averaged.
        turned: whether it is a transposed convolution's, whose own weight is ``C x K x ...``. Each
            position sums up inputs, so the kernel's entries together are one row on that sum.

    >>> form = HeadForm(Task.binary, (1, 4))
    >>> form.paired, form.num_rows
    (True, 2)
    """

    task: Task
    shape: tuple[int, ...]
    summed: bool = False
    turned: bool = False

    @property
    def paired(self) -> bool:
        """Whether each row of the head stands for two: the class is absent, or present."""
        return self.task in (Task.binary, Task.multilabel) or self.shape[0] == 1

    @property
    def num_rows(self) -> int:
        """Rows of the softmax problems together."""
        return self.shape[0] * (2 if self.paired else 1)

    @property
    def choices(self) -> int:
        """Classes of each problem."""
        return 2 if self.paired else self.shape[0]

    @property
    def problems(self) -> int:
        """How many softmax problems there are, each with labels of its own."""
        return self.task.problems(self.shape[0])

    @property
    def _factor(self) -> int:
        return 1 if self.summed else self.problems

    def lift(
        self, weight: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the rows of the softmax problems of a head's gradient.

        Args:
            weight: ``*R x`` the head's own shape, or None.
            bias: ``*R x K``, or None.

        >>> HeadForm(Task.binary, (1, 2)).lift(torch.tensor([[1.0, 2.0]]), None)[0].tolist()
        [[-1.0, -2.0], [1.0, 2.0]]
        """
        if weight is not None and self.turned:
            weight = weight.flatten(2 - len(self.shape)).sum(-1).mT
        elif weight is not None and len(self.shape) > 2:
            weight = weight.flatten(1 - len(self.shape))
        if not self.paired:
            return weight, bias
        weight = None if weight is None else self._factor * weight
        bias = None if bias is None else self._factor * bias
        return (
            None if weight is None else torch.stack((-weight, weight), -2).flatten(-3, -2),
            None if bias is None else torch.stack((-bias, bias), -1).flatten(-2),
        )

    def raw(
        self, weight: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the head's own gradient of the rows of its softmax problems: `lift` undone.

        Raises:
            NotApplicable: for a transposed convolution, whose kernel is not told by its sum.
        """
        if self.turned:
            raise NotApplicable("of a transposed convolution the head's own gradient is not made")
        if self.paired:
            weight = None if weight is None else weight[..., 1::2, :] / self._factor
            bias = None if bias is None else bias[..., 1::2] / self._factor
        if weight is not None and len(self.shape) > 2:
            weight = weight.reshape(*weight.shape[:-1], *self.shape[1:])
        return weight, bias


def form_shape(own: Sequence[int], turned: bool) -> tuple[int, ...]:
    """Return a head's shape with the classes first.

    >>> form_shape((8, 3, 2, 2), True), form_shape((3,), False)
    ((3, 8, 2, 2), (3, 0))
    """
    first, second, *rest = (*own, 0)[: max(2, len(own))]
    return (second, first, *rest) if turned else (first, second, *rest)


@dataclass(frozen=True)
class Lift:
    """A forward hook: a model's outputs as the logits of softmax problems, classes second.

    `torch.nn.functional.cross_entropy` of what it returns is then the client's loss.

    Attributes:
        task: what the labels are.
        size: of the maps that the loss compares with labels; smaller ones are resized to it as
            images usually are, linearly between neighbours. Empty takes them as they are.
    """

    task: Task
    size: tuple[int, ...] = ()

    def __call__(self, _module: Any, _inputs: Any, outputs: Any) -> Any:
        """Put a logit of 0 beside each."""
        if self.task is Task.tokens:
            return logits_of(outputs).movedim(-1, 1)
        if not isinstance(outputs, torch.Tensor):
            return outputs
        return lift_outputs(self._enlarged(outputs), self.task)

    def _enlarged(self, outputs: Tensor) -> Tensor:
        """Resize maps to the size of their labels, as whoever trains on them has to."""
        if outputs.dim() != 2 + len(self.size) or outputs.shape[2:] == self.size:
            return outputs
        return usual_resizing(len(self.size))(outputs, self.size)


def lift_outputs(outputs: Tensor, task: Task) -> Tensor:
    """Return a model's outputs as logits of softmax problems, classes second.

    >>> lift_outputs(torch.tensor([[1.5], [2.0]]), Task.binary).tolist()
    [[0.0, 1.5], [0.0, 2.0]]
    """
    if task is Task.binary:
        outputs = outputs.reshape(len(outputs))
    elif task is not Task.multilabel and (outputs.dim() < 2 or outputs.shape[1] != 1):
        return outputs
    elif task is not Task.multilabel:
        outputs = outputs.squeeze(1)
    return torch.stack((torch.zeros_like(outputs), outputs), 1)


def logits_of(outputs: Any) -> Tensor:
    """Return the logits that a language model gave: a tensor, or in an object, mapping or tuple.

    Raises:
        BadInput: if there are none for each position of each text.

    >>> logits_of({"loss": torch.tensor(1.0), "logits": torch.zeros(2, 5, 9)}).shape
    torch.Size([2, 5, 9])
    """
    found = outputs
    if isinstance(outputs, Mapping):
        found = outputs.get("logits")
    elif isinstance(outputs, tuple | list):
        found = next((one for one in outputs if _are_logits(one)), None)
    elif not isinstance(outputs, torch.Tensor):
        found = getattr(outputs, "logits", None)
    if not _are_logits(found):
        shape = tuple(getattr(found, "shape", ())) or type(outputs).__name__
        raise BadInput(
            f"a model of tokens gives texts x positions x tokens, this one {shape}; wrap it"
        )
    logits: Tensor = found
    return logits


def _are_logits(one: Any) -> bool:
    return isinstance(one, torch.Tensor) and one.dim() == 3 and one.is_floating_point()


def next_tokens(inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the label of each position; labels that are the inputs are moved by one.

    Hugging Face's models take ``labels=input_ids`` and compare a position with the next token.

    >>> ids = torch.tensor([[5, 6, 7]])
    >>> next_tokens(ids, ids).tolist(), next_tokens(ids, torch.tensor([[6, 7, 8]])).tolist()
    ([[6, 7, -100]], [[6, 7, 8]])
    """
    held = labels >= 0
    if labels.shape != inputs.shape or not held.any():
        return labels
    if not torch.equal(inputs[held], labels[held].to(inputs.dtype)):
        return labels
    ends = torch.full_like(labels[:, :1], NO_LABEL)
    return torch.cat((labels[:, 1:], ends), 1)


def tell_task(
    told: Task | None,
    shape: Sequence[int],
    loss: str | None = None,
    labels: Sequence[int] | None = None,
) -> Task:
    """Tell the task of a head: as it was told, else by its loss, its shape or its labels.

    Args:
        told: by the user.
        shape: of the head's weight.
        loss: kind of loss that a capture measured.
        labels: labels behind the update, where they are known.

    Raises:
        BadInput: if the head does not fit the task, or it must be asked for.

    >>> tell_task(None, (5, 8, 1, 1)), tell_task(None, (1, 4), "bce")
    (<Task.dense: 'dense'>, <Task.binary: 'binary'>)
    """
    rows = shape[0]
    if told is not None:
        _check_fit(told, rows, len(shape) > 2)
        return told
    if len(shape) > 2:
        return Task.dense
    if rows == 1:
        if loss == "bce" or (labels is not None and set(labels) <= {0, 1}):
            return Task.binary
        raise BadInput(ASKED)
    return Task.multilabel if loss == "bce" else Task.classes


def _check_fit(task: Task, rows: int, is_convolution: bool) -> None:
    if task is Task.binary and rows != 1:
        raise BadInput(
            f"a binary task has a head of one output, this one has {rows}; say `task` classes if "
            "one of them is right, or multilabel if several may be"
        )
    if task is Task.classes and rows == 1:
        raise BadInput("a head of one output tells no classes apart; say `task` binary")
    if task is Task.tokens and rows < 2:
        raise BadInput("a head of one output names no tokens")
    if is_convolution and task is not Task.dense:
        raise BadInput("the head is a convolution, so its labels are pixels; say `task` dense")


def check_rows(task: Task, num_classes: int) -> int:
    """Return how many rows the head of so many classes has.

    Raises:
        BadInput: for a binary task of other than two classes.
    """
    if task is Task.binary and num_classes != 2:
        raise BadInput(f"a binary task has two classes, the data have {num_classes}")
    return 1 if task is Task.binary else num_classes


def labels_each(labels: Tensor, task: Task = Task.dense) -> int:
    """Return how many labels an input has in each problem: its positions, of a dense task.

    >>> labels_each(torch.zeros(3, 4, 4))
    16
    """
    return 1 if task is Task.multilabel else prod(labels.shape[1:])


__all__ = [
    "BY_POSITION",
    "NO_LABEL",
    "SEVERAL",
    "HeadForm",
    "Lift",
    "Task",
    "check_rows",
    "form_shape",
    "labels_each",
    "lift_outputs",
    "logits_of",
    "next_tokens",
    "read_task",
    "tell_task",
]
