"""Capture an update from anybody's training loop, to attack it or to write it to a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from labelleak.core.measured import Measured
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import transposed
from labelleak.errors import BadInput, few
from labelleak.files.captured_training import TrainingSummary, summarise
from labelleak.files.head_watch import HeadWatch
from labelleak.files.model_watch import ModelWatch
from labelleak.files.notes import Note, write_tensors
from labelleak.records.files import write_whole


class CapturedUpdate:
    """What a client's training did to its model, measured at its head.

    Attributes:
        before: state dict at the start of the block.
        after: state dict at its end; empty inside the block.
    """

    def __init__(self, model: nn.Module, given: LocalTraining, head: str | None) -> None:
        self._model = model
        self._given = given
        self._watch = ModelWatch(model, head)
        self.before: dict[str, Tensor] = _copy(model)
        self.after: dict[str, Tensor] = {}
        self._stepped = True

    @property
    def made(self) -> LocalTraining:
        """How the update was made: what was given, and what was measured; None is unknown."""
        return self._given.over(self._summary.made)

    @property
    def sides(self) -> dict[str, Any]:
        """What was shared: weights before and after, or the gradient where nothing took a step."""
        shared = {"after": self.after} if self._stepped else {"gradient": self.gradient}
        return {"before": self.before, **shared}

    @property
    def head(self) -> str | None:
        """Module name of the head; None where it is not known."""
        return self._summary.head

    @property
    def measured(self) -> Measured:
        """What else was measured: the loss, its scale, and what is in doubt."""
        summary = self._summary
        notes = (*summary.doubts, *summary.notes, *self._other_size(summary.made.batch_size))
        seen = summary.measured
        if not self._stepped:
            seen = _of_the_mean(seen)
        return replace(seen, notes=notes or None, doubtful=bool(summary.doubts) or None)

    def _other_size(self, size: int | None) -> tuple[str, ...]:
        """Say where the batch size that was given is not what was measured."""
        given = self._given.batch_size
        if None in (given, size) or given == size:
            return ()
        return (f"the batch size that was given is {given}; {size} rows were seen a step",)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was seen that the figures do not say, what is in doubt first."""
        return self.measured.notes or ()

    @property
    def gradient(self) -> dict[str, Tensor]:
        """The gradient of the mean loss, averaged over the steps, by parameter name.

        That of the head is measured at its output, so it does not depend on what was done to
        ``.grad``; the others' are what the optimiser used, over the same factor.
        """
        found: dict[str, Tensor] = {}
        for watch in self._watch.candidates():
            for part, value in watch.mean.items():
                kind = dict(watch.layer.named_parameters()).get(part, value).dtype
                found[f"{watch.name}.{part}" if watch.name else part] = value.to(kind)
            found |= {name: value for name, value in watch.rest.items() if name not in found}
        return found

    @property
    def _summary(self) -> TrainingSummary:
        watches = self._watch.candidates()
        if not watches:
            none = "no linear layer of the model was seen with a gradient, so its head is unknown"
            return TrainingSummary(None, LocalTraining(), Measured(), (), (none,))
        summaries = [summarise(watch, self._given.lr) for watch in watches]
        return summaries[0] if len(summaries) == 1 else _common(watches, summaries)

    @property
    def transposed(self) -> bool | None:
        """Whether the head is a transposed convolution; None where it is not known."""
        if self.head is None:
            return None
        return isinstance(self._model.get_submodule(self.head), transposed())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write both sides to one file, for ``labelleak attack --update FILE``."""
        self._check()
        both = {f"{side}.{n}": t for side, held in self.sides.items() for n, t in held.items()}
        write_tensors(Path(path), both, self._note("update"))
        return Path(path)

    def save_before(self, path: str | os.PathLike[str]) -> Path:
        """Write the weights before, for ``labelleak attack --before FILE``."""
        write_tensors(Path(path), self.before, self._note("before"))
        return Path(path)

    def save_after(self, path: str | os.PathLike[str]) -> Path:
        """Write the weights after, for ``labelleak attack --after FILE``.

        Raises:
            BadInput: where nothing took a step.
        """
        self._check()
        if not self._stepped:
            raise BadInput(
                "no step was taken, so the weights after are those before; use `save_gradient`"
            )
        write_tensors(Path(path), self.after, self._note("after"))
        return Path(path)

    def save_gradient(self, path: str | os.PathLike[str]) -> Path:
        """Write the mean gradient, for ``labelleak attack --gradient FILE``."""
        self._check()
        if not self.gradient:
            raise BadInput("no optimiser step on this model was seen, so there is no gradient")
        write_tensors(Path(path), self.gradient, self._note("gradient"))
        return Path(path)

    def save_truth(self, path: str | os.PathLike[str]) -> Path:
        """Write the labels that were trained on, for ``labelleak attack --truth FILE``; private!

        Of maps, ``images`` says how many of them each image has, where that was seen.

        Raises:
            BadInput: if they could not be told, or are soft.
        """
        self._check()
        watches = self._watch.candidates()
        labels = watches[0].labels() if len(watches) == 1 else None
        if labels is None:
            raise BadInput("the labels could not be told from the gradient at the head")
        told = {"labels": labels, **_images(watches[0])}
        write_whole(Path(path), json.dumps(told).encode(), private=True)
        return Path(path)

    def _check(self) -> None:
        if not self.after:
            raise BadInput("the update is not complete; save it after the capture block has ended")

    def _note(self, part: str) -> Note:
        measured = self.measured
        if part == "gradient":
            measured = _of_the_mean(measured)
        return Note(self.made, self.head, part, measured)

    def _fill(self, *_: object) -> None:
        """Copy what did not exist at the start, of lazy modules."""
        now = _copy(self._model) if self._lazy() else {}
        self.before |= {name: value for name, value in now.items() if name not in self.before}

    def _lazy(self) -> bool:
        return len(self.before) < len(self._model.state_dict())

    def _finish(self) -> None:
        self._watch.finish()
        self._fill()
        self.after = _copy(self._model)
        if all(torch.equal(self.before[n], self.after[n]) for n, _ in _parameters(self._model)):
            self._stepped = not self._watch.take_unstepped()


@contextmanager
def capture(
    model: nn.Module,
    *,
    lr: float | None = None,
    batch_size: int | None = None,
    head: str | None = None,
) -> Iterator[CapturedUpdate]:
    """Watch the training that anybody does on a model inside the block.

    What happened is measured at the head: which loss, how many labels a step, its reduction and
    scale, and every change of the head's parameters, whatever made it. What cannot be told
    stays None, and `CapturedUpdate.notes` says so. What is given wins over what is seen. The
    model and the training are not changed; compiled models run without compilation inside the
    block. A block that raises leaves no update.

    Args:
        model: the model that is trained.
        lr: learning rate, where the training loop is not one of torch's optimisers.
        batch_size: labels per step, where it should not be what was measured.
        head: module name of the head; found if left out.

    Raises:
        BadInput: if the model is none, or no linear layer has the head's name.

    >>> model = nn.Linear(3, 2)
    >>> optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with capture(model) as update:
    ...     loss = nn.functional.cross_entropy(model(torch.eye(4, 3)), torch.zeros(4).long())
    ...     loss.backward()
    ...     optimiser.step()
    >>> update.made.lr, update.made.batch_size, sorted(update.gradient)
    (0.1, 4, ['bias', 'weight'])
    """
    if not isinstance(model, nn.Module):
        raise BadInput(f"`model` takes a torch.nn.Module, not {type(model).__name__}")
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    update = CapturedUpdate(model, LocalTraining(lr=lr, batch_size=batch_size), head)
    filling = model.register_forward_hook(update._fill) if update._lazy() else None
    try:
        with update._watch.watching():
            yield update
    finally:
        if filling is not None:
            filling.remove()
    update._finish()


def _of_the_mean(measured: Measured) -> Measured:
    """Say of a gradient that `CapturedUpdate.gradient` has made it that of the mean loss."""
    return measured if measured.gradient_scale is None else replace(measured, gradient_scale=1.0)


def _images(watch: HeadWatch) -> dict[str, list[int]]:
    """Say how many labels each image of a head of maps has."""
    readings = [one for step in watch.steps for one in step.gathered.by_call.values()]
    each = [one.images for one in readings if one.images is not None]
    if isinstance(watch.layer, nn.Linear) or len(each) < len(readings):
        return {}
    return {"images": [size for sizes in each for size in sizes]}


def _copy(model: nn.Module) -> dict[str, Tensor]:
    """Copy the tensors of a state dict that exist; other state is no part of an update."""
    return {
        name: value.detach().cpu().clone()
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor) and not is_lazy(value)
    }


def _parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    state = model.state_dict()
    return [(name, p) for name, p in model.named_parameters() if name in state]


def _common(watches: list[HeadWatch], summaries: list[TrainingSummary]) -> TrainingSummary:
    """Keep what holds for every layer that may be the head."""
    made = _same([summary.made.known for summary in summaries])
    measured = _same([summary.measured.known for summary in summaries])
    named = few((watch.name for watch in watches), quoted=True)
    doubt = f"several layers may be the head ({named}); name it with head="
    others = dict.fromkeys(doubt for summary in summaries for doubt in summary.doubts)
    notes = dict.fromkeys(note for summary in summaries for note in summary.notes)
    return TrainingSummary(
        None, LocalTraining(**made), Measured(**measured), tuple(notes), (doubt, *others)
    )


def _same(known: list[dict[str, Any]]) -> dict[str, Any]:
    first, *others = known
    return {n: v for n, v in first.items() if all(other.get(n) == v for other in others)}


__all__ = ["CapturedUpdate", "capture"]
