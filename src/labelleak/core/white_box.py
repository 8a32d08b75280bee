"""The model as its holder can use it: from inputs to head inputs, logits and probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labelleak.core.lazy import Tensor, nn, torch
from labelleak.core.seeding import torch_seeded
from labelleak.errors import BadInput

CHUNK = 512


@dataclass(frozen=True, eq=False)
class HeadPass:
    """What one forward pass shows at the head.

    Attributes:
        inputs: head inputs h, ``n x D``.
        logits: head outputs z = W h + b, ``n x K``.
        outputs: what the model returns, on which the client's loss is taken; the logits, unless
            something follows the head.
    """

    inputs: Tensor
    logits: Tensor
    outputs: Tensor

    @property
    def probabilities(self) -> Tensor:
        """p = softmax(z), ``n x K``."""
        return self.logits.softmax(dim=-1)

    @classmethod
    def joined(cls, parts: Sequence[HeadPass]) -> HeadPass:
        """Put the samples of several passes into one."""
        names = ("inputs", "logits", "outputs")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True, eq=False)
class WhiteBox:
    """A model, in the mode that it is in (train or eval), and the name of its head.

    Passes never change the model: batch-norm statistics are written to copies, and random
    layers draw from a forked generator.

    Attributes:
        module: the whole model.
        head: module name of the last linear layer; ``""`` if the model is that layer.
    """

    module: nn.Module
    head: str

    @property
    def head_module(self) -> nn.Linear:
        """The head itself."""
        head = self.module.get_submodule(self.head)
        if not isinstance(head, nn.Linear):
            raise BadInput(f"the head {self.head!r} is no linear layer")
        return head

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

        hook = self.head_module.register_forward_hook(catch)
        try:
            with torch_seeded(seed), torch.set_grad_enabled(grad):
                outputs = self._call(inputs)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise BadInput(explain_failure(inputs, error)) from error
        finally:
            hook.remove()
        if len(caught) != 1 or caught[0][0].dim() != 2:
            raise BadInput(
                f"the head {self.head!r} must see one vector per input, once per pass; "
                f"it ran {len(caught)} time(s)"
            )
        if not isinstance(outputs, torch.Tensor):
            raise BadInput(
                f"the model returns {type(outputs).__name__}, not one tensor of logits; wrap it"
            )
        return HeadPass(*caught[0], outputs)

    def _call(self, inputs: Tensor) -> Any:
        # Train-mode batch norm writes its running statistics: let it write to copies.
        buffers = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        if inputs.is_floating_point():
            inputs = inputs.to(self.head_module.weight)  # its precision and device
        return torch.func.functional_call(self.module, buffers, (inputs,))

    def run_all(self, inputs: Tensor, *, seed: int = 0) -> HeadPass:
        """Pass many inputs through the model in chunks and join the results."""
        # Chunks of nearly equal size: batch norm cannot take a left-over of one.
        chunks = torch.tensor_split(inputs, max(1, -(-len(inputs) // CHUNK)))
        passes = [self.run(chunk, seed=seed + number) for number, chunk in enumerate(chunks)]
        return HeadPass.joined(passes)

    def is_per_sample(self, inputs: Tensor) -> bool:
        """Return whether each input is passed alike whatever the batch around it and the seed.

        True for models of layers that see one sample at a time; False with dropout or batch norm
        in train mode, and False if anything follows the head. Tried on the first inputs, twice,
        in a batch and alone.
        """
        modules = nn.modules
        if any(
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


def explain_failure(inputs: Tensor, error: Exception) -> str:
    """Say in one sentence why a model could not take inputs, and what to do where that is known."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    said = f"the model cannot take inputs of shape {tuple(inputs.shape)}: {reason}"
    if "more than 1 value per channel" in reason:
        said += "; batch norm in train mode needs larger batches, or use `mode` eval"
    return said
