"""Watch a model's linear layers while it trains, and find out which of them is its head."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.hooks import RemovableHandle

from labelleak.core.head_tracing import output_tensors
from labelleak.core.white_box import convolutions, has_patches
from labelleak.errors import BadInput, few, shown
from labelleak.files.head_watch import HeadWatch

# Nodes of the graph of one forward pass that are looked at.
LARGEST_GRAPH = 100_000


class ModelWatch:
    """What was seen of a model inside the block.

    Args:
        model: the model.
        head: module name of its head; None to find it.

    Raises:
        BadInput: if no linear layer has that name.
    """

    def __init__(self, model: nn.Module, head: str | None) -> None:
        self._model = model
        self._named = head
        self._watches: dict[nn.Module, HeadWatch | None] = {}
        self._hooks: dict[nn.Module, RemovableHandle] = {}
        self._last: set[str] = set()
        self._depth = 0
        self._outputs: dict[Any, str] = {}
        layers = dict(model.named_modules())
        linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
        # Every convolution's rows cost; they are watched where one must be the head.
        self._kinds: tuple[type[nn.Module], ...] = (nn.Linear,)
        if not linear or isinstance(layers.get(head or ""), convolutions()):
            self._kinds = (nn.Linear, *convolutions())
        if head is not None and not isinstance(layers.get(head), self._kinds):
            listed = few(linear)
            raise BadInput(f"the head {shown(head)} is no linear layer of the model: {listed}")
        self._find_layers()

    def _find_layers(self) -> None:
        for name, module in self._model.named_modules():
            if self._may_be_head(module) and module not in self._watches:
                wanted = self._named in (None, name)
                self._watches[module] = HeadWatch(name, module) if wanted else None

    def _may_be_head(self, module: nn.Module) -> bool:
        return isinstance(module, self._kinds) and (
            isinstance(module, nn.Linear) or has_patches(module)
        )

    @property
    def _alive(self) -> list[HeadWatch]:
        return [watch for watch in self._watches.values() if watch is not None]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch inside the block."""
        with ExitStack() as stack:
            if "torch._dynamo" in sys.modules:
                # Hooks are not seen from inside a compiled model.
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.callback(self._stop)
            for hook in (
                register_module_module_registration_hook(self._registered),
                register_optimizer_step_pre_hook(self._before_step),
                register_optimizer_step_post_hook(self._after_step),
                self._model.register_forward_pre_hook(self._enter),
                self._model.register_forward_hook(self._leave, always_call=True),
            ):
                stack.callback(hook.remove)
            for module in list(self._watches):
                self._listen(module)
            yield

    def _listen(self, module: nn.Module) -> None:
        if module not in self._hooks:
            self._hooks[module] = module.register_forward_hook(self._called)

    def _registered(self, _: nn.Module, __: str, part: nn.Module | None) -> None:
        """Listen to layers that are made inside the block, the model's or not."""
        for module in () if part is None else part.modules():
            if self._may_be_head(module):
                self._listen(module)

    def _stop(self) -> None:
        for hook in self._hooks.values():
            hook.remove()
        for watch in self._alive:
            watch.close()

    def _called(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if module not in self._watches:
            self._find_layers()
        watch = self._watches.setdefault(module, None)
        plain = inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)
        if watch is None or not plain:
            return
        watch.called(inputs[0], output)
        if self._depth and output.grad_fn is not None:
            self._outputs[output.grad_fn] = watch.name

    def _enter(self, _: nn.Module, __: tuple[Any, ...]) -> None:
        self._depth += 1

    def _leave(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._last |= _last_layers(output, self._outputs)
            self._follow(output)
            self._outputs.clear()

    def _follow(self, output: Any) -> None:
        """Let layers read the loss where their maps have the size of the images."""
        by_name = {watch.name: watch for watch in self._alive}
        for _, maps in output_tensors(output):
            node = maps.grad_fn
            if node is None or not node.name().startswith("Upsample"):
                continue
            watch = by_name.get(self._outputs.get(node.next_functions[0][0], ""))
            if watch is not None:
                watch.maps.follow(watch.calls, maps)

    def _before_step(self, optimiser: torch.optim.Optimizer, *_: object) -> None:
        self._prune()
        for watch in self._alive:
            watch.before_step(optimiser)

    def _after_step(self, optimiser: torch.optim.Optimizer, *_: object) -> None:
        for watch in self._alive:
            if watch.after_step(optimiser):
                watch.add_rest(self._other_gradients(watch))

    def _other_gradients(self, watch: HeadWatch) -> dict[str, Tensor]:
        own = {id(p) for p in watch.layer.parameters()}
        return {
            name: p.grad.detach().clone()
            for name, p in self._model.named_parameters()
            if p.grad is not None and id(p) not in own
        }

    def _prune(self) -> None:
        """Watch no longer what is no head: layers whose rows no cross-entropy gives."""
        seen = [w for w in self._alive if w.pending is not None and w.pending.readings]
        keep = [w for w in seen if w.pending is not None and w.pending.certain]
        keep = keep or [w for w in seen if w.name in self._last]
        if not keep or self._named is not None:
            return
        for module, watch in self._watches.items():
            if watch is not None and watch not in keep and not watch.steps:
                watch.close()
                self._watches[module] = None

    def finish(self) -> None:
        """See the last change; take a gradient as the update if nothing took a step."""
        self._prune()
        for watch in self._alive:
            watch.look()

    def take_unstepped(self) -> bool:
        """Take gradients that no step used as the update; return whether there were any."""
        taken = [watch for watch in self._alive if watch.take_unstepped()]
        for watch in taken:
            watch.add_rest(self._other_gradients(watch))
        return bool(taken)

    def candidates(self) -> list[HeadWatch]:
        """Return the layers that may be the head: one where that could be told.

        A name that was given decides; else rows that only softmax cross-entropy gives, and
        then which layer's output becomes the model's.
        """
        seen = [w for w in self._alive if w.steps or w.pending is not None]
        if self._named is not None:
            return [w for w in self._alive if w.name == self._named]
        last = [w for w in seen if w.name in self._last]
        proven = [w for w in seen if all(step.gathered.certain for step in w.steps)]
        both = [w for w in proven if w in last]
        return both or proven or last or seen


def _last_layers(output: Any, layers: Mapping[Any, str]) -> set[str]:
    """Return the layers first met on the way back from what a model returned."""
    found: set[str] = set()
    queue = [t.grad_fn for _, t in output_tensors(output) if t.grad_fn is not None]
    visited = set(queue)
    while queue and len(visited) < LARGEST_GRAPH:
        node = queue.pop()
        if node in layers:
            found.add(layers[node])
            continue
        for earlier, _ in node.next_functions:
            if earlier is not None and earlier not in visited:
                visited.add(earlier)
                queue.append(earlier)
    return found


__all__ = ["ModelWatch"]
