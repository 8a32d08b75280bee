"""Audit one client's update: weights before and after become records, or estimates."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

import labelleak
from labelleak.adapters.flower.journal import ESTIMATES, note, write_records, write_rows
from labelleak.adapters.flower.naming import head_of, with_names
from labelleak.attacks import make_attack
from labelleak.battery import COSTLY, MANY_CLASSES, RULES, Battery, Outcome, make_records
from labelleak.errors import BadInput
from labelleak.interfaces import Attack, Estimate, Knowledge, LabelledData, LocalTraining
from labelleak.interfaces import threat_model as threat_model_of
from labelleak.observation import Observation
from labelleak.priors import Prior, UniformPrior
from labelleak.score import Truth
from labelleak.seeding import whole_number
from labelleak.white_box import WhiteBox

Arrays = Mapping[str, Tensor]
_UNIFORM = UniformPrior()


@dataclass(frozen=True)
class Sender:
    """Whose update it is, and how it was made, as far as is known where it is audited.

    Attributes:
        round: the server's round.
        client: the client's name.
        num_samples: labels behind the update in all.
        local_steps: optimiser steps behind it; None takes the auditor's.
        labels: the labels themselves, where the truth is at hand.
    """

    round: int
    client: str
    num_samples: int | None = None
    local_steps: int | None = None
    labels: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Finding:
    """What the attacks got out of one update.

    Attributes:
        sender: whose update it was.
        observation: the update as the attacks saw it, one trial.
        outcomes: scored answers; empty without the truth.
        estimates: answers without a score, by attack; empty with the truth.
        truth: what was really there, or None.
        not_applicable: attacks that could not answer, and why.
    """

    sender: Sender
    observation: Observation
    outcomes: tuple[Outcome, ...] = ()
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    truth: Truth | None = None
    not_applicable: Mapping[str, str] = field(default_factory=dict)

    @property
    def worst(self) -> float:
        """The largest advantage of an attack that reads the update.

        It is one update's figure, so it has no interval; being the largest of many, it is not
        zero on average even where nothing leaks. Where the guess without the update is always
        right there is nothing left to learn, and it is 0.

        Raises:
            BadInput: if no attack that reads the update could be scored.
        """
        found = [one for one in self.outcomes if one.threat_model != "none"]
        if not found:
            raise BadInput("no attack could be scored on this update, so nothing is known of it")
        return max(0.0 if one.advantage is None else float(one.advantage[0]) for one in found)


@dataclass(frozen=True, kw_only=True, eq=False)
class Auditor:
    """Options of an audit of a federation's updates; server and clients use the same.

    The update is what moved between the weights that were sent and those that came back, so the
    client's learning rate and steps must be known. Where labels are known (on the client, or by
    ``truth``) the folder gets ``records.jsonl``; otherwise an attack cannot be scored and its
    answer goes to ``estimates.jsonl``, with the keys ``round``, ``client``, ``attack``,
    ``threat_model``, ``num_samples``, ``counts``, ``notes``, ``time``. What went
    wrong stands in ``events.jsonl``; an error of the auditor never stops the federation.

    Attributes:
        folder: where the files go; None writes none.
        lr: the clients' learning rate.
        local_steps: optimiser steps of a client in a round.
        batch_size: labels of a step; None takes the reply's number of examples as all labels.
        momentum: of the clients' SGD.
        weight_decay: of the clients' SGD.
        proximal: FedProx's pull towards the weights that were sent.
        optimiser: sgd or adam.
        model: the model, or a function that makes it, in the mode that clients train it in;
            None leaves out the attacks that need it.
        input_shape: shape of one input, for attacks that feed the model random inputs.
        head: module name of the last linear layer; None takes the model's last.
        attacks: names or attacks; None takes the standard battery.
        auxiliary: labelled data of the attacker's own; None leaves out the attacks that need it.
        prior: how labels are distributed before the update is seen; the advantage counts from
            the best guess under it.
        truth: gives the labels of a client's update in a round, in a simulation.
        truth_metric: name of a reply's metric that holds the K true label counts; only for
            experiments, since a client that sends them has nothing left to hide.
        data: name of the data for the records.
        model_name: name of the model for the records.
        defense: name of the clients' defense for the records.
        seed: of the attacks' randomness and the trials' numbers.
        keep_counts: write guessed and true counts into records; they are private.

    >>> import torch
    >>> before = {"fc.weight": torch.zeros(2, 3)}
    >>> after = {"fc.weight": torch.tensor([[0.2, 0.2, 0.2], [-0.2, -0.2, -0.2]])}
    >>> auditor = Auditor(folder=None, lr=0.1, attacks=["llg"])
    >>> sender = Sender(round=1, client="0", labels=(0, 0))
    >>> auditor.audit(before, after, sender).worst
    1.0
    """

    folder: Path | str | None
    lr: float
    local_steps: int = 1
    batch_size: int | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    proximal: float = 0.0
    optimiser: Literal["sgd", "adam"] = "sgd"
    model: nn.Module | Callable[[], nn.Module] | None = None
    input_shape: tuple[int, ...] | None = None
    head: str | None = None
    attacks: Sequence[str | Attack] | None = None
    auxiliary: LabelledData | None = None
    prior: Prior = _UNIFORM
    truth: Callable[[str, int], ArrayLike] | None = None
    truth_metric: str | None = None
    data: str = "federation"
    model_name: str = ""
    defense: str = "none"
    seed: int = 0
    keep_counts: bool = False
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def home(self) -> Path | None:
        """The folder as a path."""
        return None if self.folder is None else Path(self.folder)

    def audit(self, before: Arrays, after: Arrays, sender: Sender) -> Finding:
        """Attack one update, and score the answers if the sender's labels are known.

        Args:
            before: weights that the server sent, by name.
            after: weights that the client returned.
            sender: whose they are; with labels, N is their number.

        Raises:
            BadInput: if the update cannot be read: no head, other shapes, NaN, labels out of range.
        """
        before, after = (with_names(arrays, self._module) for arrays in (before, after))
        head = self._head(before)
        observation = self._observe(before, after, head, sender)
        battery = self._battery(before, head, observation, sender)
        missing = battery.not_applicable(observation)
        if sender.labels is None:
            answers = {
                name: answer(observation)
                for name, answer in battery.ready.items()
                if name not in missing
            }
            return Finding(sender, observation, estimates=answers, not_applicable=missing)
        if not sender.labels:
            raise BadInput(f"client {sender.client} names no label behind its update")
        truth = Truth.from_labels(np.asarray([sender.labels]), observation.num_classes)
        outcomes = battery.run(observation, truth)
        return Finding(sender, observation, tuple(outcomes), {}, truth, missing)

    def write(self, finding: Finding, **extra: Any) -> None:
        """Write a finding to the folder, with further keys (``policy``, ``action``, ...).

        Raises:
            BadInput: if the file cannot be written.
        """
        if self.home is None:
            return
        sender = finding.sender
        keys = {"round": sender.round, "client": sender.client, **extra}
        if finding.truth is None:
            write_rows(self.home, ESTIMATES, self._rows(finding, keys))
            return
        if finding.not_applicable:
            keys["not_applicable"] = dict(finding.not_applicable)
        common = self._common(finding, str(keys.pop("defense", self.defense)))
        trial = whole_number(self.seed, "trial", sender.round, sender.client)
        records = [
            record
            for outcome in finding.outcomes
            for record in make_records(
                outcome,
                finding.truth,
                trials=[trial],
                common=common,
                extra=keys,
                keep_counts=self.keep_counts,
            )
        ]
        write_records(self.home, records)

    def note(self, event: str, **what: Any) -> None:
        """Note what went wrong among the events."""
        note(self.home, event, **what)

    def labels_of(
        self, client: str, server_round: int, metrics: Mapping[str, Any]
    ) -> tuple[int, ...] | None:
        """Find the true labels of an update where the server's side was given them."""
        if self.truth is not None:
            return tuple(int(label) for label in np.ravel(self.truth(client, server_round)))
        counts = metrics.get(self.truth_metric) if self.truth_metric else None
        if counts is None:
            return None
        return tuple(int(label) for label in np.repeat(np.arange(len(counts)), counts))

    @property
    def _module(self) -> nn.Module | None:
        """The model, made once; attacks get it with the weights that were sent."""
        if "module" not in self._kept:
            # A copy, since it takes the weights of every round.
            given = self.model
            made = copy.deepcopy(given) if isinstance(given, nn.Module) else given and given()
            self._kept["module"] = made
        module: nn.Module | None = self._kept["module"]
        return module

    def _head(self, before: Arrays) -> str:
        if self.head is not None:
            return self.head
        if "head" not in self._kept:
            self._kept["head"] = head_of(before, self._module)
        return str(self._kept["head"])

    def _observe(self, before: Arrays, after: Arrays, head: str, sender: Sender) -> Observation:
        """Read the head's part of the update, as one trial."""
        steps = sender.local_steps or self.local_steps
        names = [f"{head}.{part}" if head else part for part in ("weight", "bias")]
        start, end = (
            {name: arrays[name][None] for name in names if name in arrays}
            for arrays in (before, after)
        )
        seen = Observation.from_update(
            start,
            end,
            head=head,
            lr=self.lr,
            local_steps=steps,
            batch_size=self.batch_size,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            proximal=self.proximal,
        )
        total = sender.num_samples if self.batch_size is None else seen.num_samples
        return replace(seen, num_samples=len(sender.labels) if sender.labels else total)

    def _battery(
        self, before: Arrays, head: str, observation: Observation, sender: Sender
    ) -> Battery:
        """Prepare the attacks for the weights that were sent; once a round at the server."""
        steps, total = observation.local_steps, observation.num_samples
        training = LocalTraining(
            self.lr,
            steps,
            self.batch_size or max(1, (total or 1) // steps),
            self.momentum,
            self.weight_decay,
            self.optimiser,
        )
        source = None if self._module is None else getattr(before, "_arrays", before)
        kept = self._kept.get("battery")
        if kept and kept[0] is source and kept[1:3] == (training, observation.num_classes):
            ready: Battery = kept[3]
            return ready
        known = Knowledge(
            self._white_box(before, head), self.input_shape, self.auxiliary, self.prior, training
        )
        battery = Battery.prepare(
            self._attacks(observation.num_classes), known, observation.num_classes, seed=self.seed
        )
        self._kept["battery"] = (source, training, observation.num_classes, battery)
        return battery

    def _white_box(self, before: Arrays, head: str) -> WhiteBox | None:
        if self._module is None:
            return None
        try:
            self._module.load_state_dict(dict(before))
        except RuntimeError as error:
            raise BadInput(f"the weights sent do not fit the auditor's model: {error}") from error
        return WhiteBox(self._module, head)

    def _attacks(self, num_classes: int) -> list[Attack]:
        asked = self.attacks
        if asked is None:
            left_out = COSTLY if num_classes > MANY_CLASSES else frozenset()
            asked = [name for name in RULES if name not in left_out]
        return [make_attack(one) if isinstance(one, str) else one for one in asked]

    def _common(self, finding: Finding, defense: str) -> dict[str, Any]:
        seen = finding.observation
        total = int(finding.truth.counts.sum()) if finding.truth is not None else 0
        module = self._module
        return {
            "seed": self.seed,
            "data": self.data,
            "model": self.model_name or (type(module).__name__ if module else "unknown"),
            "initialisation": 0,
            # Every client has taken this many steps, round by round, before the weights were sent.
            "training_steps": max(0, finding.sender.round - 1) * seen.local_steps,
            "model_accuracy": None,
            "scheme": "federation",
            "num_classes": seen.num_classes,
            "batch_size": self.batch_size or max(1, total // seen.local_steps),
            "local_steps": seen.local_steps,
            "num_samples": total,
            "defense": defense,
            "labelleak": labelleak.__version__,
            "torch": str(torch.__version__),
            "command": "labelleak.flower",
        }

    def _rows(self, finding: Finding, keys: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Turn answers without a score into flat rows."""
        models = {
            attack.name: threat_model_of(attack)
            for attack in self._attacks(finding.observation.num_classes)
        }
        return [
            {
                **keys,
                "time": round(time.time(), 3),
                "attack": name,
                "threat_model": models[name],
                "num_samples": finding.observation.num_samples,
                "counts": np.asarray(estimate.counts)[0].tolist(),
                "notes": list(estimate.notes),
            }
            for name, estimate in finding.estimates.items()
        ]


__all__ = ["Auditor", "Finding", "Sender"]
