"""Gather an update from its files or tensors, and turn it into an observation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor, nn

from labelleak.core.observation import Observation
from labelleak.core.reparametrised import fold
from labelleak.core.tensor_names import as_tensors, name_tensors
from labelleak.core.training import LocalTraining
from labelleak.errors import BadInput
from labelleak.files.limits import LIMIT
from labelleak.files.measured import Measured
from labelleak.files.notes import Note, read_note
from labelleak.files.tensors import read_tensors

Source = str | os.PathLike[str] | Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Update:
    """A client's update: either both sides of its training, or a gradient.

    Attributes:
        before: weights that the server sent, by name; None in the gradient form.
        after: weights that the client returned.
        gradient: the shared gradient, by name; None in the other form.
        made: how the client made it, as far as it is known.
        source: name of the files, for records.
        head: module name of the head, where the files name it.
        measured: what a capture measured beside.
    """

    before: Mapping[str, Tensor] | None
    after: Mapping[str, Tensor] | None
    gradient: Mapping[str, Tensor] | None
    made: LocalTraining
    source: str
    head: str | None = None
    measured: Measured = field(default_factory=Measured)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors among which the head is to be found."""
        found = self.gradient if self.gradient is not None else self.after
        assert found is not None
        return found


def gather_update(
    *,
    before: Source | None = None,
    after: Source | None = None,
    gradient: Source | None = None,
    update: Source | None = None,
    made: LocalTraining | None = None,
    max_bytes: int = LIMIT,
) -> Update:
    """Read an update in one of its three forms: before and after, gradient, or one file of both.

    Args:
        before: weights that the server sent: a path, or tensors by name.
        after: weights that the client returned.
        gradient: the shared gradient, in place of both.
        update: a file of `CapturedUpdate.save`, in place of both.
        made: what is known of the client's training; it wins over what files say of themselves.
        max_bytes: largest file that is read.

    Raises:
        BadInput: if no form or more than one is given, or a file cannot be read.
    """
    forms = {
        "--before and --after": before is not None or after is not None,
        "--gradient": gradient is not None,
        "--update": update is not None,
    }
    if sum(forms.values()) != 1 or (before is None) != (after is None):
        raise BadInput("give the update in one form: --before and --after, --gradient, or --update")
    given = made or LocalTraining()
    if update is not None:
        tensors, noted = _load(update, "update", max_bytes)
        sides = [_side(tensors, f"{side}.") for side in ("before", "after")]
        if not all(sides):
            raise BadInput(
                "--update takes a file of labelleak's capture, with tensors before.* and after.*; "
                "use --before and --after, or --gradient"
            )
        known = given.over(noted.training)
        return Update(sides[0], sides[1], None, known, _source(update), noted.head, noted.measured)
    if gradient is not None:
        tensors, noted = _load(gradient, "gradient", max_bytes)
        known = given.over(noted.training)
        source = _source(gradient)
        return Update(None, None, tensors, known, source, noted.head, noted.measured)
    assert before is not None
    assert after is not None
    start, noted = _load(before, "before", max_bytes)
    end, noted_after = _load(after, "after", max_bytes)
    known = given.over(noted_after.training).over(noted.training)
    place = noted_after.head or noted.head
    measured = noted_after.measured if noted_after.measured.known else noted.measured
    return Update(start, end, None, known, _source(after), place, measured)


def observe(update: Update, head: str, model: nn.Module | None) -> Observation:
    """Turn an update into what the attacker sees at the head.

    The gradients of the other parameters come along where the model is known and one
    step of SGD, or a shared gradient, tells them. Weights without a learning rate give the
    gradient up to a factor, which a flag says.

    Raises:
        BadInput: if weight decay or a proximal term is to be undone without the learning rate; and
            as `Observation`.
    """
    made = update.made
    steps = made.local_steps or 1
    prefix = f"{head}." if head else ""
    if update.gradient is not None:
        size = _labels(update)
        weight, bias = (update.gradient.get(f"{prefix}{part}") for part in ("weight", "bias"))
        seen = Observation.from_gradient(weight, bias, num_samples=size, local_steps=steps)
        return replace(seen, rest=_rest(update.gradient, prefix, model))
    assert update.before is not None
    assert update.after is not None
    # A weight that is computed from several tensors is put together on both sides.
    folded = fold(update.after, update.before)
    sides = folded.before or {}, folded.tensors
    seen = Observation.from_update(*sides, head=head, training=made)
    bias, scale = seen.bias, update.measured.gradient_scale or 1.0
    if bias is not None and update.measured.decays_bias is False:
        spared = replace(made, weight_decay=None)
        bias = Observation.from_update(*sides, head=head, training=spared).bias
    return replace(
        seen,
        weight=None if seen.weight is None else seen.weight / scale,
        bias=None if bias is None else bias / scale,
        num_samples=_labels(update),
    )


def _labels(update: Update) -> int | None:
    """Return the number of labels in all; None when unknown."""
    if update.made.batch_size is None:
        return update.measured.num_samples
    return update.made.batch_size * (update.made.local_steps or 1)


def _rest(
    gradient: Mapping[str, Tensor], prefix: str, model: nn.Module | None
) -> Mapping[str, Tensor] | None:
    """Keep the other parameters' gradients, if all of the model's are there with its shapes."""
    if model is None:
        return None
    others = {
        name: parameter.shape
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name not in (f"{prefix}weight", f"{prefix}bias")
    }
    fitting = all(name in gradient and gradient[name].shape == s for name, s in others.items())
    return {name: gradient[name] for name in others} if fitting else None


def _load(source: Source, wanted: str, max_bytes: int) -> tuple[dict[str, Tensor], Note]:
    if isinstance(source, Mapping):
        return as_tensors(source), Note()
    file = read_tensors(source, max_bytes=max_bytes)
    noted = read_note(file.metadata, file.path)
    if noted.part is not None and noted.part != wanted:
        raise BadInput(
            f"{file.path.name} says that it holds the part {noted.part!r}, not {wanted!r}"
        )
    return name_tensors(file.tensors), noted


def _side(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _source(source: Source) -> str:
    return "tensors" if isinstance(source, Mapping) else Path(source).name
