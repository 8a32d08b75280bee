"""Tokens that stand in the client's inputs: an embedding's rows that moved, counted at the head."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from labelleak.attacks.row_energy import RowEnergy
from labelleak.attacks.text.count_chances import likeliest, log_chances
from labelleak.core.card import Card
from labelleak.core.frequencies import told_frequencies
from labelleak.core.head_sums import by_rows
from labelleak.core.interfaces import Estimate, Prepared, samples
from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import Tensor
from labelleak.core.needs import Need
from labelleak.core.observation import Observation
from labelleak.errors import NotApplicable
from labelleak.records.assumptions import ONE_GRADIENT

_EMBEDDING = re.compile(r"(^|[._])(wte|\w*emb(ed|edding|eddings)?(_\w+)?|embed\w*)([._]|$)")


@dataclass(frozen=True)
class InputTokens(RowEnergy):
    """Take the tokens that are there off the input embedding, and count them at the head's rows.

    An embedding's gradient is a sum of one vector for each position, added to the row of the token
    that stands there. Rows of other tokens do not move, in one step or in many, under SGD or Adam.
    In a causal language model labels are the inputs, moved by one position: all of them are input
    tokens but the last of each text. So presence is nearly exact, however long the model has
    trained. Counts of these tokens come from their rows in the head, as `RowEnergy` counts; where
    the head is frozen or was not shared, from how often each occurs, where that is known.

    Of this project; that input embeddings show the words of a batch was seen by Melis et al. (S&P
    2019).

    Assumes a causal language model. Labels that are no input, as of translations, it misses.

    Edge cases: where no such embedding was shared, or where every row of it moved, by noise, by
    weight decay or because it is tied to the head, the answer is that of `RowEnergy`; where the
    head did not move either there is none. Cost: as there, and one pass over the embedding.
    """

    name = "input_tokens"
    needs = RowEnergy.needs | {Need.FULL_GRADIENT}
    cite = "labelleak, after Melis et al., IEEE S&P 2019"
    card = Card(
        "input tokens",
        ONE_GRADIENT,
        plain="Sees in the embedding which tokens were read, and counts them at the head's rows.",
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Keep how often each class occurs, where that is known."""
        shares = told_frequencies(known.prior)
        by_head = super().prepare(known, num_classes, rng)

        def answer(observation: Observation) -> Estimate:
            if not observation.head_is_still:
                return by_head(observation)
            total, found = samples(observation), []
            for there in self._named(observation):
                if there is None or not there.any():
                    raise NotApplicable(
                        f"{self.name} found neither a head that moved nor an embedding of which "
                        "some rows alone did"
                    )
                expected = total * (there / there.sum() if shares is None else shares)
                found.append(likeliest(log_chances(expected, there, 0.0), total))
            counts, chances = (np.stack(part) for part in zip(*found, strict=True))
            shape = (*observation.trials, num_classes)
            return Estimate(counts.reshape(shape), chances.reshape(shape))

        return answer

    def _named(self, observation: Observation) -> Sequence[np.ndarray | None]:
        """Return the tokens that were read; None where the embedding does not tell."""
        read = read_tokens(observation).reshape(-1, observation.num_classes)
        return [None if one.all() else one for one in read]


def read_tokens(observation: Observation) -> np.ndarray:
    """Return which tokens the client's inputs may have held, ``*R x K`` of booleans.

    All may where the update does not hold one embedding with a row for each token.

    >>> import torch
    >>> rest = {"embedding.weight": torch.tensor([[0.0, 0.1], [0.0, 0.0], [0.2, 0.0]])}
    >>> read_tokens(Observation(torch.ones(3, 2), None, 4, rest=rest)).tolist()
    [True, False, True]
    """
    trials, rest = observation.trials, observation.rest or {}
    names = embeddings_in(rest, observation.num_classes, trials)
    if len(names) != 1:
        return np.ones((*trials, observation.num_classes), dtype=bool)
    table = rest[names[0]].detach()
    tables = table.reshape(-1, *table.shape[-2:])
    found = [by_rows(one, lambda rows: (rows != 0).any(-1)) for one in tables]
    return np.stack(found).astype(bool).reshape(*trials, -1)


def embeddings_in(
    tensors: Mapping[str, Tensor], rows: int, trials: tuple[int, ...] = ()
) -> tuple[str, ...]:
    """Name the tensors that are called an embedding and have a row for each token.

    >>> import torch
    >>> embeddings_in({"model.embed_tokens.weight": torch.ones(5, 2), "wpe": torch.ones(3, 2)}, 5)
    ('model.embed_tokens.weight',)
    """
    return tuple(
        name
        for name, table in tensors.items()
        if _EMBEDDING.search(name) and table.dim() == len(trials) + 2 and table.shape[-2] == rows
    )


__all__ = ["InputTokens", "embeddings_in", "read_tokens"]
