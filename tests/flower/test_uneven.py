"""Clients of uneven labels: what leaks of them is judged beside what the even guess names."""

import json

import numpy as np
import torch
from torch.nn import functional as F

from labelleak import flower  # first: it keeps Flower from phoning home
from labelleak.flower.audit_events import say_prior_assumed, say_steps_untried
from labelleak.flower.findings import Sender

LABELS = (0,) * 40 + (1,) * 17 + (2,) * 7


def found(labels=LABELS, lr=0.5, told=0.5, **given):
    """Audit a step of a linear model, whose rate the auditor may have wrong."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(len(labels), 5, generator=generator)
    model = torch.nn.Linear(5, 3)
    with torch.no_grad():
        model.weight.copy_(0.2 * torch.randn(3, 5, generator=generator))
        model.bias.zero_()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    F.cross_entropy(model(inputs), torch.tensor(labels)).backward()
    after = {
        name: value - lr * dict(model.named_parameters())[name].grad
        for name, value in before.items()
    }
    given = {"attacks": ["free", "llbg", "llg"], "local_steps": 1, **given}
    auditor = flower.Auditor(folder=None, lr=told, **given)
    return auditor.audit(before, after, Sender(round=1, client="0", labels=labels))


def test_a_client_unlike_even_batches_is_judged_beside_what_the_even_guess_names_of_it():
    one = found()
    assert one.unsuited.all()
    own = np.minimum([22, 21, 21], [40, 17, 7]).sum() / 64
    told = max(a.advantage.max() for a in one.answers if a.threat_model != "none")
    asr = max(a.score.asr.max() for a in one.answers if a.threat_model != "none")
    assert told < 0.2 < one.worst  # it would have left under a limit of 0.2
    np.testing.assert_allclose(one.worst, (asr - own) / (1 - own))


def test_where_a_prior_was_told_or_labels_are_even_nothing_changes():
    for one in (found(prior=[0.6, 0.3, 0.1]), found(tuple(range(3)) * 20)):
        assert not one.unsuited.any()
        told = max(a.advantage.max() for a in one.answers if a.threat_model != "none")
        assert one.worst == told


def test_events_say_that_a_prior_was_assumed_and_that_steps_were_not_tried(tmp_path):
    for steps, tried in ((1, False), (3, True)):
        auditor = flower.Auditor(folder=tmp_path / str(steps), lr=0.5, attacks=["llbg"])
        told = found(local_steps=steps, attacks=["llbg"])
        say_prior_assumed(auditor, told)
        say_steps_untried(auditor, told)
        say_steps_untried(auditor, told)
        lines = (tmp_path / str(steps) / "events.jsonl").read_text().splitlines()
        events = [json.loads(line)["event"] for line in lines]
        assert events == ["prior_assumed", *(["several_steps_not_tried"] if tried else [])]
    even = found(tuple(range(3)) * 20)
    say_prior_assumed(flower.Auditor(folder=tmp_path / "even", lr=0.5), even)
    assert not (tmp_path / "even").exists()
