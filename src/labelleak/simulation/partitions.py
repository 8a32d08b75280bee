"""How a labelled data set is parted among clients: every sample to exactly one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from labelleak.core.counts import Ints
from labelleak.errors import BadInput, unknown_name

_DRAWS = 50


class Partition(Protocol):
    """A way to part labelled samples among clients."""

    @property
    def label(self) -> str:
        """The partition's name, as on the command line and in records."""
        ...

    def split(self, labels: Ints, num_clients: int, rng: np.random.Generator) -> list[Ints]:
        """Return each client's indices; some may come out empty."""
        ...


@dataclass(frozen=True)
class EvenPartition:
    """Samples dealt out at random, as many to each client (up to one)."""

    label: str = "iid"

    def split(self, labels: Ints, num_clients: int, rng: np.random.Generator) -> list[Ints]:
        """Return each client's indices."""
        return np.array_split(rng.permutation(len(labels)), num_clients)


@dataclass(frozen=True)
class DirichletPartition:
    """Each class parted among clients by shares from a symmetric Dirichlet(alpha).

    Yurochkin et al. (ICML 2019). Clients differ in size as well as in labels. Where a client comes
    out empty all shares are drawn anew, so small alphas are drawn given that none is.
    """

    alpha: float

    @property
    def label(self) -> str:
        """The partition's name with its concentration."""
        return f"dirichlet:{self.alpha:g}"

    def split(self, labels: Ints, num_clients: int, rng: np.random.Generator) -> list[Ints]:
        """Return each client's indices."""
        found: list[Ints] = []
        for _ in range(_DRAWS):
            owners = np.empty(len(labels), dtype=np.int64)
            for label in np.unique(labels):
                members = rng.permutation(np.flatnonzero(labels == label))
                edges = np.cumsum(_shares(self.alpha, num_clients, rng))[:-1]
                cuts = np.round(edges * len(members)).astype(int)
                for client, part in enumerate(np.split(members, cuts)):
                    owners[part] = client
            found = [np.flatnonzero(owners == client) for client in range(num_clients)]
            if all(own.size for own in found):
                break
        return found


@dataclass(frozen=True)
class PathologicalPartition:
    """Each client holds this many classes, and each class is parted evenly among its holders.

    Every client takes the classes that the fewest hold so far, ties at random, so all classes
    find a holder if there are enough clients.
    """

    classes: int

    @property
    def label(self) -> str:
        """The partition's name with its classes a client."""
        return f"pathological:{self.classes}"

    def split(self, labels: Ints, num_clients: int, rng: np.random.Generator) -> list[Ints]:
        """Return each client's indices."""
        present = np.unique(labels)
        if not len(present) <= num_clients * self.classes:
            raise BadInput(
                f"{num_clients} clients of {self.classes} classes each cannot hold "
                f"{len(present)} classes; use more clients or more classes each"
            )
        if self.classes > len(present):
            raise BadInput(
                f"a client cannot hold {self.classes} classes of data that have {len(present)}"
            )
        holders: list[list[int]] = [[] for _ in present]
        for client in rng.permutation(num_clients):
            held = np.array([len(one) for one in holders]) + rng.random(len(present))
            for place in np.argsort(held)[: self.classes]:
                holders[place].append(int(client))
        parts: list[list[Ints]] = [[] for _ in range(num_clients)]
        for label, clients in zip(present, holders, strict=True):
            members = rng.permutation(np.flatnonzero(labels == label))
            for client, part in zip(clients, np.array_split(members, len(clients)), strict=True):
                parts[client].append(part)
        return [np.concatenate(part) for part in parts]


@dataclass(frozen=True)
class ShardPartition:
    """Samples sorted by label and cut into shards of one size; each client draws this many.

    McMahan et al. (AISTATS 2017), with two shards a client.
    """

    shards: int

    @property
    def label(self) -> str:
        """The partition's name with its shards a client."""
        return f"shards:{self.shards}"

    def split(self, labels: Ints, num_clients: int, rng: np.random.Generator) -> list[Ints]:
        """Return each client's indices."""
        mixed = rng.permutation(len(labels))
        ordered = mixed[np.argsort(labels[mixed], kind="stable")]
        pieces = np.array_split(ordered, num_clients * self.shards)
        dealt = rng.permutation(len(pieces)).reshape(num_clients, self.shards)
        return [np.concatenate([pieces[place] for place in own]) for own in dealt]


_NUMBERED: dict[str, Callable[[int], Partition]] = {
    "pathological": PathologicalPartition,
    "shards": ShardPartition,
}
PARTITIONS = {
    "iid": "samples dealt out evenly at random",
    "dirichlet:ALPHA": "each class parted by shares from a symmetric Dirichlet(ALPHA)",
    "pathological:K": "K classes a client",
    "shards:S": "S shards a client of the samples sorted by label (McMahan's)",
}


def parse_partition(text: str) -> Partition:
    """Turn a partition's name into the partition.

    Raises:
        BadInput: for an unknown name, or a number that is missing or out of range.

    >>> [parse_partition(name).label for name in ("iid", "dirichlet:0.3", "shards:2")]
    ['iid', 'dirichlet:0.3', 'shards:2']
    """
    name, _, argument = text.partition(":")
    if text == "iid":
        return EvenPartition()
    if name == "dirichlet":
        try:
            alpha = float(argument)
        except ValueError:
            alpha = -1.0
        if not 0 < alpha < float("inf"):
            raise BadInput(f"write the partition as dirichlet:ALPHA, ALPHA above 0, not {text!r}")
        return DirichletPartition(alpha)
    if name in _NUMBERED:
        if not argument.isdecimal() or int(argument) < 1:
            raise BadInput(f"write the partition as {name}:NUMBER, at least 1, not {text!r}")
        return _NUMBERED[name](int(argument))
    raise unknown_name("partition", text, PARTITIONS)


def partition_samples(
    scheme: Partition, labels: ArrayLike, num_clients: int, rng: np.random.Generator
) -> tuple[Ints, ...]:
    """Part samples among clients: every sample to exactly one client, none left empty.

    Args:
        scheme: how; see `parse_partition`.
        labels: class of each sample.
        num_clients: clients in all.
        rng: source of the draws.

    Returns:
        Each client's indices, sorted.

    Raises:
        BadInput: if a client would get nothing, or the scheme does not fit the data.

    >>> labels = np.arange(12) % 3
    >>> own = partition_samples(PathologicalPartition(1), labels, 3, np.random.default_rng(0))
    >>> sorted(labels[part].tolist() for part in own)
    [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2]]
    """
    known = np.asarray(labels)
    if not 1 <= num_clients <= len(known):
        raise BadInput(
            f"{len(known)} samples cannot be parted among {num_clients} clients; "
            "use from one client to as many as there are samples"
        )
    parts = tuple(np.sort(part) for part in scheme.split(known, num_clients, rng))
    empty = sum(part.size == 0 for part in parts)
    if empty:
        raise BadInput(
            f"{scheme.label} leaves {empty} of {num_clients} clients without a sample; "
            "use fewer clients, more data or a more even partition"
        )
    return parts


def split_by_user(users: ArrayLike) -> tuple[tuple[str, ...], tuple[Ints, ...]]:
    """Part samples by the user that each belongs to, as in FEMNIST.

    Args:
        users: whose each sample is, names or numbers.

    Returns:
        The users' names in sorted order, and each one's indices.

    >>> split_by_user(["ann", "bob", "ann"])
    (('ann', 'bob'), (array([0, 2]), array([1])))
    """
    names, owners = np.unique(np.asarray(users), return_inverse=True)
    if not names.size:
        raise BadInput("no sample has a user")
    parts = tuple(np.flatnonzero(owners == place) for place in range(len(names)))
    return tuple(str(name) for name in names), parts


def _shares(alpha: float, clients: int, rng: np.random.Generator) -> np.ndarray:
    shares = rng.dirichlet(np.full(clients, alpha))
    # A tiny concentration underflows to all-zero shares: one client then takes all.
    return shares if shares.sum() > 0.5 else np.eye(clients)[rng.integers(clients)]


__all__ = [
    "PARTITIONS",
    "DirichletPartition",
    "EvenPartition",
    "Partition",
    "PathologicalPartition",
    "ShardPartition",
    "parse_partition",
    "partition_samples",
    "split_by_user",
]
