"""Trace a model: which linear layer's output becomes the model's output."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from labelleak.core.white_box import convolutions, explain_failure
from labelleak.errors import BadInput

FAILURES = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError)
SIDES = (8, 28, 32, 64, 96, 224)
LENGTHS = (8, 64, 1024)
_MOST_TRIES = 24
_PRODUCTS = ("addmm", "mm", "bmm", "baddbmm", "convolution", "embedding", "linear")
# What leaves an output the layer's own: other views, scales and the softmax of it.
_HARMLESS = re.compile(
    "(unsafe)?view|reshapealias|alias|(log)?softmax|mul|div|(un)?squeeze|slice|select|permute|t|"
    "transpose|clone|tocopy|add|(unsafe)?split|unbind|index|neg|expand"
)


@dataclass(frozen=True)
class Trace:
    """What one pass of a model showed.

    Attributes:
        heads: module names of the layers that could be the head, in the order of the outputs.
        through: operations between the first of them and the model's output.
        run: module names of all linear layers that were run, none of them twice.
        aside: module names of layers that the heads do not rest on, as other heads.
        others: what else made an output: ``convolution``, ``bmm``, ...
        shape: of the output.
        below: module names of the layers that the heads rest on.
    """

    heads: tuple[str, ...]
    through: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    below: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Source:
    """A linear layer behind an output: where in the graph, and what lies in between."""

    path: str
    node: Any
    through: tuple[str, ...]

    @property
    def is_direct(self) -> bool:
        """Whether the output is the layer's own, as it is, scaled, or its softmax."""
        return all(_HARMLESS.fullmatch(op) for op in self.through)


def trace(model: nn.Module, example: Tensor) -> Trace:
    """Pass an example and walk back from the output to the linear layers that made it.

    Raises:
        BadInput: if the model cannot take the example.
    """
    runs: list[tuple[str, Tensor]] = []
    try:
        with _watched(model, runs), torch.enable_grad():
            final = model(example)
    except FAILURES as error:
        raise BadInput(explain_failure(example, error)) from error
    marks = {output.grad_fn: (path, output) for path, output in runs}
    maps = {path for path, m in model.named_modules() if isinstance(m, convolutions())}
    ran = tuple(dict.fromkeys(path for path, _ in runs if path not in maps))
    sources: list[_Source] = []
    others: dict[str, None] = {}
    outputs = _main_outputs(final)
    for output in outputs:
        near, strange = _nearest(output, marks)
        fitting = [one for one in near if _fits(*marks[one.node], output, maps)]
        sources += fitting
        others.update(dict.fromkeys(strange))
        if near and not fitting:
            others["convolution" if near[0].path in maps else "layers of other sizes"] = None
    kept = _downstream(sources)
    heads = tuple(dict.fromkeys(one.path for one in kept))
    shape = tuple(outputs[0].shape) if outputs else ()
    below = {marks[node][0] for one in kept for node in _behind(one.node) if node in marks}
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, *convolutions())
    layers = [path for path, m in model.named_modules() if isinstance(m, kinds)]
    aside = tuple(path for path in layers if path not in below and path not in heads)
    through = kept[0].through if kept else ()
    return Trace(heads, through, ran, aside, tuple(others), shape, tuple(sorted(below)))


@contextmanager
def _watched(model: nn.Module, runs: list[tuple[str, Tensor]]) -> Iterator[None]:
    """Record layers' outputs, in eval mode with every parameter in the graph; undo all."""

    def watch(path: str) -> Any:
        return lambda _module, _inputs, output: runs.append((path, output))

    kinds: tuple[type[nn.Module], ...] = (nn.Linear, *convolutions())
    layers = [(path, m) for path, m in model.named_modules() if isinstance(m, kinds)]
    hooks = [layer.register_forward_hook(watch(path)) for path, layer in layers]
    modes = {module: module.training for module in model.modules()}
    frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    try:
        model.eval()
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training


def _main_outputs(final: Any) -> list[Tensor]:
    """Return the output called logits if there is one, else every tensor that was returned."""
    named = list(output_tensors(final))
    logits = [tensor for name, tensor in named if name == "logits"]
    return logits if len(logits) == 1 else [tensor for _, tensor in named]


def output_tensors(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of numbers in what a model returned, with their names, whatever holds them.

    Tuples, mappings and objects are looked into three deep.
    """
    if isinstance(value, Tensor):
        if value.dim() and value.is_floating_point():
            yield name, value
        return
    if depth > 2:
        return
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, (tuple, list)):
        parts: Iterable[tuple[str, Any]] = ((str(i), part) for i, part in enumerate(value))
    else:
        held = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
        parts = ((str(key), part) for key, part in held.items())
    for key, part in parts:
        yield from output_tensors(part, key, depth + 1)


def _nearest(output: Tensor, marks: Mapping[Any, Any]) -> tuple[list[_Source], list[str]]:
    """Walk back to the first linear layers; other products of weights stop the walk, too."""
    found: list[_Source] = []
    strange: list[str] = []
    queue: deque[tuple[Any, tuple[str, ...]]] = deque([(output.grad_fn, ())])
    seen = set()
    while queue:
        node, through = queue.popleft()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in marks:
            found.append(_Source(marks[node][0], node, through))
            continue
        kind = _kind(node)
        if kind in _PRODUCTS:
            strange.append(kind)
            continue
        queue.extend((after, (*through, kind)[:6]) for after, _ in node.next_functions)
    return found, strange


def _kind(node: Any) -> str:
    return str(node.name()).rpartition("::")[2].split("Backward")[0].lower().strip("_")


def _fits(path: str, layer: Tensor, output: Tensor, maps: set[str]) -> bool:
    """Return whether a layer's rows are the output's classes, as they are or reshaped.

    A convolution is a head where its channels are the output's at every position.
    """
    if path in maps:
        return output.dim() > 2 and layer.shape[1] == output.shape[1]
    same = layer.shape[-1] == output.shape[-1]
    return same or layer.shape[-1] in output.shape[1:] or layer.numel() == output.numel()


def _downstream(sources: list[_Source]) -> list[_Source]:
    """Leave out hidden layers: those that the model returns bent, and that feed another source.

    A model may return its features beside the logits.
    """
    nodes = {one.node for one in sources}
    fed: set[Any] = set()
    for one in sources:
        if len(nodes) > 1:
            fed |= _behind(one.node) & nodes
    return [one for one in sources if one.node not in fed or one.is_direct]


def _behind(node: Any) -> set[Any]:
    seen: set[Any] = set()
    queue = [node]
    while queue:
        for after, _ in queue.pop().next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                queue.append(after)
    return seen


def examples_for(model: nn.Module) -> Iterator[Tensor]:
    """Make inputs that a model may take, from the shapes of its layers, for lack of a real one."""
    made: dict[tuple[Any, ...], None] = {}
    for module in model.modules():
        if isinstance(module, nn.Linear):
            made[(torch.float32, module.in_features)] = None
        elif isinstance(module, nn.Embedding):
            made[(torch.int64, 8)] = None
        elif isinstance(module, (nn.LSTM, nn.GRU, nn.RNN)):
            made[(torch.float32, 8, module.input_size)] = None
        elif isinstance(module, nn.Conv2d):
            for side in SIDES:
                made[(torch.float32, module.in_channels, side, side)] = None
        elif isinstance(module, nn.Conv1d):
            for length in LENGTHS:
                made[(torch.float32, module.in_channels, length)] = None
    # Small first: an input of the wrong shape costs nothing, a large one may run for long.
    for kind, *shape in sorted(made, key=lambda one: (one[0] != torch.int64, prod(one[1:]))):
        yield torch.zeros(2, *shape, dtype=kind)


def trace_without_example(model: nn.Module) -> Trace | None:
    """Trace with made-up inputs, else by symbols; None if the model takes none of them."""
    for number, example in enumerate(examples_for(model)):
        if number == _MOST_TRIES:
            break
        try:
            return trace(model, _like(example, model))
        except BadInput:
            continue
    return _by_symbols(model)


def _like(example: Tensor, model: nn.Module) -> Tensor:
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is None or not example.is_floating_point():
        return example if parameter is None else example.to(parameter.device)
    return example.to(parameter)


def _by_symbols(model: nn.Module) -> Trace | None:
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception:  # noqa: BLE001
        return None  # fx raises errors of its own, and whatever the model does with a symbol
    layers = {path for path, m in model.named_modules() if isinstance(m, nn.Linear)}
    queue = deque(node for node in graph.nodes if node.op == "output")
    heads: dict[str, None] = {}
    others: dict[str, None] = {}
    seen = set()
    while queue:
        node = queue.popleft()
        if node in seen:
            continue
        seen.add(node)
        if node.op == "call_module" and node.target in layers:
            heads[str(node.target)] = None
        elif node.op == "call_module" and any(True for _ in _own(model, node)):
            others[str(node.target)] = None
        else:
            queue.extend(node.all_input_nodes)
    ran = tuple(str(n.target) for n in graph.nodes if n.target in layers)
    return Trace(tuple(heads), ("symbols",), tuple(dict.fromkeys(ran)), others=tuple(others))


def _own(model: nn.Module, node: fx.Node) -> Iterator[nn.Parameter]:
    return (p for p in model.get_submodule(str(node.target)).parameters() if p.dim() > 1)


__all__ = ["Trace", "examples_for", "output_tensors", "trace", "trace_without_example"]
