"""Capture an update from anybody's training loop, to attack it or to write it to a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from labelleak.core.training import LocalTraining
from labelleak.errors import BadInput
from labelleak.files.notes import Note, write_tensors


class CapturedUpdate:
    """What a client's training did to its model: weights before and after, and the mean gradient.

    Attributes:
        before: state dict at the start of the block.
        after: state dict at its end; empty inside the block.
        gradient: the optimiser's gradients, averaged over its steps, by parameter name.
        head: module name of the head, where it was given.
    """

    def __init__(self, model: nn.Module, given: LocalTraining, head: str | None = None) -> None:
        self.head = head
        self._model = model
        self._given = given
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._steps = 0
        self._sizes: set[int] = set()
        self._options: list[dict[str, Any]] = []
        self.before: dict[str, Tensor] = _copy(model)
        self.after: dict[str, Tensor] = {}
        self.gradient: dict[str, Tensor] = {}

    @property
    def made(self) -> LocalTraining:
        """How the update was made: what was given, and what was seen of optimiser and batches."""
        one = self._options[0] if self._options else {}
        steady = all(options == one for options in self._options)
        size = next(iter(self._sizes)) if len(self._sizes) == 1 else None
        options = one if steady else {}
        seen = LocalTraining(batch_size=size, local_steps=self._steps or None, **options)
        return self._given.over(seen)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write both sides to one file, for ``labelleak attack --update FILE``."""
        self._check()
        sides = (("before", self.before), ("after", self.after))
        both = {f"{side}.{name}": t for side, state in sides for name, t in state.items()}
        write_tensors(Path(path), both, self._note("update"))
        return Path(path)

    def save_before(self, path: str | os.PathLike[str]) -> Path:
        """Write the weights before, for ``labelleak attack --before FILE``."""
        write_tensors(Path(path), self.before, self._note("before"))
        return Path(path)

    def save_after(self, path: str | os.PathLike[str]) -> Path:
        """Write the weights after, for ``labelleak attack --after FILE``."""
        self._check()
        write_tensors(Path(path), self.after, self._note("after"))
        return Path(path)

    def save_gradient(self, path: str | os.PathLike[str]) -> Path:
        """Write the mean gradient, for ``labelleak attack --gradient FILE``."""
        self._check()
        if not self.gradient:
            raise BadInput("no optimiser step on this model was seen, so there is no gradient")
        write_tensors(Path(path), self.gradient, self._note("gradient"))
        return Path(path)

    def _note(self, part: str) -> Note:
        return Note(self.made, self.head, part)

    def _check(self) -> None:
        if not self.after:
            raise BadInput("the update is not complete; save it after the capture block has ended")

    def _step(self, optimiser: torch.optim.Optimizer, *_: object) -> None:
        """Add the gradients of a step, if it was one of this model's optimiser."""
        found = [
            (self._names[id(parameter)], parameter.grad.detach(), group)
            for group in optimiser.param_groups
            for parameter in group["params"]
            if id(parameter) in self._names and parameter.grad is not None
        ]
        if not found:
            return
        self._steps += 1
        for group in {id(group): group for _, _, group in found}.values():
            read = _options(optimiser, group)
            if read not in self._options:
                self._options.append(read)
        for name, gradient, _group in found:
            mean = self.gradient.setdefault(name, torch.zeros_like(gradient))
            mean += (gradient - mean) / self._steps

    def _forward(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor) and torch.is_grad_enabled():
            self._sizes.add(len(inputs[0]))

    def _finish(self) -> None:
        self.after = _copy(self._model)


@contextmanager
def capture(
    model: nn.Module,
    *,
    lr: float | None = None,
    batch_size: int | None = None,
    head: str | None = None,
) -> Iterator[CapturedUpdate]:
    """Watch the optimiser steps that anybody takes on a model inside the block.

    Steps, learning rate, momentum and weight decay are read off the optimiser of torch that
    steps, the batch size off the model's forward passes with gradients; where these vary over
    the steps they are left unknown. What is given wins over what is seen. The model and the
    training are not changed. A block that raises leaves no update.

    Args:
        model: the model that is trained.
        lr: learning rate, where the training loop is not one of torch's optimisers.
        batch_size: labels per step, where passes do not tell (accumulated batches).
        head: module name of the head, written into the files.

    >>> model = nn.Linear(3, 2)
    >>> optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with capture(model) as update:
    ...     loss = nn.functional.cross_entropy(model(torch.ones(4, 3)), torch.zeros(4).long())
    ...     loss.backward()
    ...     optimiser.step()
    >>> update.made.lr, update.made.batch_size, sorted(update.gradient)
    (0.1, 4, ['bias', 'weight'])
    """
    update = CapturedUpdate(model, LocalTraining(lr=lr, batch_size=batch_size), head)
    hooks = [
        register_optimizer_step_post_hook(update._step),
        model.register_forward_pre_hook(update._forward),
    ]
    try:
        yield update
    finally:
        for hook in hooks:
            hook.remove()
    update._finish()


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _options(optimiser: torch.optim.Optimizer, group: dict[str, Any]) -> dict[str, Any]:
    """Read what an update's arithmetic needs from an optimiser's options."""
    if isinstance(optimiser, torch.optim.SGD):
        names = ("lr", "momentum", "dampening", "nesterov", "weight_decay")
        read = {name: group[name] for name in names}
        return {
            "optimiser": "sgd",
            **{name: float(v) if name != "nesterov" else bool(v) for name, v in read.items()},
        }
    # AdamW and its kin scale coordinates as Adam does; others are not known.
    adam = "Adam" in type(optimiser).__name__
    return {"lr": float(group["lr"]), **({"optimiser": "adam"} if adam else {})}


__all__ = ["CapturedUpdate", "capture"]
