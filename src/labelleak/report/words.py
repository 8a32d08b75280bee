"""Which words of a text are named: common and rare ones, and those that stand there once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from labelleak.records.frame import RecordFrame
from labelleak.records.record import Record
from labelleak.records.text import BANDS
from labelleak.report import wording

_TITLES = {
    "common": "Common words",
    "middle": "Between",
    "rare": "Rare words",
    "special": "Special tokens",
}


@dataclass(frozen=True)
class RareWords:
    """What the strongest attacker names of words in each band, over all trials of its case.

    Attributes:
        labels: words of each band in the batches.
        named: how many of them were named.
        once: rare words that stand in a batch once, those named, and those named that are not
            there.
    """

    labels: tuple[int, ...]
    named: tuple[int, ...]
    once: tuple[int, int, int]

    def say(self) -> str:
        """Say what becomes of rare words that stand in a batch once."""
        there, named, wrong = self.once
        if not there:
            return "No rare word stood in these batches only once, so nothing is known of them."
        right = f"{wrong:,} rare words were named that are not there" if wrong else "none wrongly"
        return (
            f"Of {there:,} rare words that stand in their batch once, {named:,} are named "
            f"({wording.share(named / there)}); {right}."
        )

    def rows(self) -> list[tuple[str, str, str]]:
        """Return name, number and share named of each band that is there."""
        return [
            (_TITLES[band], f"{there:,}", wording.share(named / there))
            for band, there, named in zip(BANDS, self.labels, self.named, strict=True)
            if there
        ]


def rare_words(records: Iterable[Record]) -> RareWords | None:
    """Gather what is said of words in the case, and by the attacker, with the most advantage.

    Returns:
        None where the labels are no tokens.
    """
    frame = RecordFrame.of(records)
    if not frame.distinct("band_labels"):
        return None
    rows = [row for row in frame if "band_labels" in row.extra and row.threat_model != "none"]
    if not rows:
        return None
    groups: dict[Any, list[Record]] = {}
    for row in rows:
        key = (row.attack, row.adaptive, row.training_steps, row.batch_size, row.local_steps)
        groups.setdefault((*key, row.defense, row.data, row.model), []).append(row)
    most = max(
        groups.values(), key=lambda group: float(np.mean([row.advantage or 0 for row in group]))
    )
    keys = ("band_labels", "band_named", "rare_once")
    labels, named, once = (
        np.sum([row.extra[key] for row in most], axis=0).tolist() for key in keys
    )
    return RareWords(tuple(labels), tuple(named), (once[0], once[1], once[2]))


__all__ = ["RareWords", "rare_words"]
