"""The model as its holder can use it: from inputs to head inputs, logits and probabilities."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from labelleak.core.counts import Floats
from labelleak.core.lazy import F, Tensor, nn, torch
from labelleak.core.resizing import find_resizing
from labelleak.core.seeding import torch_seeded
from labelleak.core.task import BY_POSITION, HeadForm, Lift, Task, form_shape
from labelleak.errors import BadInput, NotApplicable

CHUNK = 512
# Logits of texts that are made at once.
TEXT_ENTRIES = 2**22


@dataclass(frozen=True, eq=False)
class HeadPass:
    """What one forward pass shows at the head, a row for each label: a position, of a dense task.

    Attributes:
        inputs: head inputs h, ``n x D``.
        logits: head outputs z = W h + b, ``n x K``; (0, z) where z is one logit.
        outputs: what the model returns, on which the client's loss is taken; the logits, unless
            something follows the head. Of a dense task, ``images x K x positions``.
        problems: how many softmax problems the logits are of, one after the other.
    """

    inputs: Tensor
    logits: Tensor
    outputs: Tensor
    problems: int = 1

    @property
    def probabilities(self) -> Tensor:
        """p = softmax(z), ``n x K``; of several labels, of each pair of logits."""
        if self.problems == 1:
            return self.logits.softmax(dim=-1)
        return self.logits.reshape(len(self.logits), self.problems, -1).softmax(dim=-1).flatten(1)

    @classmethod
    def joined(cls, parts: Sequence[HeadPass]) -> HeadPass:
        """Put the samples of several passes into one."""
        return cls(
            torch.cat([part.inputs for part in parts]),
            torch.cat([part.logits for part in parts]),
            torch.cat([part.outputs for part in parts]),
            parts[0].problems,
        )


@dataclass(frozen=True, eq=False)
class WhiteBox:
    """A model, in the mode that it is in (train or eval), and the name of its head.

    Passes never change the model: batch-norm statistics are written to copies, and random
    layers draw from a forked generator.

    Attributes:
        module: the whole model; of another task than classes, as `lift` gives it.
        head: module name of the last linear layer; ``""`` if the model is that layer.
    """

    module: nn.Module
    head: str

    @cached_property
    def task(self) -> Task:
        """What the model's labels are."""
        return task_of(self.module)

    @cached_property
    def head_layer(self) -> nn.Module:
        """The head itself: a linear layer or a convolution."""
        head = self.module.get_submodule(self.head)
        whole = isinstance(head, convolutions()) and self.task is not Task.classes
        if not isinstance(head, nn.Linear) and not whole:
            raise BadInput(f"the head {self.head!r} is no linear layer")
        return head

    @property
    def head_weight(self) -> Tensor:
        """The head's own weight."""
        weight = self.head_layer.weight
        assert isinstance(weight, torch.Tensor)
        return weight

    @property
    def head_bias(self) -> Tensor | None:
        """The head's own bias, if it has one."""
        bias = self.head_layer.bias
        return bias if isinstance(bias, torch.Tensor) else None

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that a client trains; one that is tied to the head goes by its name."""
        named = {n: p for n, p in self.module.named_parameters() if p.requires_grad}
        own = {
            id(p): f"{self.head}.{part}" if self.head else part
            for part, p in self.head_layer.named_parameters(recurse=False)
        }
        return {own.get(id(p), name): p for name, p in named.items()}

    @cached_property
    def trained_entries(self) -> int:
        """Numbers in all that a client trains."""
        return sum(p.numel() for p in self.module.parameters() if p.requires_grad)

    @property
    def form(self) -> HeadForm:
        """How the head's rows stand to those of softmax problems."""
        own = self.head_layer
        turned = isinstance(own, transposed())
        return HeadForm(self.task, form_shape(self.head_weight.shape, turned), turned=turned)

    @property
    def head_module(self) -> nn.Linear:
        """The head as the linear layer that makes the logits of softmax problems.

        Of one logit, the row of the class that is absent is 0 and stays 0.
        """
        layer = self.head_layer
        if isinstance(layer, nn.Linear) and not self.form.paired:
            return layer
        if self.form.turned:
            raise NotApplicable("a transposed convolution is no linear layer that could be moved")
        own = self.head_weight, self.head_bias
        weight, bias = self.form.lift(*own)
        assert weight is not None
        rows = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
        moving = torch.from_numpy(self._moving()).to(weight)
        rows.weight = nn.Parameter(weight.detach() * moving[:, None], own[0].requires_grad)
        if bias is not None:
            rows.bias = nn.Parameter(bias.detach() * moving)
        return rows

    @property
    def moving(self) -> Floats:
        """1 for each row that the client's steps move, 0 for the class that is absent of a pair."""
        return self._moving()

    def _moving(self) -> Floats:
        found = np.ones(self.form.num_rows)
        if self.form.paired:
            found[::2] = 0.0
        return found

    def run(self, inputs: Tensor, *, seed: int = 0, grad: bool = False) -> HeadPass:
        """Pass a batch through the model once, as one batch.

        Args:
            inputs: ``n x ...`` as the model takes them.
            seed: seed of dropout and the like.
            grad: keep the graph, for autograd.

        Raises:
            BadInput: if the model cannot take these inputs, or its head sees anything but one
                vector per input.
        """
        caught: list[tuple[Tensor, Tensor]] = []

        def catch(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            caught.append((args[0], output))

        hook = self.head_layer.register_forward_hook(catch, prepend=True)
        try:
            with torch_seeded(seed), torch.set_grad_enabled(grad):
                outputs = self._call(inputs)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise BadInput(explain_failure(inputs, error)) from error
        finally:
            hook.remove()
        if len(caught) != 1 or (caught[0][0].dim() != 2 and self.task not in BY_POSITION):
            raise BadInput(
                f"the head {self.head!r} must see one vector per input, once per pass; "
                f"it ran {len(caught)} time(s)"
            )
        if not isinstance(outputs, torch.Tensor):
            raise BadInput(
                f"the model returns {type(outputs).__name__}, not one tensor of logits; wrap it"
            )
        if self.task is Task.classes:
            return HeadPass(*caught[0], outputs)
        if self.task is Task.tokens:  # what follows the head, a scale or a cap, is part of it
            return HeadPass(caught[0][0].flatten(0, -2), outputs.mT.flatten(0, 1), outputs)
        return HeadPass(*self._rows(*caught[0], outputs), outputs, self.form.problems)

    def _rows(self, inputs: Tensor, outputs: Tensor, returned: Tensor) -> tuple[Tensor, Tensor]:
        """Lay out what the head saw and said, a row for each label."""
        layer = self.head_layer
        if not isinstance(layer, nn.Linear):
            inputs, own = patches(layer, inputs), outputs.shape[2:]
            last = returned[:, 1:] if self.form.paired else returned
            way = None if last.shape[2:] == own else find_resizing(outputs, last)
            if way is not None:
                places = inputs.transpose(1, 2).reshape(len(inputs), -1, *own)
                inputs = way(places, tuple(last.shape[2:])).flatten(2).transpose(1, 2)
                outputs = last
            outputs = outputs.flatten(2).transpose(1, 2)
        inputs, outputs = inputs.flatten(0, -2), outputs.flatten(0, -2)
        if self.form.paired:
            outputs = torch.stack((torch.zeros_like(outputs), outputs), -1).flatten(1)
        return inputs, outputs

    def _call(self, inputs: Tensor) -> Any:
        # Train-mode batch norm writes its running statistics: let it write to copies.
        buffers = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        if inputs.is_floating_point() and self.task is Task.tokens:
            inputs = self._as_ids(inputs)
        elif inputs.is_floating_point():
            inputs = inputs.to(self.head_weight)  # its precision and device
        return torch.func.functional_call(self.module, buffers, (inputs,))

    def _as_ids(self, inputs: Tensor) -> Tensor:
        """Return made-up numbers as token ids: a dummy of a token model is tokens."""
        tables = (m for m in self.module.modules() if isinstance(m, nn.Embedding))
        rows = next((table.num_embeddings for table in tables), len(self.head_weight))
        return (inputs.abs() * rows).long() % rows

    def texts_in(self, entries: int, positions: int) -> int:
        """Return how many texts give at most so many logits, at least one."""
        return max(1, entries // (max(1, positions) * len(self.head_weight)))

    def inputs_at_once(self, inputs: Tensor) -> int:
        """Return how many inputs one pass takes: of texts fewer, whose logits fill memory."""
        if self.task is not Task.tokens:
            return CHUNK
        return min(CHUNK, self.texts_in(TEXT_ENTRIES, inputs.shape[-1]))

    def run_all(self, inputs: Tensor, *, seed: int = 0) -> HeadPass:
        """Pass many inputs through the model in chunks and join the results."""
        return HeadPass.joined(list(self.run_chunks(inputs, seed=seed)))

    def run_chunks(self, inputs: Tensor, *, seed: int = 0) -> Iterator[HeadPass]:
        """Pass many inputs through the model, a chunk at a time."""
        # Chunks of nearly equal size: batch norm cannot take a left-over of one.
        size = self.inputs_at_once(inputs)
        chunks = torch.tensor_split(inputs, max(1, -(-len(inputs) // size)))
        for number, chunk in enumerate(chunks):
            yield self.run(chunk, seed=seed + number)

    def is_per_sample(self, inputs: Tensor) -> bool:
        """Return whether each input is passed alike whatever the batch around it and the seed.

        True for models of layers that see one sample at a time; False with dropout or batch norm
        in train mode, of a transposed convolution, whose own kernel no table holds, and
        False if anything follows the head. Tried on the first inputs, twice,
        in a batch and alone.
        """
        modules = nn.modules
        if self.form.turned or any(
            m.training and isinstance(m, (modules.batchnorm._BatchNorm, modules.dropout._DropoutNd))
            for m in self.module.modules()
        ):
            return False
        few = inputs[:4]
        seen = self.run(few)
        if seen.outputs.shape != seen.logits.shape or not torch.equal(seen.outputs, seen.logits):
            return False
        together = self.run(few, seed=1).logits
        again = self.run(few, seed=2).logits
        try:
            alone = torch.cat([self.run(one[None], seed=3).logits for one in few])
        except BadInput:  # batch norm in train mode refuses a batch of one
            return False
        return bool(
            torch.equal(together, again) and torch.allclose(together, alone, rtol=1e-4, atol=1e-5)
        )


def lift(module: nn.Module, task: Task, labels: Tensor | None = None) -> nn.Module:
    """Return a model whose outputs are the logits of softmax problems; see `Lift`.

    It shares everything with the model, which stays as it is. What needs no change is given back.

    Args:
        module: the model.
        task: what its labels are.
        labels: of a dense task, whose size the maps get.

    >>> lift(nn.Linear(3, 1), Task.binary)(torch.zeros(2, 3)).shape
    torch.Size([2, 2])
    """
    if task_of(module) is task:
        return module
    lifted = copy.copy(module)
    lifted.__dict__["_forward_hooks"] = module._forward_hooks.copy()
    size = labels.shape[1:] if labels is not None and task is Task.dense else ()
    lifted.register_forward_hook(Lift(task, tuple(size)))
    return lifted


def unlifted(module: nn.Module) -> nn.Module:
    """Return a model as it was before `lift`."""
    if task_of(module) is Task.classes:
        return module
    plain = copy.copy(module)
    hooks = module._forward_hooks
    kept = {key: hook for key, hook in hooks.items() if not isinstance(hook, Lift)}
    plain.__dict__["_forward_hooks"] = type(hooks)(kept)
    return plain


def task_of(module: nn.Module) -> Task:
    """Return the task that a model was lifted for, classes where it was not."""
    lifts = [hook for hook in module._forward_hooks.values() if isinstance(hook, Lift)]
    return lifts[0].task if lifts else Task.classes


def shared_names(module: nn.Module) -> list[list[str]]:
    """Return the names of each weight that several layers share.

    >>> first = nn.Linear(2, 2)
    >>> shared_names(nn.Sequential(first, first))
    [['0.weight', '1.weight'], ['0.bias', '1.bias']]
    """
    names: dict[Tensor, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    return [group for group in names.values() if len(group) > 1]


def convolutions() -> tuple[type[nn.Module], ...]:
    """Return the layers that give one class a position."""
    return nn.Conv1d, nn.Conv2d, nn.Conv3d, *transposed()


def transposed() -> tuple[type[nn.Module], ...]:
    """Return those of them that make maps larger."""
    return nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d


def has_patches(layer: nn.Module) -> bool:
    """Return whether a convolution is a linear layer on patches that `patches` can lay out."""
    return bool(layer.groups == 1)


def patches(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Return what a convolution multiplies its kernel with, ``images x positions x D``.

    Of a transposed one it is the sum of the inputs at each position, which goes with the sum of the
    kernel's gradient over its entries.

    Raises:
        BadInput: for groups.
    """
    if not has_patches(layer):
        raise BadInput("a convolution with groups cannot be read as a head")
    if isinstance(layer, transposed()):
        ones = torch.ones_like(layer.weight[:, :1])  # type: ignore[index]
        how = {n: getattr(layer, n) for n in ("stride", "padding", "output_padding", "dilation")}
        spread = getattr(F, f"conv_transpose{inputs.dim() - 2}d")
        return spread(inputs, ones, groups=len(ones), **how).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]
    kernel, stride, dilation = (
        tuple(getattr(layer, name)) for name in ("kernel_size", "stride", "dilation")
    )
    # Twice the padding of each side, last dimension first, as the layer itself pads.
    around = layer._reversed_padding_repeated_twice
    if any(around):  # type: ignore[arg-type]
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        inputs = F.pad(inputs, list(around), mode=mode)  # type: ignore[arg-type]
    for at, (size, step, apart) in enumerate(zip(kernel, stride, dilation, strict=True)):
        inputs = inputs.unfold(2 + at, (size - 1) * apart + 1, step)[..., ::apart]
    axes = len(kernel)
    places = inputs.movedim(1, 1 + axes)  # channels stand before their kernel
    return places.flatten(1, axes).flatten(2)


def explain_failure(inputs: Tensor, error: Exception) -> str:
    """Say in one sentence why a model could not take inputs, and what to do where that is known."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    said = f"the model cannot take inputs of shape {tuple(inputs.shape)}: {reason}"
    if "more than 1 value per channel" in reason:
        said += "; batch norm in train mode needs larger batches, or use `mode` eval"
    elif "shapes cannot be multiplied" in reason and inputs.dim() > 2:
        said += "; begin a model of plain vectors with nn.Flatten()"
    return said
