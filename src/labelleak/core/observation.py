"""What the attacker sees of an update: gradients of the mean loss at the head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np

from labelleak.core.head_sums import (
    BLOCK,
    HeadSums,
    row_sums_of,
    share_scaled,
    sums_are_shared,
    sums_of,
)
from labelleak.core.lazy import Tensor, torch
from labelleak.core.measured import Measured
from labelleak.core.rest import LazyGradients
from labelleak.core.scale import StepPath
from labelleak.core.task import HeadForm
from labelleak.core.training import LocalTraining
from labelleak.errors import BadInput
from labelleak.records.states import State

# Of numbers beyond it squares overflow, so that no check of scale or noise could judge them.
_LARGEST = 1e100


@dataclass(frozen=True, eq=False)
class Observation:
    """The gradient of the mean loss with respect to the head, averaged over local steps.

    Build it with `from_gradient` or `from_update`, which check what they are given.

    Attributes:
        weight: gradient of the head's weight, ``*R x K x D`` (K classes, D head inputs), or None.
        bias: gradient of the head's bias, ``*R x K``, or None when the head has none.
        num_samples: labels in all, batch size times local steps; None if the attacker has no idea.
        local_steps: optimiser steps behind the update; 1 is FedSGD.
        rest: gradients of the other parameters by name, ``*R x ...``, for the attacks that
            need the whole gradient; None when they were not kept.
        lr_known: False where the learning rate was not known, so that the gradients stand up to
            one positive factor; signs and ratios hold, sizes do not.
        scale: held where whoever made the update saw its scale and sign, repaired where they were
            put right, else not known; see `labelleak.core.limits`.
        largest: largest L1 norm that a right bias gradient may have after the defense that was
            declared; None where none was declared.
        problems: how many softmax problems the rows are of, one after the other.
        summed: whether the loss of several labels was taken to be summed over them, not averaged.
        paired: whether rows come in twos of which one is the other's negative, as a sigmoid's do.

    Leading dimensions ``*R`` hold many trials of one model, to be attacked in one call.
    """

    weight: Tensor | None
    bias: Tensor | None
    num_samples: int | None = None
    local_steps: int = 1
    rest: Mapping[str, Tensor] | None = None
    lr_known: bool = True
    scale: State = State.not_known
    largest: float | None = None
    paired: bool = False
    problems: int = 1
    summed: bool = False

    def __post_init__(self) -> None:
        weight, bias = self.weight, self.bias
        if weight is not None:
            rows = _checked_shape(weight, "weight gradient", least_dimensions=2)[:-1]
            if bias is not None:
                entries = _checked_shape(bias, "bias gradient", least_dimensions=1)
        elif bias is not None:
            rows = _checked_shape(bias, "bias gradient", least_dimensions=1)
        else:
            raise BadInput(
                "an observation needs the head's weight gradient, its bias gradient or both"
            )
        if rows[-1] < 2:
            raise BadInput(f"a head needs at least 2 classes, this one has {rows[-1]}")
        if weight is not None and bias is not None and rows != entries:
            raise BadInput(
                f"the bias gradient has shape {tuple(entries)}; a weight gradient of shape "
                f"{tuple(weight.shape)} needs {tuple(rows)}"
            )
        if self.num_samples is not None:
            _check_number(self.num_samples, "num_samples")
        _check_number(self.local_steps, "local_steps")
        # A NaN or infinity anywhere in a row survives into its sum, so K numbers tell it all.
        if weight is not None:
            vars(self)["row_sums"] = found = self._sum_rows()  # as if they had been asked for
            _check_finite(found, "weight")
        if bias is not None:
            _check_finite(self.bias_gradient, "bias")

    @classmethod
    def from_gradient(
        cls,
        weight: Tensor | np.ndarray | None,
        bias: Tensor | np.ndarray | None = None,
        *,
        num_samples: int | None = None,
        local_steps: int = 1,
        form: HeadForm | None = None,
    ) -> Observation:
        """Take a shared gradient of the mean loss, as FedSGD sends it.

        Args:
            weight: ``*R x K x D`` gradient of the head's weight, or None.
            bias: ``*R x K`` gradient of the head's bias, or None.
            num_samples: labels behind the gradient in all; None when unknown.
            local_steps: steps over which the gradient was averaged.
            form: of the head, where its own rows are not those of one softmax.

        Raises:
            BadInput: for shapes that do not fit, fewer than 2 classes, NaN, infinite values or
                ones beyond 1e100, sparse, integer or meta tensors, or numbers below 1.

        >>> weight = torch.tensor([[-0.5, -0.5], [0.25, 0.25], [0.25, 0.25]])
        >>> Observation.from_gradient(weight, num_samples=1).row_sums.tolist()
        [-1.0, 0.5, 0.5]
        """
        own = _as_tensor(weight), _as_tensor(bias)
        if form is None:
            return cls(*own, num_samples, local_steps)
        rows, paired, problems = form.lift(*own), form.paired, form.problems
        return cls(*rows, num_samples, local_steps, paired=paired, problems=problems)

    @classmethod
    def from_update(
        cls,
        before: Mapping[str, Tensor],
        after: Mapping[str, Tensor],
        *,
        head: str,
        training: LocalTraining | None = None,
        rest: Iterable[str] | None = None,
        measured: Measured | None = None,
        form: HeadForm | None = None,
        **known: Any,
    ) -> Observation:
        """Turn weights before and after local training into the mean gradient along the way.

        What the optimiser did linearly is undone (`labelleak.core.scale`). It is exact for one
        step; over several steps the weights are taken on the straight line from before to after.

        Args:
            before: state dict that the server sent (leading dimensions ``*R`` allowed).
            after: state dict that the client returned.
            head: module name of the head; ``""`` when the model is the head itself.
            training: how the client trained, as far as it is known. Without a learning rate the
                gradients come out times it, `lr_known` is False, and a flag is raised. Without a
                batch size the number of samples is not known.
            rest: names of further parameters whose mean gradients are kept, for the attacks that
                need the whole gradient: those that the client trained, not buffers. The
                head's own names are passed over.
            measured: what a capture measured beside.
            form: of the head, where its own rows are not those of one softmax.
            known: fields of `LocalTraining`, in place of one (``lr=0.1, batch_size=4``).

        Raises:
            BadInput: if the head's weight or a name of the rest is not in both dicts, shapes
                differ, a field is out of its range, or weight decay or a proximal term is to be
                undone without the learning rate; and as `from_gradient`.

        >>> before = {"fc.weight": torch.zeros(2, 3)}
        >>> after = {"fc.weight": torch.tensor([[0.2, 0.2, 0.2], [-0.2, -0.2, -0.2]])}
        >>> seen = Observation.from_update(before, after, head="fc", lr=0.1, batch_size=4)
        >>> seen.row_sums.round(6).tolist(), seen.num_samples
        ([-6.0, 6.0], 4)
        """
        told = training or LocalTraining()
        if known:
            told = LocalTraining(**known).over(told)
        path = StepPath.of(told, measured=measured)

        weight, bias = (f"{head}.{part}" if head else part for part in ("weight", "bias"))

        def mean_gradient(name: str) -> Tensor:
            own = path.of_bias if name == bias else path
            return _mean_gradient(own, *_pair(before, after, name))

        others = None if rest is None else [name for name in rest if name not in (weight, bias)]
        for name in others or ():
            _pair(before, after, name)
        moved = mean_gradient(bias) if bias in before or bias in after else None
        rows = (mean_gradient(weight), moved)
        return cls(
            *(rows if form is None else form.lift(*rows)),
            None if told.batch_size is None else told.batch_size * path.steps,
            path.steps,
            None
            if others is None
            else LazyGradients(tuple(others), lambda: {n: mean_gradient(n) for n in others}),
            told.lr is not None,
            paired=form is not None and form.paired,
            problems=1 if form is None else form.problems,
        )

    def of_problem(self, number: int) -> Observation:
        """Return what was seen of one softmax problem of several."""
        size = self.num_classes // self.problems
        rows = slice(number * size, number * size + size)
        return replace(
            self,
            weight=None if self.weight is None else self.weight[..., rows, :],
            bias=None if self.bias is None else self.bias[..., rows],
            rest=None,
            problems=1,
        )

    @property
    def num_classes(self) -> int:
        """K, the rows of the head."""
        if self.weight is not None:
            return int(self.weight.shape[-2])
        assert self.bias is not None
        return int(self.bias.shape[-1])

    @property
    def trials(self) -> tuple[int, ...]:
        """The leading dimensions ``*R``; empty for a single update."""
        if self.weight is not None:
            return tuple(self.weight.shape[:-2])
        assert self.bias is not None
        return tuple(self.bias.shape[:-1])

    @cached_property
    def row_sums(self) -> np.ndarray:
        """Row sums g_i of the weight gradient, ``*R x K`` float64: LLG's statistic.

        Raises:
            BadInput: when the weight gradient was not shared.
        """
        return self._sum_rows()

    def _sum_rows(self) -> np.ndarray:
        if self.weight is None:
            raise BadInput("the weight gradient was not shared, so it has no row sums")
        if sums_are_shared() and self.weight.shape[-2:].numel() > BLOCK:
            return self.sums.rows
        return row_sums_of(self.weight)

    @cached_property
    def sums(self) -> HeadSums:
        """What one pass over the weight gradient tells.

        Raises:
            BadInput: when the weight gradient was not shared.
        """
        if self.weight is None:
            raise BadInput("the weight gradient was not shared, so it has no sums")
        return sums_of(self.weight)

    @cached_property
    def head_is_still(self) -> bool:
        """Whether nothing of the head moved in any trial: frozen, or not shared.

        >>> Observation(torch.zeros(3, 2), None).head_is_still
        True
        """
        moved = self.weight is not None and self.sums.largest.any()
        return not moved and not (self.bias is not None and self.bias.any())

    @cached_property
    def bias_gradient(self) -> np.ndarray:
        """The bias gradient as ``*R x K`` float64.

        Raises:
            BadInput: when the bias gradient was not shared.
        """
        if self.bias is None:
            raise BadInput("the bias gradient was not shared, or the head has no bias")
        return np.asarray(self.bias.detach().cpu().double().numpy())


def _as_tensor(values: Any) -> Tensor | None:
    if values is None or isinstance(values, torch.Tensor):
        return values
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"a gradient must be a tensor or array of numbers ({error})") from error


def _checked_shape(tensor: Tensor, name: str, *, least_dimensions: int) -> torch.Size:
    """Return the shape of a tensor that can be a gradient; refuse any other."""
    if tensor.layout is not torch.strided:
        raise BadInput(f"the {name} is sparse; make it dense first")
    if tensor.is_meta:
        raise BadInput(f"the {name} has a shape and no data (device meta)")
    if not tensor.is_floating_point():
        raise BadInput(f"the {name} must hold floating-point numbers, not {tensor.dtype}")
    shape = tensor.shape
    if len(shape) < least_dimensions or 0 in shape:
        raise BadInput(
            f"the {name} has shape {tuple(shape)}; it needs at least "
            f"{least_dimensions} dimension(s) and no empty one"
        )
    return shape


def _check_number(number: object, name: str) -> None:
    # What is an int needs no look at who else may call itself one.
    if not (type(number) is int or isinstance(number, Integral)) or number < 1:
        raise BadInput(f"{name} must be a whole number of at least 1, not {number!r}")


def _check_finite(rows: np.ndarray, name: str) -> None:
    if np.count_nonzero(np.abs(rows) < _LARGEST) != rows.size:  # NaN is below nothing
        raise BadInput(
            f"the {name} gradient holds NaN or infinite numbers, overflows or goes beyond 1e100; "
            "did the training diverge?"
        )


def _pair(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], name: str
) -> tuple[Tensor, Tensor]:
    """Fetch one parameter from both state dicts."""
    start, end = _as_tensor(before.get(name)), _as_tensor(after.get(name))
    if start is None or end is None:
        side = "before" if start is None else "after"
        names = ", ".join(list(before if start is None else after)[:6])
        raise BadInput(f"the weights {side} the update have no {name!r}; they hold: {names}")
    if start.shape[-end.dim() :] != end.shape and end.shape[-start.dim() :] != start.shape:
        raise BadInput(
            f"{name} has shape {tuple(start.shape)} before and {tuple(end.shape)} after the update"
        )
    return start.detach(), end.detach()


def _mean_gradient(path: StepPath, start: Tensor, end: Tensor) -> Tensor:
    """Return the mean gradient in float64; of large weights a block at a time, in float32.

    The weights themselves were rounded more than single precision rounds their difference.
    """
    small = end.shape[-2:].numel() <= BLOCK
    if small or start.shape != end.shape or torch.float64 in (start.dtype, end.dtype):
        return path.mean_gradient(start.double(), end.double())
    gradient = torch.empty(end.shape, dtype=torch.float32, device=end.device)
    step = max(1, BLOCK // 8 * len(end) // end.numel())
    for place in range(0, len(end), step):
        part = slice(place, place + step)
        gradient[part] = path.mean_gradient(start[part].float(), end[part].float())
    if path.scales_alone:
        share_scaled(end, start, gradient, -1 / (path.rate * path.scale))
    return gradient
