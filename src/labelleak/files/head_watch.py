"""Watch one linear layer: what reaches its output backward, and when its parameters change."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from labelleak.core.logit_gradients import LogitRows, read_logit_rows
from labelleak.files.gathered_rows import GatheredRows, Step, outputs_of, parameter_gradients
from labelleak.files.optimiser_steps import (
    SgdReplay,
    close,
    factor_between,
    has_stepped,
    kept_momentum,
    name_optimiser,
    read_options,
)
from labelleak.files.resized_maps import ResizedMaps


class HeadWatch:
    """What was seen of one linear layer that may be the head."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        self.name = name
        self.layer = layer
        self.steps: list[Step] = []
        self.notes: dict[str, None] = {}
        self.doubts: dict[str, None] = {}
        self.mean: dict[str, Tensor] = {}
        self.rest: dict[str, Tensor] = {}
        self.pending: GatheredRows | None = None
        self.calls = 0
        self.maps = ResizedMaps()
        self._pass = -1
        self._inside = 0
        self._held: dict[str, Tensor] | None = None
        self._replay: dict[int, SgdReplay] = {}
        self._ignored = False
        self._smoothing: float | None = None
        self._leaves: list[RemovableHandle] = []
        self._start()

    @property
    def rows(self) -> int:
        """Outputs of the layer."""
        return 0 if is_lazy(self.weight) else outputs_of(self.layer)

    @property
    def weight(self) -> Tensor:
        """The layer's weight, which may be computed from other parameters."""
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        return weight

    def _parameters(self) -> list[nn.Parameter]:
        return [p for p in self.layer.parameters() if p.requires_grad and not is_lazy(p)]

    def _start(self) -> None:
        """Hold the parameters as they are, once they exist."""
        if self._held is None and not any(is_lazy(p) for p in self.layer.parameters()):
            self._held = self._values()
            for p in self._parameters():
                hook = p.register_post_accumulate_grad_hook(self._add)  # type: ignore[no-untyped-call]
                self._leaves.append(hook)

    def _values(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.layer.named_parameters()}

    def close(self) -> None:
        """Take the hooks off."""
        for hook in self._leaves:
            hook.remove()

    def called(self, inputs: Tensor, outputs: Tensor) -> None:
        """Note a call of the layer, whose gradient may come."""
        self._start()
        if not self._inside:
            self.look()
        if not (torch.is_grad_enabled() and outputs.requires_grad):
            return
        self.calls += 1
        seen = (inputs.detach(), outputs.detach())
        versions = (inputs._version, outputs._version)
        hook = partial(self._backward, self.calls, seen, versions)
        outputs.register_hook(hook)  # type: ignore[no-untyped-call]

    def _backward(
        self, call: int, seen: tuple[Tensor, Tensor], versions: tuple[int, int], gradient: Tensor
    ) -> None:
        """Read the rows of one call in one backward pass."""
        self._begin_pass()
        if self._ignored or self.pending is None:
            return
        inputs, pushed = seen[0], gradient.detach()
        outputs, version, dz = self.maps.take(call, (seen[1], versions[1], pushed))
        if not isinstance(self.layer, nn.Linear):
            outputs, dz, pushed = (t.movedim(1, -1) for t in (outputs, dz, pushed))
        if (inputs._version, outputs._version) == (versions[0], version):
            reading = read_logit_rows(outputs, dz, smoothing=self._smoothing)
            self._smoothing = reading.smoothing if reading.certain else self._smoothing
        else:
            reading = LogitRows("unknown", None)
            self.doubts["the layer's inputs or outputs were changed in place"] = None
        kinds = (outputs.dtype, dz.dtype)
        self.pending.coarse |= min(torch.finfo(kind).bits for kind in kinds) < 32
        self.pending.readings.append(reading)
        self.pending.by_call.setdefault(call, reading)
        for name, value in parameter_gradients(self.layer, inputs, pushed).items():
            held = self.pending.gradient.get(name)
            self.pending.gradient[name] = value if held is None else held + value

    def _begin_pass(self) -> None:
        """Start a backward pass; what was gathered before is dropped if its gradient was."""
        task = torch._C._current_graph_task_id()
        if task == self._pass:
            return
        self._pass, self._ignored = task, False
        if self.pending is not None and self.pending.accumulated and self._was_dropped():
            if self._inside:
                # A closure is evaluated again: the step started from its first pass.
                self.pending.evaluations += 1
                self._ignored = True
                return
            self.notes["gradients were dropped before a step (zero_grad)"] = None
            self.pending = None
        self.pending = self.pending or GatheredRows(self.rows == 1)

    def _was_dropped(self) -> bool:
        """Tell whether the gradient of what was gathered is gone; one of zeros may still be it."""
        grads = [p.grad for p in self._parameters() if p.grad is not None]
        assert self.pending is not None
        return not grads or (self.pending.pushes and not any(bool(g.any()) for g in grads))

    def _add(self, _: Tensor) -> None:
        if self.pending is not None:
            self.pending.accumulated = True

    def before_step(self, optimiser: torch.optim.Optimizer) -> None:
        """Note that an optimiser begins a step."""
        if not self._holds(optimiser):
            return
        self.look()
        self._inside += 1
        if id(optimiser) not in self._replay:
            self._replay[id(optimiser)] = self._first_replay(optimiser)

    def _holds(self, optimiser: torch.optim.Optimizer) -> bool:
        own = {id(p) for p in self.layer.parameters()}
        return any(id(p) in own for group in optimiser.param_groups for p in group["params"])

    def _first_replay(self, optimiser: torch.optim.Optimizer) -> SgdReplay:
        named = dict(self.layer.named_parameters())
        if any(has_stepped(optimiser.state.get(p)) for p in named.values()):
            kept = "the optimiser kept state from before the block (momentum, say)"
            held = {name: kept_momentum(optimiser, p) for name, p in named.items()}
            used = {name: t for name, t in held.items() if t is not None and bool(t.any())}
            if used or name_optimiser(optimiser) != "sgd":
                self.doubts[f"{kept}, so the update holds gradients of earlier rounds"] = None
            return SgdReplay(used)
        return SgdReplay()

    def after_step(self, optimiser: torch.optim.Optimizer) -> bool:
        """Note the end of an optimiser's step; return whether the layer moved."""
        if not self._holds(optimiser):
            return False
        self._inside -= 1
        moved = self.look(optimiser)
        if not moved and self.pending is not None and self.pending.readings:
            if not self.pending.pushes and self._held is not None:
                # Its inputs were all zero: a step was taken, and the head stayed.
                self._take(self._held, optimiser)
                return True
            options = read_options(optimiser, self.weight)
            if options is not None and options.momentum:
                self.doubts["a step of no size left its gradient in the momentum"] = None
        return moved

    def look(self, optimiser: torch.optim.Optimizer | None = None) -> bool:
        """Compare the parameters with what they were; a change is a step."""
        if self._held is None:
            return False
        now = dict(self.layer.named_parameters())
        if now.keys() == self._held.keys() and all(
            torch.equal(now[name].detach(), held) for name, held in self._held.items()
        ):
            return False
        start, self._held = self._held, self._values()
        if self.pending is None or not self.pending.readings:
            who = "a step" if optimiser is not None else "something beside the steps"
            self.doubts[f"{who} changed the head without a gradient of its output"] = None
            return optimiser is not None
        self._take(start, optimiser)
        return True

    def _take(self, start: dict[str, Tensor], optimiser: torch.optim.Optimizer | None) -> None:
        """Take what was gathered as a step that led from these parameters to those held."""
        assert self.pending is not None
        assert self._held is not None
        gathered, self.pending = self.pending, None
        self._add_to_mean(gathered, self._used(optimiser))
        self.steps.append(self._step(gathered, start, self._held, optimiser))

    def _used(self, optimiser: torch.optim.Optimizer | None) -> dict[str, Tensor]:
        """Return the gradients that an optimiser has just used."""
        named = self.layer.named_parameters() if optimiser is not None else ()
        return {name: p.grad.detach() for name, p in named if p.grad is not None}

    def _add_to_mean(self, gathered: GatheredRows, used: dict[str, Tensor]) -> None:
        """Add a step's gradient to the mean: measured, or as it was used if the scale is not."""
        count, scale = len(self.steps) + 1, gathered.scale
        for name, value in gathered.gradient.items():
            one = value / scale if scale is not None else used.get(name, value).to(value.dtype)
            mean = self.mean.setdefault(name, torch.zeros_like(value))
            mean += (one - mean) / count

    def add_rest(self, gradients: dict[str, Tensor]) -> None:
        """Add the other parameters' gradients of the step that was just seen to their mean."""
        count, over = len(self.steps), self.steps[-1].used_over_mean or 1.0
        known = gradients if count == 1 else self.rest.keys() & gradients.keys()
        self.rest = {name: self.rest.get(name, torch.zeros_like(gradients[name])) for name in known}
        for name, mean in self.rest.items():
            mean += (gradients[name] / over - mean) / count

    def labels(self) -> list[Any] | None:
        """Return the labels of all steps; None where they could not be told."""
        gathered = [step.gathered for step in self.steps]
        told = [reading.labels for g in gathered for reading in g.by_call.values()]
        if not told or any(g.rows is None or not g.certain for g in gathered):
            return None
        held = [labels for labels in told if labels is not None]
        return [y for labels in held for y in labels.tolist()] if len(held) == len(told) else None

    def take_unstepped(self) -> bool:
        """Take a gradient that no step used as the update; return whether there was one."""
        if self.steps or self.pending is None or not self.pending.readings:
            return False
        self._add_to_mean(self.pending, {})
        gathered, self.pending = self.pending, None
        self.steps.append(Step(gathered, {}, None, gathered.scale, None, (), taken=False))
        return True

    def _step(
        self,
        gathered: GatheredRows,
        start: dict[str, Tensor],
        end: dict[str, Tensor],
        optimiser: torch.optim.Optimizer | None,
    ) -> Step:
        names = [name for name in gathered.gradient if name in start]
        moved = {name: end[name] - start[name] for name in names}
        if len(names) < len(gathered.gradient):
            made = "the head's weight is made of other parameters (a parametrisation)"
            name = None if optimiser is None else name_optimiser(optimiser)
            return Step(gathered, {}, name, None, None, (made,))
        rounding = {
            n: 4 * torch.finfo(t.dtype).eps * float(t.abs().max()) for n, t in start.items()
        }
        if optimiser is None:
            return self._step_by_hand(gathered, moved, max(rounding.values()))
        named = dict(self.layer.named_parameters())
        options = {n: o for n in names if (o := read_options(optimiser, named[n])) is not None}
        used = self._used(optimiser)
        ratio, fits = None, False
        if used.keys() == set(names):
            ratio, fits = factor_between(used, gathered.gradient, tolerance=gathered.tolerance)
        name = name_optimiser(optimiser)
        doubts: list[str] = []
        if name == "sgd" and gathered.evaluations == 1:
            replay = self._replay[id(optimiser)]
            for n, how in options.items():
                given = used.get(n, gathered.gradient[n].to(start[n].dtype))
                if not close(moved[n], replay.move(n, given, start[n], how), slack=rounding[n]):
                    doubts.append("the head moved otherwise than SGD of these options moves it")
        if not fits and gathered.evaluations == 1:
            doubts.append(
                "the gradient that the optimiser used is not that of the loss at the head "
                "(noise, a penalty on the weights, shared weights, clipping by value?)"
            )
        scale = gathered.scale
        over = ratio * scale if fits and ratio is not None and scale is not None else None
        lr = options["weight"].lr if "weight" in options else None
        return Step(gathered, options, name, over, lr, tuple(dict.fromkeys(doubts)))

    def _step_by_hand(
        self, gathered: GatheredRows, moved: dict[str, Tensor], rounding: float
    ) -> Step:
        """Measure a step that no optimiser took: how far it went along the gradient."""
        factor, fits = factor_between(
            moved, gathered.gradient, tolerance=gathered.tolerance, slack=rounding
        )
        if not fits or factor >= 0:
            way = "against its descent" if fits else "otherwise than along its gradient"
            return Step(gathered, {}, None, None, None, (f"the head was moved by hand, {way}",))
        lr = None if gathered.scale is None else -factor * gathered.scale
        return Step(gathered, {}, None, 1.0 if lr is not None else None, lr, ())


__all__ = ["HeadWatch"]
