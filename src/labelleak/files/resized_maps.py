"""Maps that a model resized after its head: what it returned, and the loss's gradient there."""

from __future__ import annotations

from torch import Tensor


class ResizedMaps:
    """Where the loss of a head's calls is read, if not at the head: there N is pixels."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Tensor, int, Tensor]] = {}

    def follow(self, call: int, maps: Tensor) -> None:
        """Keep the gradient that comes to what a call's maps were resized to."""
        if not maps.requires_grad:
            return
        seen, version = maps.detach(), maps._version

        def keep(gradient: Tensor) -> None:
            self._seen[call] = (seen, version, gradient.detach())

        maps.register_hook(keep)  # type: ignore[no-untyped-call]

    def take(self, call: int, own: tuple[Tensor, int, Tensor]) -> tuple[Tensor, int, Tensor]:
        """Return outputs, their version and the gradient there; the head's own if not resized."""
        return self._seen.pop(call, own)


__all__ = ["ResizedMaps"]
