"""A cache in which attacks keep what they learnt: in memory, or in a folder as safetensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from labelleak.core.fingerprints import fingerprint_tensors
from labelleak.errors import BadInput
from labelleak.files.safetensors import read_safetensors
from labelleak.records.files import write_whole

_DIGEST = "labelleak-digest"


class FolderFitCache:
    """Notes under their fingerprints; the same answers with them as without, sooner.

    Files hold tensors alone, so reading one runs no code; one that is not whole is learnt anew and
    written over. What is in the folder decides answers: keep it where only you can write.

    Args:
        folder: where notes are kept as ``FINGERPRINT.safetensors``, made if it is not there;
            None keeps them in memory, for as long as this fit_cache lives.
        tell: called with what is about to be learnt whenever nothing was noted, and with "" when
            it is.

    Raises:
        BadInput: if the folder cannot be made.

    >>> import torch
    >>> notes = FolderFitCache()
    >>> notes.recall("a fit", "0123") is None
    True
    >>> notes.note("0123", {"x": torch.ones(2)})
    >>> notes.recall("a fit", "0123")["x"]
    tensor([1., 1.])
    """

    def __init__(
        self, folder: Path | None = None, tell: Callable[[str], None] = lambda what: None
    ) -> None:
        self.folder = folder
        self.tell = tell
        self._held: dict[str, dict[str, Tensor]] = {}
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BadInput(f"cannot make {folder}: {error.strerror or error}") from error

    def recall(self, what: str, key: str) -> Mapping[str, Tensor] | None:
        """Return what was noted under a key; None, and a word that it is learnt now, if nothing."""
        if self.folder is None:
            found = self._held.get(key)
        else:
            found = _read(self.folder / f"{key}.safetensors")
        if found is None:
            self.tell(what)
        return found

    def note(self, key: str, learnt: Mapping[str, Tensor]) -> None:
        """Keep what was learnt.

        Raises:
            BadInput: if it cannot be written.
        """
        self.tell("")
        tensors = {name: value.detach().contiguous() for name, value in learnt.items()}
        if self.folder is None:
            self._held[key] = {name: value.clone() for name, value in tensors.items()}
        else:
            write_whole(
                self.folder / f"{key}.safetensors", save(tensors, {_DIGEST: _digest(tensors)})
            )


def _digest(tensors: Mapping[str, Tensor]) -> str:
    return fingerprint_tensors((name, tensors[name]) for name in sorted(tensors))


def _read(path: Path) -> dict[str, Tensor] | None:
    """Read a note; None if there is none, or none that is whole and as it was written."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            tensors, said = read_safetensors(path, file, path.stat().st_size, path.name)
    except (BadInput, OSError):
        return None
    if said.get(_DIGEST) != _digest(tensors):
        return None
    # Copies: the file may be written over while what was read is in use.
    return {name: value.clone() for name, value in tensors.items()}


__all__ = ["FolderFitCache"]
