"""Over random models the head is found or refused, and never another layer."""

from collections import Counter

import pytest
import torch

from core.architectures import KINDS, draw
from labelleak.core.head import locate_head
from labelleak.errors import BadInput

MODELS = 5 * len(KINDS)


def steps(case, way):
    """Train a step: plainly, by Adam, with weight decay, or plainly and with noise added."""
    before = {name: t.clone() for name, t in case.model.state_dict().items()}
    own = case.model.parameters()
    optimiser = {
        "adam": lambda: torch.optim.Adam(own, lr=0.01),
        "decay": lambda: torch.optim.SGD(own, lr=0.1, weight_decay=0.1),
    }.get(way, lambda: torch.optim.SGD(own, lr=0.1))()
    case.loss().backward()
    optimiser.step()
    after = {name: t.clone() for name, t in case.model.state_dict().items()}
    if way == "noise":
        for tensor in after.values():
            if tensor.is_floating_point():
                tensor += 0.01 * torch.randn_like(tensor)
    return before, after


def look(case, way):
    """Say what the finder made of a case: right, refused or wrong."""
    try:
        if way in ("traced", "untold"):
            found = locate_head(model=case.model, example=case.x[:2] if way == "traced" else None)
        elif way == "gradient":
            case.loss().backward()
            named = case.model.named_parameters()
            found = locate_head({n: p.grad for n, p in named if p.grad is not None})
        elif way == "numbered":
            before, after = steps(case, "plain")
            numbers = {
                m: str(i) for i, m in enumerate(sorted({n.rpartition(".")[0] for n in after}))
            }
            renamed = [
                {
                    f"{numbers[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": t
                    for n, t in side.items()
                }
                for side in (before, after)
            ]
            found = locate_head(renamed[1], before=renamed[0])
            return "right" if found.name == numbers[case.head] else "wrong"
        else:
            before, after = steps(case, way)
            found = locate_head(after, before=before)
    except BadInput:
        return "refused"
    return "right" if found.name == case.head else "wrong"


@pytest.mark.parametrize(
    ("way", "least"),
    [
        ("traced", 1.0),
        ("untold", 0.9),
        ("plain", 0.8),
        ("gradient", 0.8),
        ("numbered", 0.45),
        ("adam", 0.4),
        ("decay", 0.4),
        ("noise", 0.4),
    ],
)
def test_no_other_layer_is_ever_taken_for_the_head(way, least):
    answers = Counter(look(draw(seed), way) for seed in range(MODELS))
    assert answers["wrong"] == 0, answers
    assert answers["right"] >= least * MODELS, answers
