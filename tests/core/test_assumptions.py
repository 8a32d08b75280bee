"""For every flag one scenario that raises it, and one close by that does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from contract import scenarios
from labelleak.attacks import ATTACKS
from labelleak.core.assumptions import check_model, check_update
from labelleak.core.battery import Battery
from labelleak.core.interfaces import Estimate, prepare
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.needs import Need
from labelleak.core.observation import Observation
from labelleak.core.priors import UniformPrior, free_guess
from labelleak.core.score import Truth
from labelleak.core.task import Task
from labelleak.core.training import LocalTraining
from labelleak.core.training_checks import assumed_loss, check_training
from labelleak.core.white_box import WhiteBox
from labelleak.errors import BadInput
from labelleak.records.flags import FLAGS
from labelleak.simulation.gradients import autograd_gradients

RELU = scenarios.one_step("relu", scenarios.network())
LONE = scenarios.one_step("lone", scenarios.network(), size=1)
TANH = scenarios.one_step("tanh", scenarios.network(nn.Tanh))


def raised(observation=RELU.observation, known=RELU.known):
    """Give how often each flag was raised, as a share of the trials."""
    flags = [*check_training(known), *check_model(known), *check_update(observation, known)]
    return {flag.name: float(np.mean(flag.raised)) for flag in flags}


def changed(weight=lambda w: w, bias=lambda b: b, **fields):
    seen = RELU.observation
    return replace(seen, weight=weight(seen.weight), bias=bias(seen.bias), **fields)


def noise(scale):
    """Add noise of a share of the gradient's root mean square."""

    def add(tensor):
        generator = torch.Generator().manual_seed(0)
        size = tensor.square().mean().sqrt() * scale
        return tensor + size * torch.randn(tensor.shape, generator=generator)

    return add


def keep_largest(share):
    def prune(weight):
        least = weight.abs().flatten(1).quantile(1 - share, dim=1)[:, None, None]
        return torch.where(weight.abs() >= least, weight, torch.zeros_like(weight))

    return prune


def round_to(levels):
    def quantise(weight):
        step = weight.abs().amax(dim=(-1, -2), keepdim=True) / levels
        return (weight / step).round() * step

    return quantise


def known(**fields):
    return replace(RELU.known, **fields)


def box(model, head="2"):
    return WhiteBox(model, head)


def with_norm(mode):
    model = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 5))
    model.train(mode)
    return known(model=box(model, "3"))


class TwoHeads(nn.Module):
    def __init__(self, other):
        super().__init__()
        self.body, self.head = nn.Linear(12, 16), nn.Linear(16, 5)
        self.other = nn.Linear(16, other)

    def forward(self, x):
        return self.head(self.body(x).relu())


def trained(steps):
    model = scenarios.train(scenarios.network(), scenarios.blobs(5), steps)
    return known(model=box(model))


def one_sample(smoothing):
    """Make the gradient of one sample whose label is smoothed."""
    model, data = scenarios.network(), scenarios.blobs(5)
    x = data.inputs[:1].requires_grad_(False)
    loss = nn.functional.cross_entropy(model(x), data.labels[:1], label_smoothing=smoothing)
    weight, bias = torch.autograd.grad(loss, [model[2].weight, model[2].bias])
    seen = Observation.from_gradient(weight, bias, num_samples=1)
    return {"observation": seen, "known": known(model=box(model))}


def of_size(size):
    scenario = scenarios.one_step("sized", scenarios.network(), size=size)
    return {"observation": scenario.observation, "known": scenario.known}


def other_bias(case):
    """Exchange two classes in the bias alone."""
    seen = case["observation"]
    return case | {"observation": replace(seen, bias=seen.bias.roll(1, dims=-1))}


def blind(scenario):
    """Hide the model, so that only the gradient can tell of head inputs."""
    few = scenarios.one_step("few", scenario.known.model.module, size=2)
    return {"observation": few.observation, "known": Knowledge()}


def weights_seen(lr):
    """Observe a client's weights before and after, its learning rate known or not."""
    model, data = scenarios.network(), scenarios.blobs(5)
    how = LocalTraining(lr=0.01, batch_size=8)
    update = scenarios.trained_update(model, data, np.arange(8)[None], how)
    seen = Observation.from_update(update.before, update.after, head="2", lr=lr, batch_size=8)
    return {"observation": seen}


def told_of(size, told):
    """Make updates of some samples, of which another number was told."""
    return {"observation": replace(of_size(size)["observation"], num_samples=told)}


# Beside a weight of positives neither is undone; see `labelleak.core.told_loss`.
SPREAD, HEAVY = (1.0, 1.0, 1.0, 1.0, 2.0), (2.0,)

TRAINING = RELU.known.training
CASES = {
    "no_bias": ({"observation": changed(bias=lambda b: None)}, {}),
    "negative_head_inputs": ({"observation": TANH.observation, "known": TANH.known}, {}),
    "samples_unknown": ({"observation": changed(num_samples=None)}, {}),
    "impossible_scale": (
        {"observation": changed(lambda w: 32 * w, lambda b: 32 * b)},
        {"observation": changed(lambda w: w / 32, lambda b: b / 32)},
    ),
    "impossible_sign": (
        {
            "observation": replace(
                LONE.observation, weight=-LONE.observation.weight, bias=-LONE.observation.bias
            )
        },
        {"observation": LONE.observation},
    ),
    "parts_inconsistent": (other_bias(of_size(2)), of_size(2)),
    "samples_inconsistent": ({"observation": changed(num_samples=1)}, {}),
    "samples_doubtful": (told_of(2, 40), of_size(2)),
    "momentum": (
        {"known": known(training=replace(TRAINING, momentum=0.9))},
        {"known": known(training=TRAINING)},
    ),
    "adaptive_optimiser": (
        {"known": known(training=replace(TRAINING, optimiser="adam"))},
        {"known": known(training=TRAINING)},
    ),
    "gradient_clipping": (
        {"known": known(training=replace(TRAINING, clip_norm=1.0))},
        {"known": known(training=TRAINING)},
    ),
    "label_smoothing": (
        {"known": known(training=replace(TRAINING, label_smoothing=0.1, pos_weight=HEAVY))},
        {"known": known(training=TRAINING)},
    ),
    "class_weights": (
        {"known": known(training=replace(TRAINING, class_weights=SPREAD, pos_weight=HEAVY))},
        {"known": known(training=replace(TRAINING, class_weights=(2.0,) * 5))},
    ),
    "learning_rate_unknown": (weights_seen(None), weights_seen(0.01)),
    "several_local_steps": ({"observation": changed(local_steps=2)}, {}),
    "soft_labels": (one_sample(0.2), one_sample(0.0)),
    "not_cross_entropy": (
        {"observation": changed(weight=noise(0.3))},
        {"observation": changed(weight=lambda w: w.half(), bias=lambda b: b.half())},
    ),
    "sparse_gradient": (
        {"observation": changed(weight=keep_largest(0.5))},
        {"observation": changed(weight=noise(0.01))},
    ),
    "quantised_gradient": (
        {"observation": changed(weight=torch.sign)},
        {"observation": changed(weight=round_to(4000))},
    ),
    "noise_dominates": (
        {"observation": changed(weight=noise(5.0))},
        {"observation": changed(weight=noise(0.1))},
    ),
    "several_heads": (
        {"known": known(model=box(TwoHeads(5), "head"))},
        {"known": known(model=box(TwoHeads(4), "head"))},
    ),
    "train_mode_batch_norm": ({"known": with_norm(True)}, {"known": with_norm(False)}),
    "near_converged": ({"known": trained(200)}, {"known": trained(0)}),
    "many_samples": (of_size(40), of_size(20)),
    "more_classes_than_samples": (of_size(4), of_size(5)),
}
# Raised by the battery, or by the attack itself, which its own tests show.
BATTERY = {"impact_not_negative", "weaker_attack_wins", "rank_exceeded", "more_than_one_sample"}
BATTERY |= {"linear_programs_cut_short", "simulation_diverged", "optimisation_diverged"}
BATTERY |= {"activations_not_smooth", "capture_doubtful"}
BATTERY |= {
    "several_softmaxes",
    "head_uncertain",
    "unlikely_scale",
    "own_data_one_sided",
    "labels_inconsistent",
}
BATTERY |= {"pos_weight", "pos_weight_assumed", "loss_assumed", "confusions_cut_short"}
BATTERY |= {
    "loss_share_unknown",
    "task_assumed",
    "reply_form_uncertain",
    "steps_unknown",
    "training_contradicted",
    "control_terms",
    "partition_clash",
    "head_unchanged",
    "weights_assumed",
}


@pytest.mark.parametrize("name", CASES)
def test_a_flag_is_raised_where_it_should_be_and_not_close_by(name):
    bad, good = CASES[name]
    assert raised(**bad)[name] > 0.8
    assert raised(**good).get(name, 0.0) == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_updates_of_any_precision_are_checked(dtype):
    seen = changed(lambda w: w.to(dtype), lambda b: b.to(dtype))
    frozen = changed(lambda w: w.to(dtype), lambda b: torch.zeros_like(b, dtype=dtype))
    assert (raised(seen)["no_bias"], raised(frozen)["no_bias"]) == (0.0, 1.0)


def test_a_plain_loss_of_maps_is_assumed_until_it_is_told_or_measured():
    untold, told = LocalTraining(), LocalTraining(class_weights=(), label_smoothing=0.0)
    assert [flag.name for flag in assumed_loss(Task.dense, untold)] == ["loss_assumed"]
    assert not [*assumed_loss(Task.dense, told), *assumed_loss(Task.classes, untold)]
    assert not [*assumed_loss(Task.dense, untold, "cross_entropy")]


def test_head_inputs_below_zero_are_seen_in_the_gradient_alone():
    assert raised(**blind(TANH))["negative_head_inputs"] > 0.8
    assert raised(**blind(RELU))["negative_head_inputs"] < 0.2


def test_a_number_told_too_small_is_seen_and_raises_no_alarm_of_negative_inputs():
    few = scenarios.one_step("few", RELU.known.model.module, size=20).observation
    found = raised(observation=replace(few, num_samples=2), known=Knowledge())
    assert found["samples_inconsistent"] == 1.0  # its rank shows more samples
    assert found["negative_head_inputs"] < 0.2


def test_attacks_that_an_unknown_learning_rate_leaves_alone_read_no_size():
    meaning = FLAGS["learning_rate_unknown"]
    seen = replace(RELU.observation, rest=None)
    for name, attack in ATTACKS.items():
        if meaning.concerns(attack.card.assumes) or Need.FULL_GRADIENT in attack.needs:
            continue
        answers = []
        for factor in (1.0, 1 / 32, 64.0):  # powers of 2, which round nothing
            scaled = replace(seen, weight=seen.weight * factor, bias=seen.bias * factor)
            ready = prepare(attack(), RELU.known, 5, np.random.default_rng(0))
            answers.append(ready(scaled).counts)
        assert (answers[0] == answers[1]).all(), name
        assert (answers[0] == answers[2]).all(), name


def test_without_a_learning_rate_weight_decay_is_not_undone():
    update = {"w": torch.zeros(2, 3)}
    with pytest.raises(BadInput, match="give `lr`"):
        Observation.from_update(update, update, head="", lr=None, weight_decay=0.1)


def test_a_battery_for_new_batches_speaks_of_their_training():
    battery = Battery.prepare([ATTACKS["llg"]()], replace(RELU.known, training=None), 5)
    told = battery.with_batches(UniformPrior(), replace(TRAINING, optimiser="adam", clip_norm=1.0))
    (outcome,) = told.run(RELU.observation, RELU.truth)
    names = {flag.name for flag in outcome.flags}
    assert "adaptive_optimiser" in names
    assert "gradient_clipping" not in names  # LLG reads no size
    (outcome,) = told.with_batches(UniformPrior(), TRAINING).run(RELU.observation, RELU.truth)
    assert "adaptive_optimiser" not in {flag.name for flag in outcome.flags}


def test_every_flag_has_its_case_a_meaning_and_attacks_that_it_concerns():
    assert set(FLAGS) == set(CASES) | BATTERY
    for name, meaning in FLAGS.items():
        assert meaning.says, name
        assert meaning.advice, name
        assumed = [attack.card.assumes for attack in ATTACKS.values()]
        assert meaning.breaks is None or any(meaning.breaks in one for one in assumed), name


class Fixed:
    """An attack that answers what it was told to."""

    cite = "none"

    def __init__(self, name, needs, counts):
        self.name, self.needs, self.counts = name, frozenset(needs), counts

    def prepare(self, known, num_classes, rng):
        return lambda seen: Estimate(self.counts, self.counts.astype(float))


def run(*attacks):
    battery = Battery.prepare(attacks, RELU.known, 5)
    return {o.attack: {f.name for f in o.flags} for o in battery.run(RELU.observation, RELU.truth)}


def test_a_weaker_attack_that_wins_flags_the_stronger_one():
    right = RELU.truth.counts
    wrong = np.broadcast_to(free_guess(RELU.known.prior, 8, 5)[0], right.shape)
    weak, strong = {Need.WEIGHT}, {Need.WEIGHT, Need.MODEL}
    flags = run(Fixed("weak", weak, right), Fixed("strong", strong, wrong))
    assert "weaker_attack_wins" in flags["strong"]
    assert "weaker_attack_wins" not in flags["weak"]
    flags = run(Fixed("weak", weak, wrong), Fixed("strong", strong, right))
    assert "weaker_attack_wins" not in flags["strong"]


def test_an_impact_that_is_not_negative_is_flagged():
    class Below(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(12, 16), nn.Linear(16, 5)

        def forward(self, x):
            return self.head(-self.body(x).relu())

    model = Below()
    data = scenarios.blobs(5)
    batches = np.arange(24).reshape(3, 8)
    seen = autograd_gradients(WhiteBox(model, "head"), data, batches)
    truth = Truth.from_labels(data.labels.numpy()[batches], 5)
    granted = Knowledge(WhiteBox(model, "head"), (12,), data)
    battery = Battery.prepare([ATTACKS["llg_plus"]()], granted, 5)
    (outcome,) = battery.run(seen, truth)
    assert "impact_not_negative" in {flag.name for flag in outcome.flags}
    assert "impact_not_negative" not in run(ATTACKS["llg_plus"]())["llg_plus"]


def test_guesses_without_the_update_assume_nothing():
    odd = changed(weight=noise(5.0), bias=lambda b: None)
    battery = Battery.prepare([ATTACKS["free"](), ATTACKS["llg"]()], RELU.known, 5)
    flags = {o.attack: [f.name for f in o.flags] for o in battery.run(odd, RELU.truth)}
    assert flags["free"] == []
    assert "noise_dominates" in flags["llg"]
    assert isinstance(RELU.known.auxiliary, LabelledData)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1e-300, 1e-30, 1.0, 1e30, 1e99])
def test_what_an_observation_takes_is_checked_whatever_its_size(size):
    bias = size * torch.tensor([-0.5, 0.3, 0.2], dtype=torch.float64)
    for weight, own in ((bias[:, None] * torch.ones(4), bias), (None, bias)):
        seen = Observation.from_gradient(weight, own, num_samples=2)
        flags = {one.name: one for one in check_update(seen, Knowledge())}
        assert all(not np.isnan(one.figure).any() for one in flags.values())
        assert bool(flags["impossible_scale"].raised) == (size > 1)
