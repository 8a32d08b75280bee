"""Audit a simulated client: many batches of a model and a data set against a battery of attacks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from labelleak.audits.options import AuditOptions, check_options, quickened
from labelleak.audits.plan import plan_audit, refuse_copies
from labelleak.audits.run import Part, Progress, open_run, run_parts, say_nothing
from labelleak.core.seeding import torch_threads
from labelleak.files.fit_cache import FolderFitCache
from labelleak.records.files import write_whole
from labelleak.records.provenance import bare, digests_of
from labelleak.records.record import Record, read_records
from labelleak.report.wording import count
from labelleak.simulation.data.given import dataset_of
from labelleak.simulation.user_models import name_factory


@dataclass(frozen=True, eq=False)
class Audit:
    """A finished audit: its records, and what can be made of them."""

    records: tuple[Record, ...]

    def __repr__(self) -> str:
        attacks = len({record.attack for record in self.records})
        return f"<Audit: {count(len(self.records), 'record')} of {count(attacks, 'attack')}>"

    def headline(self) -> list[str]:
        """Say in plain words what was found, one sentence per threat model."""
        from labelleak.report import headline, worst_cases

        return headline(worst_cases(self.records))

    def write_report(
        self,
        path: str | os.PathLike[str],
        *,
        title: str | None = None,
        system: str | None = None,
        contact: str | None = None,
    ) -> Path:
        """Write the page, one self-contained HTML file.

        Args:
            path: the file.
            title: heading of the page.
            system: the system that was audited.
            contact: whom to ask about the audit.
        """
        from labelleak.report import render
        from labelleak.report.about import About

        page, about = Path(path), About(title=title, system=system, contact=contact)
        write_whole(page, render(self.records, source="records.jsonl", about=about))
        return page


def audit(
    *,
    data: Any = "digits",
    model: str | nn.Module | Callable[..., nn.Module] = "cnn",
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    gzip: bool = False,
    quick: bool = False,
    progress: Progress | None = None,
    learnt: str | os.PathLike[str] | None = None,
    threads: int | None = 1,
    **choices: Any,
) -> Audit:
    """Measure how many labels of a batch its shared gradient gives away.

    Draws victims' batches from held-out data, makes the gradient each client would share, lets
    the attacks answer and scores them against the truth and against the best guess that
    needs no update.

    Args:
        data: name or path of a data set (``labelleak list data``), ``(X, y)``, a `Dataset`, or one
            of torch or Hugging Face.
        model: name of a model, ``package.module:factory``, a function that builds one (called with
            ``input_shape`` and ``num_classes`` as far as it takes them), or a module, which is
            audited as it is.
        out: folder for ``records.jsonl``; an interrupted audit there is gone on with. None keeps
            the records in memory.
        overwrite: drop another audit that lies in that folder.
        gzip: write ``records.jsonl.gz`` there, which takes a hundredth of the room.
        quick: take a first look: few batches, quick rules, untrained models, unless said otherwise.
        progress: called with cells done and cells in all.
        learnt: folder where the shadow attack keeps what it learns, to use it again in another
            audit of the same models, data, seed and options; the records are the same.
        threads: of torch while the audit runs. With one, as on the command line, a seed repeats
            its records; more are faster for large models, and None leaves them as they are.
        choices: the other fields of `AuditOptions`: batch_sizes, schemes, attacks, trials,
            initialisations, training_steps, seed, ...

    Raises:
        BadInput: for anything that cannot be; the sentence says what to do.

    >>> found = audit(batch_sizes=[1], schemes=["iid"], attacks=["llg"], trials=2,
    ...               initialisations=1, training_steps=[0])
    >>> [record.asr for record in found.records]
    [1.0, 1.0]
    """
    if isinstance(model, nn.Module):
        own = {"mode": "train" if model.training else "eval"}
        choices = {"initialisations": 1, "training_steps": (0,), **own, **choices}
    data = os.fspath(data) if isinstance(data, os.PathLike) else data
    own_data = None if isinstance(data, str) else dataset_of(data)
    options = check_options(
        data=data if own_data is None else own_data.name,
        model=type(model).__name__ if isinstance(model, nn.Module) else name_factory(model),
        **choices,
    )
    if quick:
        said = [name for name, value in choices.items() if value is not None]
        options = quickened(options, said)
    given = {"model": not isinstance(model, str), "data": own_data is not None}
    plan = plan_audit(
        options,
        data=own_data,
        module=model if isinstance(model, nn.Module) else None,
        command=_call(options, given=given),
    )
    refuse_copies(plan)
    if learnt is not None:
        plan = replace(plan, fit_cache=FolderFitCache(Path(learnt)))
    parts, shown = [Part(options=options, given=plan)], progress or say_nothing
    with torch_threads(threads):
        if out is None:
            return Audit(tuple(run_parts(parts, None, numbered=False, progress=shown)))
        with open_run(parts, Path(out), overwrite=overwrite, packed=gzip) as journal:
            run_parts(parts, journal, numbered=False, progress=shown)
    return Audit(tuple(read_records(journal.records)))


def _call(options: AuditOptions, *, given: Mapping[str, bool]) -> str:
    """Write options as the Python call that asks for them, defaults left out.

    What was given as an object cannot be written down; its name stands for it, unquoted.
    """
    plain = AuditOptions()
    chosen = {
        key: value
        for key, value in vars(options).items()
        if key in AuditOptions.__dataclass_fields__ and value != getattr(plain, key)
    }
    words = {key: repr(bare(v) if isinstance(v, str) else v) for key, v in chosen.items()}
    for key in (key for key, own in given.items() if own):
        words[key] = f"<{getattr(options, key) if key == 'data' else f'your {options.model}'}>"
    said = f"labelleak.audit({', '.join(f'{key}={word}' for key, word in words.items())})"
    return said + digests_of(value for value in chosen.values() if isinstance(value, str))
