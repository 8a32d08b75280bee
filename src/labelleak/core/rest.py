"""Gradients of the layers below the head, computed when they are first read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

from labelleak.core.lazy import Tensor


class LazyGradients(Mapping[str, Tensor]):
    """Gradients by parameter name, whose names cost nothing and whose values one computation.

    So a large model does not pay for what no attack reads.

    >>> later = LazyGradients(("a",), lambda: {"a": [1.0]})
    >>> list(later), later["a"]
    (['a'], [1.0])
    """

    def __init__(self, names: tuple[str, ...], make: Callable[[], Mapping[str, Tensor]]) -> None:
        self._names, self._make = names, make

    @cached_property
    def _made(self) -> Mapping[str, Tensor]:
        return self._make()

    def __getitem__(self, name: str) -> Tensor:
        """Return one parameter's gradient."""
        if name not in self._names:
            raise KeyError(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


__all__ = ["LazyGradients"]
