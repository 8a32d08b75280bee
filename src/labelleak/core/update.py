"""A client's update of the whole model: as it was received, and as defenses take and give it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

from labelleak.core.forms import named_like
from labelleak.core.lazy import Tensor, torch
from labelleak.core.measured import Measured
from labelleak.core.observation import Observation
from labelleak.core.task import HeadForm, Task, form_shape, tell_task
from labelleak.core.training import LocalTraining, weight_each
from labelleak.errors import BadInput


class Scope(IntEnum):
    """How much of an update a defense must see at once; the widest view of a chain counts."""

    ENTRY = 0  # each entry alone: noise, signs
    LAYER = 1  # each tensor or layer alone: pruning and clipping by layer
    UPDATE = 2  # everything: a global norm, a global top-k


@dataclass(frozen=True, eq=False)
class SharedTensors:
    """Gradients (or weight differences) by parameter name, of many trials of one model.

    Attributes:
        tensors: ``R x ...`` each, R trials; a single update has R = 1.
        head: module name of the head; ``""`` when the model is the head itself.
        buffers: names of floating-point tensors that are no parameters (batch norm's running
            statistics); like integer tensors they pass every defense untouched and uncounted.

    Raises:
        BadInput: if the tensors differ in R.

    >>> counter = torch.tensor([3])
    >>> update = SharedTensors({"fc.weight": torch.ones(1, 2, 4), "norm.steps": counter}, "fc")
    >>> list(update.floats), update.norms().tolist()
    (['fc.weight'], [2.8284271247461903])
    """

    tensors: Mapping[str, Tensor]
    head: str
    buffers: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if any(tensor.dim() == 0 for tensor in self.tensors.values()):
            raise BadInput("every tensor of an update needs a leading dimension of trials")
        rows = {len(tensor) for tensor in self.tensors.values()}
        if len(rows) > 1:
            raise BadInput(f"the tensors of an update differ in their number of trials: {rows}")

    @property
    def trials(self) -> int:
        """R, the trials that every tensor holds; 0 when nothing is shared."""
        return len(next(iter(self.tensors.values()), ()))

    @property
    def floats(self) -> dict[str, Tensor]:
        """The parameters: what defenses change and measure."""
        return {
            name: tensor
            for name, tensor in self.tensors.items()
            if tensor.is_floating_point() and name not in self.buffers
        }

    @property
    def head_weight(self) -> str:
        """Name of the head's weight."""
        return f"{self.head}.weight" if self.head else "weight"

    @property
    def head_bias(self) -> str:
        """Name of the head's bias, shared or not."""
        return f"{self.head}.bias" if self.head else "bias"

    def norms(self) -> Tensor:
        """L2 norm of each trial's parameters together, R numbers in float64."""
        total = torch.zeros(self.trials, dtype=torch.float64)
        for tensor in self.floats.values():
            total += tensor.detach().flatten(1).double().square().sum(dim=1).cpu()
        return total.sqrt()

    def replaced(self, tensors: Mapping[str, Tensor]) -> SharedTensors:
        """Return the update with some tensors exchanged, each cast to the type that it had."""
        cast = {name: tensor.to(self.tensors[name].dtype) for name, tensor in tensors.items()}
        return replace(self, tensors={**self.tensors, **cast})

    def without(self, *names: str) -> SharedTensors:
        """Return the update without some tensors, which are then not shared at all."""
        kept = {name: tensor for name, tensor in self.tensors.items() if name not in names}
        return replace(self, tensors=kept)


@dataclass(frozen=True, eq=False)
class ReceivedUpdate:
    """What is known of a client's update, wherever it came from: the one door to an observation.

    Attributes:
        before: weights that the server sent, by name; None in the gradient form.
        after: weights that the client returned (with leading dimensions ``*R`` for many clients).
        gradient: the shared gradient, by name, in place of both.
        difference: weights after minus before, by name, in place of both.
        training: how the client trained, as far as it is known.
        source: name of the files or of who sent it, for records.
        head: module name of the head, where the source names it.
        num_samples: labels behind it in all, where that is not batch size times steps.
        measured: what a capture measured beside.
        task: what the labels are, where it was told.
        transposed: whether the head is a transposed convolution, where a model tells; else its bias
            does.
        contradicted: what was told of the training in two ways, in words; see
            `labelleak.core.contradictions`.
    """

    before: Mapping[str, Tensor] | None = None
    after: Mapping[str, Tensor] | None = None
    gradient: Mapping[str, Tensor] | None = None
    difference: Mapping[str, Tensor] | None = None
    training: LocalTraining = field(default_factory=LocalTraining)
    source: str = "tensors"
    head: str | None = None
    num_samples: int | None = None
    measured: Measured = field(default_factory=Measured)
    task: Task | None = None
    transposed: bool | None = None
    contradicted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        both = self.before is not None and self.after is not None
        if [both, self.gradient is not None, self.difference is not None].count(True) != 1:
            raise BadInput(
                "an update is either weights before and after, a gradient, or a difference"
            )

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors among which the head is to be found."""
        found = next(t for t in (self.gradient, self.difference, self.after) if t is not None)
        return found

    def named_like(self, names: Iterable[str]) -> ReceivedUpdate:
        """Return it under a model's names, where a wrapper's prefix alone sets its own apart."""
        known = list(names)
        called: dict[str, Any] = {s: t and named_like(t, known) for s, t in self._given.items()}
        return replace(self, **{side: tensors for side, tensors in called.items() if tensors})

    def tied_like(self, names: Iterable[Iterable[str]]) -> ReceivedUpdate:
        """Return it with each tensor under all names of the weight that it is in a model.

        Args:
            names: those of each weight that several layers share.

        >>> one = ReceivedUpdate(gradient={"wte.weight": torch.eye(2)})
        >>> sorted(one.tied_like([("wte.weight", "lm_head.weight")]).tensors)
        ['lm_head.weight', 'wte.weight']
        """
        groups = [list(group) for group in names]
        sides: dict[str, Any] = {}
        for side, tensors in self._given.items():
            if tensors is not None:
                held = [(g, next((n for n in g if n in tensors), None)) for g in groups]
                more = {n: tensors[own] for group, own in held if own is not None for n in group}
                sides[side] = {**more, **tensors}
        return replace(self, **sides)

    @property
    def trained(self) -> LocalTraining:
        """How the client trained, a factor on its loss taken into its rate."""
        return self._told.unscaled

    @property
    def _told(self) -> LocalTraining:
        """What was told of the training; a factor on the loss that was measured wins."""
        if self.measured.gradient_scale is None:
            return self.training
        return replace(self.training, loss_share=1.0)

    @property
    def _given(self) -> dict[str, Mapping[str, Tensor] | None]:
        sides = ("before", "after", "gradient", "difference")
        return {side: getattr(self, side) for side in sides}

    def form_of(self, head: str, labels: Iterable[int] | None = None) -> HeadForm:
        """Tell the task of a head, and how its rows stand to softmax problems.

        Args:
            head: module name of the head.
            labels: labels behind the update, where they are known.

        Raises:
            BadInput: as `tell_task`.
        """
        weight, bias = (self._own(f"{head}.{p}" if head else p) for p in ("weight", "bias"))
        shape = (0, 0) if weight is None else tuple(weight.shape)
        turned = self.transposed
        if turned is None:  # its bias tells, where it can
            length = None if bias is None or bias.dim() != 1 else len(bias)
            turned = len(shape) > 2 and length == shape[1] != shape[0]
        shape = form_shape(shape, turned)
        if weight is None and bias is not None:
            shape = (len(bias), 0)
        told = None if labels is None else tuple(labels)
        task = tell_task(self.task, shape, self.measured.loss, told)
        return HeadForm(task, shape, turned=turned)

    def _own(self, name: str) -> Tensor | None:
        """Return one client's tensor of a name."""
        if self.before is not None and name in self.before:
            return self.before[name]
        return self.tensors.get(name)

    def covers(self, shapes: Mapping[str, Any]) -> bool:
        """Return whether it tells the gradient of each parameter: finite, and in its shape.

        Args:
            shapes: of the parameters, by name.

        >>> one = ReceivedUpdate(gradient={"fc.weight": torch.eye(2)})
        >>> one.covers({"fc.weight": (2, 2)}), one.covers({"fc.weight": (2, 2), "fc.bias": (2,)})
        (True, False)
        """
        sides = self._sides() if self.gradient is None else (self.gradient,)
        return all(
            name in side and side[name].shape == shape and bool(side[name].isfinite().all())
            for side in sides
            for name, shape in shapes.items()
        )

    def observe(self, head: str, *, rest: Iterable[str] | None = None) -> Observation:
        """Turn it into what the attacker sees at the head; see `labelleak.core.scale`.

        Args:
            head: module name of the head.
            rest: names of further parameters whose gradients are kept.

        Raises:
            BadInput: as `Observation.from_update` and `Observation.from_gradient`, and for class
                weights of another number of classes.
        """
        form = self.form_of(head)
        seen = self._seen(head, rest, form)
        if form.problems > 1 and self.measured.loss is None and _is_too_large(seen, self.trained):
            # No mean over classes is so large, so the loss was summed over them.
            seen = replace(self._seen(head, rest, replace(form, summed=True)), summed=True)
        seen = _unweighed(seen, self.trained)
        told = self.num_samples or seen.num_samples or self.measured.num_samples
        return replace(seen, num_samples=told)

    def _seen(self, head: str, rest: Iterable[str] | None, form: HeadForm) -> Observation:
        if self.gradient is None:
            before, after = self._sides()
            return Observation.from_update(
                before,
                after,
                head=head,
                training=self.trained,
                rest=rest,
                measured=self.measured,
                form=form,
            )
        return self._shared_gradient(self.gradient, head, rest, form)

    def _sides(self) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """Return the weights before and after, from nothing to the difference if it is all."""
        if self.difference is not None:
            if self.training.weight_decay:
                raise BadInput(
                    "weight decay cannot be taken out of a difference alone; give the weights that "
                    "were sent, too (`before`)"
                )
            return {n: torch.zeros_like(t) for n, t in self.difference.items()}, self.difference
        assert self.before is not None
        assert self.after is not None
        # Here, since defenses describe themselves without torch, which this needs.
        from labelleak.core.reparametrised import fold

        # A weight that is computed from several tensors is put together on both sides.
        folded = fold(self.after, self.before)
        return folded.before or {}, folded.tensors

    def _shared_gradient(
        self,
        gradient: Mapping[str, Tensor],
        head: str,
        rest: Iterable[str] | None,
        form: HeadForm,
    ) -> Observation:
        steps, size = self.training.local_steps or 1, self.training.batch_size
        names = [f"{head}.{part}" if head else part for part in ("weight", "bias")]
        factor = self._told.loss_share or 1.0
        if factor != 1:
            kept = {*names, *(rest or ())}
            gradient = {n: t / factor for n, t in gradient.items() if n in kept}
        seen = Observation.from_gradient(
            *(gradient.get(name) for name in names),
            num_samples=None if size is None else size * steps,
            local_steps=steps,
            form=form,
        )
        if rest is None:
            return seen
        return replace(seen, rest={name: gradient[name] for name in rest if name not in names})


def _unweighed(seen: Observation, training: LocalTraining) -> Observation:
    """Divide each of several labels' rows by the label's weight; check what else was told.

    Raises:
        BadInput: for weights of another number of classes, and for positives' where there are none.
    """
    weights, several = training.class_weights, seen.problems > 1
    rows = seen.problems if several else seen.num_classes
    if weights and len(weights) != rows:
        raise BadInput(f"`class_weights` names {len(weights)} classes, the head has {rows}")
    if training.pos_weight and not seen.paired:
        raise BadInput("`pos_weight` is of a binary cross-entropy; the task is another")
    weight_each(training.pos_weight, seen.problems)
    if not weights or not several:
        return seen
    each = torch.tensor(weights, dtype=torch.float64).repeat_interleave(2)
    return replace(
        seen,
        weight=None if seen.weight is None else seen.weight / each.to(seen.weight)[:, None],
        bias=None if seen.bias is None else seen.bias / each.to(seen.bias),
    )


def _is_too_large(seen: Observation, training: LocalTraining) -> bool:
    """Return whether an entry of a sigmoid's bias gradient is above 1, as no mean's is."""
    heaviest = max((1.0, *(training.pos_weight or ()), *(training.class_weights or ())))
    if seen.bias is None or not seen.lr_known:
        return False
    return bool((seen.bias.abs() > 1.01 * heaviest).any())


@dataclass(frozen=True, eq=False)
class Memory:
    """What a client keeps from one round to the next on behalf of a defense.

    Attributes:
        rounds: updates that were shared so far.
        residual: what was held back, by parameter name, ``R x ...``.
        momentum: momentum of the gradients, by parameter name, ``R x ...``.
        parts: memories of a chain's parts, in order.
    """

    rounds: int = 0
    residual: Mapping[str, Tensor] = field(default_factory=dict)
    momentum: Mapping[str, Tensor] = field(default_factory=dict)
    parts: tuple[Memory | None, ...] = ()


__all__ = ["Memory", "ReceivedUpdate", "Scope", "SharedTensors"]
