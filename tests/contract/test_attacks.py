"""What holds for every attack in every scenario."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import labelleak.attacks
from contract import scenarios
from labelleak.attacks import ADAPTIVE, ATTACKS
from labelleak.core.interfaces import Estimate, prepare, threat_model
from labelleak.core.knowledge import Knowledge
from labelleak.core.needs import Need
from labelleak.core.observation import Observation
from labelleak.core.white_box import WhiteBox
from labelleak.errors import BadInput, NotApplicable
from labelleak.records.record import THREAT_MODELS

SCENARIOS = {scenario.name: scenario for scenario in scenarios.all_scenarios()}
# These draw dummy classes or labels from their own randomness, which no permutation commutes with.
NOT_EQUIVARIANT = {"random", "dlg", *ADAPTIVE}


@pytest.fixture(params=SCENARIOS, scope="module")
def scenario(request):
    return SCENARIOS[request.param]


# Some attacks cost much at their defaults; the contract is the same with less effort.
CHEAP = {
    "dlg": {"iterations": 5},
    "client_simulation": {"samples_per_class": 2},
    **{name: {"batches": 10} for name in ADAPTIVE},
    "shadow": {"batches": 40, "epochs": 1},
    "shadow_adaptive": {"batches": 40, "epochs": 1},
    "shadow_layers": {"batches": 40, "epochs": 1},
    "shadow_layers_adaptive": {"batches": 40, "epochs": 1},
}


@pytest.fixture(params=ATTACKS, scope="module")
def attack(request):
    return ATTACKS[request.param](**CHEAP.get(request.param, {}))


def run(attack, scenario, observation=None, known=None, seed=0):
    return prepared(attack, scenario, known, seed)(observation or scenario.observation)


def prepared(attack, scenario, known=None, seed=0):
    classes = scenario.truth.counts.shape[-1]
    return prepare(attack, known or scenario.known, classes, np.random.default_rng(seed))


def applicable(attack, scenario):
    held = {Need.BIAS: scenario.observation.bias, Need.FULL_GRADIENT: scenario.observation.rest}
    if attack.name == "input_tokens" and scenario.observation.head_is_still:
        return False  # no embedding is there either
    return not any(held.get(need, True) is None for need in attack.needs)


@dataclass(frozen=True, eq=False)
class Case:
    """An attack and what it answered to a scenario, shared by the tests of both.

    Attributes:
        ready: the prepared attack.
        found: its answer to all trials.
        before: what it was handed, and the global random states, before it ran.
        after: the same afterwards.
    """

    attack: object
    scenario: scenarios.Scenario
    ready: Callable[[Observation], object]
    found: Estimate
    before: list[torch.Tensor]
    after: list[torch.Tensor]


@pytest.fixture(scope="module")
def case(attack, scenario):
    if not applicable(attack, scenario):
        with pytest.raises(NotApplicable):
            run(attack, scenario)
        return None
    before = [handed.clone() for handed in handed_in(scenario)]
    ready = prepared(attack, scenario)
    found = ready(scenario.observation)
    return Case(attack, scenario, ready, found, before, handed_in(scenario))


def handed_in(scenario):
    """Return what an attack must not change: the update, the model and global randomness."""
    seen, model = scenario.observation, scenario.known.model.module
    tensors = [seen.weight, seen.bias, *(seen.rest or {}).values(), *model.state_dict().values()]
    states = [torch.random.get_rng_state(), torch.from_numpy(np.random.get_state()[1].copy())]
    return [*(tensor for tensor in tensors if tensor is not None), *states]


def test_counts_are_whole_not_negative_and_sum_to_n(case):
    if case is None:
        return
    found, scenario = case.found, case.scenario
    assert found.counts.shape == scenario.truth.counts.shape
    assert np.issubdtype(found.counts.dtype, np.integer)
    assert (found.counts >= 0).all()
    assert (found.counts.sum(-1) == scenario.observation.num_samples).all()
    assert found.scores.shape == found.counts.shape
    assert np.isfinite(found.scores).all()


def test_nothing_handed_in_is_changed(case):
    if case is not None:
        assert len(case.before) == len(case.after)
        assert all(map(torch.equal, case.before, case.after))


def test_same_seed_same_answer(case):
    if case is not None:
        assert (run(case.attack, case.scenario).counts == case.found.counts).all()


def test_class_names_do_not_matter(case):
    # All ties in zeros: order is the rule.
    if case is None or case.attack.name in NOT_EQUIVARIANT or case.scenario.name == "zeros":
        return
    attack, scenario, original = case.attack, case.scenario, case.found
    order = np.random.default_rng(0).permutation(scenario.truth.counts.shape[-1])
    picks = torch.from_numpy(order)
    seen = scenario.observation
    renamed = replace(
        seen,
        weight=seen.weight[:, picks],
        bias=None if seen.bias is None else seen.bias[:, picks],
    )
    found = run(attack, scenario, observation=renamed, known=_rename(scenario.known, picks))
    if attack.name == "free":  # every class is alike to it: order is the rule
        assert (found.counts == original.counts).all()
        return
    # A rounding error may tip a near tie, never more than a label in a batch.
    moved = np.abs(found.counts - original.counts[:, order]).sum(-1)
    assert (moved <= 2).all()
    assert (moved == 0).mean() >= 0.5


def _rename(known: Knowledge, picks: torch.Tensor) -> Knowledge:
    model = copy.deepcopy(known.model.module)
    with torch.no_grad():
        model[2].weight.copy_(model[2].weight[picks])
        if model[2].bias is not None:
            model[2].bias.copy_(model[2].bias[picks])
    place = torch.argsort(picks)
    data = replace(known.auxiliary, labels=place[known.auxiliary.labels])
    return replace(known, model=WhiteBox(model, "2"), auxiliary=data)


def test_a_need_that_is_not_granted_is_refused(attack, scenario):
    for need, changed in (
        (Need.MODEL, replace(scenario.known, model=None)),
        (Need.AUXILIARY, replace(scenario.known, auxiliary=None)),
        (Need.TRAINING, replace(scenario.known, training=None)),
        (Need.DEFENSE, replace(scenario.known, defense=None)),
    ):
        if need in attack.needs:
            with pytest.raises(NotApplicable, match=attack.name):
                run(attack, scenario, known=changed)
    if Need.NUM_SAMPLES in attack.needs and applicable(attack, scenario):
        with pytest.raises(NotApplicable, match="number of samples"):
            run(attack, scenario, observation=replace(scenario.observation, num_samples=None))


def test_only_what_is_needed_is_shown(attack):
    full = SCENARIOS["relu"].known
    shown = full.granted(attack.needs)
    assert (shown.model is not None) == (Need.MODEL in attack.needs)
    assert (shown.auxiliary is not None) == (Need.AUXILIARY in attack.needs)
    assert (shown.training is not None) == (Need.TRAINING in attack.needs)


def test_one_trial_or_many_is_the_same(case):
    if case is None or case.attack.name in NOT_EQUIVARIANT:
        return
    seen = case.scenario.observation
    for trial in (0, scenarios.TRIALS - 1):
        one = replace(
            seen,
            weight=seen.weight[trial],
            bias=None if seen.bias is None else seen.bias[trial],
            rest=None if seen.rest is None else {k: v[trial] for k, v in seen.rest.items()},
        )
        alone = case.ready(one)
        assert np.abs(alone.counts - case.found.counts[trial]).sum() <= 2


def test_a_wrong_number_of_classes_is_refused(attack):
    scenario = SCENARIOS["relu"]
    ready = prepare(attack, scenario.known, 5, np.random.default_rng(0))
    with pytest.raises(BadInput, match="prepared for 5 classes"):
        ready(SCENARIOS["two_classes"].observation)


def test_weights_before_and_after_tell_the_same_as_the_gradient(attack):
    scenario = SCENARIOS["relu"]
    seen, head = scenario.observation, scenario.known.model.module[2]
    if Need.FULL_GRADIENT in attack.needs:
        return
    gradient = run(attack, scenario)
    for lr in (0.01, 1.0):
        before = {"2.weight": head.weight.double(), "2.bias": head.bias.double()}
        after = {
            "2.weight": before["2.weight"] - lr * seen.weight.double(),
            "2.bias": before["2.bias"] - lr * seen.bias.double(),
        }
        size = seen.num_samples
        update = Observation.from_update(before, after, head="2", lr=lr, batch_size=size)
        assert np.allclose(update.row_sums, seen.row_sums, atol=1e-5)
        assert (run(attack, scenario, observation=update).counts == gradient.counts).all()


def test_every_attack_says_what_it_is(attack):
    assert attack.__doc__
    assert attack.cite
    assert threat_model(attack) in THREAT_MODELS
    assert ATTACKS[attack.name] is type(attack)
    named = {name: getattr(labelleak.attacks, name) for name in labelleak.attacks.__all__}
    assert eval(repr(attack), {type(attack).__name__: type(attack)} | named) == attack


FORBIDDEN = {
    "labelleak.core.score",
    "labelleak.records.record",
    "labelleak.core.battery",
    "os",
    "time",
    "pathlib",
}


ROOM = Path(labelleak.attacks.__path__[0])


@pytest.mark.parametrize("path", sorted(ROOM.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOM)))
def test_no_attack_can_see_truth_disk_or_clock(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    assert not imported & FORBIDDEN
    assert "Truth" not in path.read_text()
