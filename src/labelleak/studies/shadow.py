"""The shadow attack beside every other: untrained, early and late in training, by batch size."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from labelleak.attacks import STANDARD
from labelleak.audits.options import AuditOptions, check_options
from labelleak.audits.run import Part
from labelleak.records.intervals import Interval, bootstrap_mean
from labelleak.records.record import Record
from labelleak.report.markdown import group, span, table
from labelleak.report.wording import name_attack
from labelleak.studies.study import Asked, Study

SHADOW, WHOLE, FREE = "shadow", "shadow_layers", "free"
# Every attack on one step; dlg is left out (20 s an update at N = 128, and never the best).
_SLOWER = ("rlg", "soft_label", "llbg_measured", "client_simulation")
ATTACKS = (*(name for name in STANDARD if name != SHADOW), *_SLOWER, SHADOW)
# How far shadow models of all layers may be below those of the head.
ALLOWED = 0.01
# Shown by name beside the shadow attack and the best of all others.
_NAMED = (FREE, "llg", "llg_star", "llg_plus")


def ask_shadow(
    data: str,
    asked: Asked,
    *,
    stages: Sequence[int],
    sizes: Sequence[int],
    trials: int,
    models: int,
    attacks: Sequence[str] = ATTACKS,
) -> AuditOptions:
    """Ask for an audit in which no attack but the free guess knows how batches are drawn.

    Raises:
        BadInput: for names that are unknown, or batches larger than the victims' data.
    """
    return check_options(
        data=data,
        model=asked.model or "lenet",
        batch_sizes=tuple(sizes),
        schemes=("iid", "unbalanced", "dirichlet:0.3"),
        attacks=tuple(attacks),
        shadow_batches=4000,
        trials=trials,
        initialisations=models,
        training_steps=tuple(stages),
        seed=asked.seed,
    )


def plan_shadow(asked: Asked) -> list[Part]:
    """Plan the audit behind the table.

    Models are untrained, early, late, and overfit for data that are hardly learnt by then; the
    quick form takes a minute or two on digits.
    """
    if asked.quick:
        coarse = ask_shadow(asked.data, asked, stages=(0, 600), sizes=(8, 32), trials=30, models=1)
        return [Part(options=coarse)]
    stages, sizes = (0, 60, 600, 3000), (1, 8, 32, 128)
    full = ask_shadow(asked.data, asked, stages=stages, sizes=sizes, trials=120, models=3)
    return [Part(options=full)]


class Contest:
    """The attacks' means in each cell of one training stage.

    Attributes:
        rows: the stage's records.
        asr: mean ASR of every attack, by scheme and batch size.
        gained: mean advantage, likewise.
    """

    def __init__(self, rows: Sequence[Record]) -> None:
        """Average over trials."""
        self.rows = rows
        cells = group(rows, lambda row: (row.scheme, row.batch_size))
        by = {cell: group(own, lambda row: row.attack) for cell, own in cells.items()}
        self.asr = {
            cell: {name: mean(row.asr for row in own) for name, own in attacks.items()}
            for cell, attacks in by.items()
        }
        self.gained = {
            cell: {name: mean(row.advantage or 0.0 for row in own) for name, own in attacks.items()}
            for cell, attacks in by.items()
        }

    def best_other(self, cell: tuple[str, int]) -> str:
        """Name the best attack but the shadow attacks."""
        asr = self.asr[cell]
        return max((name for name in asr if name not in (SHADOW, WHOLE)), key=lambda n: asr[n])

    def margins(self) -> list[float]:
        """Return the shadow attack's mean ASR less the best other's, cell by cell."""
        return [asr[SHADOW] - asr[self.best_other(cell)] for cell, asr in self.asr.items()]

    def gains(self) -> dict[tuple[str, int], Interval]:
        """Return what reading the whole update adds to the head's ASR, trial by trial."""
        found = {}
        for cell, own in group(self.rows, lambda row: (row.scheme, row.batch_size)).items():
            by = group(own, lambda row: row.attack)
            if WHOLE in by:
                head = {(row.initialisation, row.trial): row.asr for row in by[SHADOW]}
                pairs = [(row.asr - head[row.initialisation, row.trial]) for row in by[WHOLE]]
                found[cell] = bootstrap_mean(pairs, [row.initialisation for row in by[WHOLE]])
        return found

    def accuracy(self) -> str:
        """Say how accurate the models are."""
        found = {row.initialisation: row.model_accuracy or 0.0 for row in self.rows}.values()
        return f"{min(found):.2f} to {max(found):.2f}"


def make_shadow_table(rows: Sequence[Record]) -> str:
    """Write records as Markdown: a summary, then for each stage the contest and all attacks.

    ASR is a mean over trials. The free guess knows the scheme; under schemes that treat all
    classes alike its counts are those of the free guess that does not.
    """
    stages = sorted(group(rows, lambda row: row.training_steps).items())
    contests = {steps: Contest(own) for steps, own in stages}
    heads = ["steps", "accuracy", "shadow, mean ASR", "best other, mean ASR", "margin, mean"]
    heads += ["margin, least", "over the free guess, least"]
    parts = [table(heads, (_summary(steps, one) for steps, one in contests.items()))]
    for one in contests.values():
        gaps = one.margins()
        least = f"mean {mean(gaps):+.3f}, least {min(gaps):+.3f}."
        parts += [_title(one), _contest(one), f"Margin over the best other attack: {least}"]
        if one.gains():
            parts.append(_whole(one))
        parts.append(_everything(one))
    return "\n\n".join(parts) + "\n"


def _summary(steps: int, one: Contest) -> list[str]:
    """Write how far the shadow attack is above all others."""
    shadow = mean(asr[SHADOW] for asr in one.asr.values())
    best = mean(asr[one.best_other(cell)] for cell, asr in one.asr.items())
    gaps = one.margins()
    free = min(asr[SHADOW] - asr[FREE] for asr in one.asr.values())
    figures = [f"{shadow:.3f}", f"{best:.3f}", f"{mean(gaps):+.3f}", f"{min(gaps):+.3f}"]
    return [str(steps), one.accuracy(), *figures, f"{free:+.3f}"]


def _title(one: Contest) -> str:
    first = one.rows[0]
    models = len({row.initialisation for row in one.rows})
    trials = len({row.trial for row in one.rows})
    return (
        f"**{first.data}, {first.model} ({first.extra['activation']}), {first.training_steps} "
        f"training steps, accuracy {one.accuracy()}** "
        f"(K = {first.num_classes}, {models} models, {trials} batches a cell)"
    )


def _contest(one: Contest) -> str:
    """Set the shadow attack beside LLG's family and the best other attack, a row a cell."""
    rows = []
    for (cell, asr), gap in zip(one.asr.items(), one.margins(), strict=True):
        best = one.best_other(cell)
        row = [
            *cell,
            *(f"{asr[name]:.2f}" for name in _NAMED),
            f"{asr[best]:.2f} {name_attack(best)}",
        ]
        gained = one.gained[cell][SHADOW]
        rows.append([*row, f"**{asr[SHADOW]:.2f}**", f"{gap:+.3f}", f"{gained:.2f}"])
    names = [*map(name_attack, _NAMED), "best other", "shadow", "margin", "advantage"]
    return table(["batches", "N", *names], rows)


def _whole(one: Contest) -> str:
    """Set shadow models of all layers beside those of the head, a row a cell, and sum up."""
    gains = one.gains()
    rows = [
        [*cell, f"{one.asr[cell][SHADOW]:.3f}", f"{one.asr[cell][WHOLE]:.3f}", span(gain, 3)]
        for cell, gain in gains.items()
    ]
    heads = ["batches", "N", "head alone", "all layers", "gain, paired trials (95 % interval)"]
    below = sum(gain.high < -ALLOWED for gain in gains.values())
    better = sum(gain.low > 0 for gain in gains.values())
    means = [gain.mean for gain in gains.values()]
    said = (
        f"All layers less the head alone: mean {mean(means):+.3f}, least {min(means):+.3f}, most "
        f"{max(means):+.3f}; of {len(gains)} cells {better} above 0 and {below} below "
        f"-{ALLOWED:g} with their whole interval."
    )
    return f"{table(heads, rows)}\n\n{said}"


def _everything(one: Contest) -> str:
    """Write ASR and advantage of every attack in every cell."""
    rows = [
        [
            name_attack(name),
            *(
                f"{asr[name]:.2f} ({one.gained[cell][name]:.2f})" if name in asr else "-"
                for cell, asr in one.asr.items()
            ),
        ]
        for name in sorted({row.attack for row in one.rows}, key=ATTACKS.index)
    ]
    return table(["ASR (advantage)", *(f"{scheme}, {n}" for scheme, n in one.asr)], rows)


STUDY = Study(
    parts=plan_shadow,
    report=lambda found: {"shadow.md": make_shadow_table(found.records)},
    takes=frozenset({"model", "quick"}),
)
