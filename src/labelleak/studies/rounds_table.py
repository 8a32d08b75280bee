"""Return whether the error of pooled answers falls with the root of the rounds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from labelleak.records.intervals import Interval, bootstrap_means
from labelleak.records.record import Record
from labelleak.report.wording import name_attack

Panel = tuple[str, str, str, str]


def make_rounds_table(records: Iterable[Record]) -> str:
    """Write, for each federation and attack, the error after one round and what is left of it.

    The error is ``1 - ASR``, the total variation distance between pooled and true label shares.
    If it were nothing but noise that is drawn anew in each round, R rounds would leave
    1/sqrt(R) of it; an error that all rounds share stays. Means are over the clients of an
    initialisation; the share that is left is theirs, with its interval over initialisations.
    """
    rows = list(records)
    last = max((int(row.extra["rounds"]) for row in rows), default=1)
    errors = _errors(rows)
    attacks = list(dict.fromkeys(row.attack for row in rows))
    panels = list(dict.fromkeys(map(_panel, rows)))
    heads = [f"{name_attack(name)}: error of 1 round, of {last}, left" for name in attacks]
    return "\n".join(
        [
            f"**What {last} rounds leave of the error of one** (1/sqrt({last}) = "
            f"{1 / np.sqrt(last):.2f} if it were noise alone)",
            "",
            "| activation | federation | model before | against | free guess's error | "
            + " | ".join(heads)
            + " |",
            "|---|---|---|---|---|" + "---|" * len(attacks),
            *(
                f"| {' | '.join(panel)} | {_free(rows, panel, last):.2f} | "
                + " | ".join(_entry(errors, panel, name, last) for name in attacks)
                + " |"
                for panel in panels
            ),
        ]
    )


def _panel(row: Record) -> Panel:
    extra, steps = row.extra, row.training_steps
    stage = f"{steps} steps" if steps else "fresh"
    return str(extra["activation"]), str(extra["federation"]), stage, str(extra["against"])


def _errors(rows: list[Record]) -> dict[tuple[Panel, str, int], dict[int, float]]:
    """Return the mean error of each initialisation's clients."""
    found: dict[tuple[Panel, str, int], dict[int, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in rows:
        key = (_panel(row), row.attack, int(row.extra["rounds"]))
        found[key][row.initialisation].append(1 - row.asr)
    return {
        key: {model: float(np.mean(values)) for model, values in own.items()}
        for key, own in found.items()
    }


def _free(rows: list[Record], panel: Panel, rounds: int) -> float:
    own = [r.asr_free for r in rows if _panel(r) == panel and r.extra["rounds"] == rounds]
    return 1 - float(np.mean(own))


def _entry(
    errors: dict[tuple[Panel, str, int], dict[int, float]], panel: Panel, attack: str, last: int
) -> str:
    first, pooled = errors[panel, attack, 1], errors[panel, attack, last]
    before, after = np.mean(list(first.values())), np.mean(list(pooled.values()))
    ratios = {model: pooled[model] / first[model] for model in first if first[model] > 0}
    if len(ratios) < len(first):
        return f"{before:.3f}, {after:.3f}, -"
    left = _interval(ratios)
    return f"{before:.3f}, {after:.3f}, {left.mean:.2f} ({left.low:.2f} to {left.high:.2f})"


def _interval(ratios: dict[int, float]) -> Interval:
    return bootstrap_means(
        [(np.array(list(ratios.values())), np.array([str(model) for model in ratios]))]
    )[0]


__all__ = ["make_rounds_table"]
