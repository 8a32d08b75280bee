"""torch's optimisers as they compute, without the compiler that their outer layers load."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from inspect import unwrap

from labelleak.core.lazy import torch


@cache
def uncompiled(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """Return an optimiser class of torch's whose steps do not import ``torch._dynamo``.

    torch wraps these methods so that its compiler passes over them. The wrappers import the
    compiler at their first use, which takes 2 s of each process and which nothing here compiles.
    Where a release of torch has no such wrapper the class stays as it is.

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> weight.grad = torch.ones(1)
    >>> uncompiled(torch.optim.SGD)([weight], lr=0.25).step()
    >>> weight.item()
    0.75
    """
    names = ("add_param_group", "zero_grad", "step")
    own = {name: unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), own | {"step": torch.no_grad()(own["step"])})


__all__ = ["uncompiled"]
