"""What holds for every defense: identity when off, shapes, seeds, memory, and honest statistics."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch

from labelleak.core.knowledge import LabelledData
from labelleak.core.update import Memory, Scope, SharedTensors
from labelleak.core.white_box import WhiteBox
from labelleak.defenses import (
    DEFENSES,
    QSGD,
    Chain,
    Clipping,
    DeepGradientCompression,
    ExponentialNoise,
    GaussianNoise,
    HeadNoise,
    LaplaceNoise,
    LayerClipping,
    Pruning,
    Quantisation,
    RandomK,
    SignSGD,
    TopK,
    parse_defense,
    remarks,
    wire_bytes,
)
from labelleak.errors import BadInput

# One text form of each, at a strength that bites.
FORMS = {name: one.example or name for name, one in DEFENSES.items()}
OFF = [
    "none",
    "gaussian:0",
    "laplace:0",
    "exponential:0",
    "head_noise:0",
    "clip:inf",
    "clip_layers:inf",
    "topk:1",
    "topk:1:feedback",
    "randomk:1",
    "prune:0",
    "threshold:0",
    "dgc:1",
    "dgc:1:0.9:4",
    "bits:32",
    "dpsgd:inf:0",
    "soteria:0",
    "label_smoothing:0",
    "mixup:0",
    "head_dropout:0",
    "randomised_response:inf",
    "server_noise:0",
    "percentile:0:inf",
    "adaptive_clip:inf",
    "server_clip:inf",
    "historical_compression:0",
    "historical_dp:inf:0",
]
FEEDBACK = [
    "topk:0.2:feedback",
    "randomk:0.2:feedback",
    "prune:0.8:feedback",
    "threshold:0.5:feedback",
    "sign:scaled:feedback",
    "qsgd:4:feedback",
    "bits:3:feedback",
    "float16:feedback",
    "dgc:0.1:0:2",
]


@pytest.fixture(params=DEFENSES)
def defense(request):
    return parse_defense(FORMS[request.param])


def make_update(trials=3, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(trials, *shape, generator=generator, dtype=torch.float64).to(dtype)

    tensors = {
        "body.weight": draw(6, 4),
        "body.bias": draw(6),
        "norm.num_batches_tracked": torch.full((trials,), 1000),
        "norm.running_mean": 1e6 * draw(6),
        "head.weight": draw(5, 6),
        "head.bias": draw(5),
    }
    return SharedTensors(tensors, "head", frozenset({"norm.running_mean"}))


def sent_by(defense, update, seed=0, memory=None):
    return defense.apply(update, np.random.default_rng(seed), memory)


def test_shapes_types_and_buffers_are_kept(defense):
    for dtype in (torch.float16, torch.float32, torch.float64):
        update = make_update(dtype=dtype)
        sent, _ = sent_by(defense, update)
        assert sent.head == update.head
        for name, tensor in sent.tensors.items():
            assert tensor.shape == update.tensors[name].shape
            assert tensor.dtype == update.tensors[name].dtype
            if name.startswith("norm"):
                assert torch.equal(tensor, update.tensors[name])
        missing = set(update.tensors) - set(sent.tensors)
        assert missing == ({"head.bias"} if "withhold" in defense.label else set())


def test_the_input_is_not_touched(defense):
    update = make_update()
    before = copy.deepcopy(update)
    _, memory = sent_by(defense, update)
    kept = copy.deepcopy(memory)
    sent_by(defense, update, memory=memory)
    assert all(torch.equal(t, before.tensors[name]) for name, t in update.tensors.items())
    if memory is not None:
        for part, old in zip(memory.parts, kept.parts, strict=True):
            assert all(torch.equal(t, old.residual[name]) for name, t in part.residual.items())


def test_same_seed_same_answer(defense):
    torch_state = torch.random.get_rng_state()
    first, second = (sent_by(defense, make_update(), seed=4)[0] for _ in range(2))
    assert all(torch.equal(t, second.tensors[name]) for name, t in first.tensors.items())
    assert torch.equal(torch_state, torch.random.get_rng_state())


def test_trials_are_defended_one_by_one(defense):
    """No trial's answer depends on another's values, noise apart."""
    update = make_update()
    other = update.replaced(
        {name: torch.cat([t[:1], 7 * t[1:]]) for name, t in update.floats.items()}
    )
    one, two = (sent_by(defense, given)[0] for given in (update, other))
    for name in one.tensors:
        torch.testing.assert_close(one.tensors[name][0], two.tensors[name][0])


def test_what_sees_less_than_the_update_gives_the_same_head_alone(defense):
    update = make_update()
    alone = update.without(*(name for name in update.tensors if not name.startswith("head")))
    whole, head = (sent_by(defense, given)[0].tensors for given in (update, alone))
    same = all(torch.equal(tensor, whole[name]) for name, tensor in head.items())
    assert same or defense.scope is Scope.UPDATE


def test_nothing_is_left_to_defend_of_a_withheld_model(defense):
    """As a head that is the whole model, and stays with the client."""
    nothing = make_update().without("head.weight", "head.bias", "body.weight", "body.bias")
    sent, _ = sent_by(defense, nothing)
    assert set(sent.tensors) == set(nothing.tensors)


CHANGING = [name for name, text in FORMS.items() if parse_defense(text).changes_training]


@pytest.mark.parametrize("name", CHANGING)
def test_gradients_follow_the_seed_and_leave_model_and_data_alone(name):
    defense = parse_defense(FORMS[name])
    generator = torch.Generator().manual_seed(3)
    module = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    model = WhiteBox(module.train(), "2")
    batch = LabelledData(torch.rand(5, 6, generator=generator), torch.tensor([0, 1, 1, 3, 2]))
    weights, data = copy.deepcopy(module.state_dict()), copy.deepcopy(batch)
    torch_state = torch.random.get_rng_state()
    once, again = (
        defense.gradients(model, [batch], np.random.default_rng(1), full=True) for _ in range(2)
    )
    assert set(once.tensors) == set(weights)
    assert all(torch.equal(t, again.tensors[key]) for key, t in once.tensors.items())
    assert all(torch.equal(t, weights[key]) for key, t in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert module.training
    assert torch.equal(batch.inputs, data.inputs)
    assert torch.equal(batch.labels, data.labels)
    assert torch.equal(torch_state, torch.random.get_rng_state())
    plain = Chain().gradients(model, [batch], np.random.default_rng(1), full=True)
    assert not torch.allclose(once.tensors["2.weight"], plain.tensors["2.weight"], atol=1e-5)


@pytest.mark.parametrize("text", OFF)
def test_zero_strength_is_the_identity_and_is_said(text):
    defense, update = parse_defense(text), make_update()
    assert defense.is_off
    sent, _ = sent_by(defense, update)
    for name, tensor in update.tensors.items():
        assert torch.equal(sent.tensors[name], tensor)
    assert text == "none" or "is off" in remarks(defense)[0]


def test_every_defense_is_listed_here_and_bites(defense):
    assert not defense.is_off
    assert any(defense.label.startswith(name) for name in FORMS)
    assert set(FORMS) == set(DEFENSES)


def test_text_forms_are_read_back(defense):
    assert str(defense) == defense.label
    assert parse_defense(defense.label) == defense
    parts = [defense.label, "clip:0.25"]
    longer = "|".join(reversed(parts) if "server" in defense.label else parts)
    assert parse_defense(longer).label == longer


def test_composition_keeps_and_records_order():
    first, second = Clipping(1.0), GaussianNoise(0.1)
    assert (first | second).label == "clip:1|gaussian:0.1"
    assert (second | first).label == "gaussian:0.1|clip:1"
    assert ((first | second) | TopK(0.2)) == (first | (second | TopK(0.2)))
    update = make_update()
    clipped_last, _ = sent_by(second | first, update)
    assert clipped_last.norms() == pytest.approx(1.0, rel=1e-4)
    clipped_first, _ = sent_by(first | second, update)
    assert (clipped_first.norms() > 1.1).all()


def test_a_chain_hands_each_part_its_own_memory():
    chain = parse_defense("topk:0.5:feedback|gaussian:0|bits:3:feedback")
    sent, memory = sent_by(chain, make_update())
    assert isinstance(memory, Memory)
    assert [part is None for part in memory.parts] == [False, True, False]
    again, later = sent_by(chain, make_update(), memory=memory)
    assert later.parts[0].rounds == 2
    assert not torch.equal(again.tensors["head.weight"], sent.tensors["head.weight"])
    with pytest.raises(BadInput, match="another defense"):
        sent_by(Chain((TopK(0.5),)), make_update(), memory=memory)


@pytest.mark.parametrize("text", FEEDBACK)
def test_error_feedback_loses_nothing_over_rounds(text):
    defense, memory = parse_defense(text), None
    rng = np.random.default_rng(0)
    raw: dict[str, torch.Tensor] = {}
    sent: dict[str, torch.Tensor] = {}
    for number in range(6):
        update = make_update(seed=number, dtype=torch.float64)
        given, memory = defense.apply(update, rng, memory)
        for name in update.floats:
            raw[name] = raw.get(name, 0) + update.tensors[name]
            sent[name] = sent.get(name, 0) + given.tensors[name]
    residual = memory.parts[0].residual
    for name, total in raw.items():
        torch.testing.assert_close(sent[name] + residual[name], total)
        assert not torch.equal(sent[name], total)


def test_dgc_keeps_what_half_precision_would_lose():
    _, memory = sent_by(parse_defense("dgc:0.1"), make_update(dtype=torch.float16))
    kept = memory.parts[0]
    assert {t.dtype for t in [*kept.residual.values(), *kept.momentum.values()]} == {torch.float32}


@pytest.mark.parametrize("text", ["float16:feedback", "topk:0.2:feedback", "bits:3:feedback"])
def test_error_feedback_loses_nothing_of_half_precision_models_either(text):
    defense, memory = parse_defense(text), None
    rng = np.random.default_rng(0)
    raw = sent = 0.0
    for number in range(50):
        update = make_update(seed=number, dtype=torch.float16)
        given, memory = defense.apply(update, rng, memory)
        raw += update.tensors["head.weight"].double()
        sent += given.tensors["head.weight"].double()
    residual = memory.parts[0].residual["head.weight"].double()
    torch.testing.assert_close(sent + residual, raw, atol=1e-4, rtol=0)


def test_dgc_sends_the_discounted_sum_of_a_gradient_that_was_held_back():
    """One gradient g, then nothing: momentum replays it as g (1 + m + m^2 ...) until it is sent."""
    defense = DeepGradientCompression(keep=0.5, momentum=0.5)
    first = SharedTensors({"weight": torch.tensor([[[4.0, 1.0]]])}, "")
    nothing = first.replaced({"weight": torch.zeros(1, 1, 2)})
    rng = np.random.default_rng(0)
    sent, memory = defense.apply(first, rng)
    assert sent.tensors["weight"].tolist() == [[[4.0, 0.0]]]
    sent, memory = defense.apply(nothing, rng, memory)
    assert sent.tensors["weight"].tolist() == [[[0.0, 1.5]]]
    sent, _ = defense.apply(nothing, rng, memory)
    assert not sent.tensors["weight"].any(), "what was sent is cleared from the momentum too"


def test_dgc_warms_up_as_in_the_paper():
    shares = [DeepGradientCompression(0.001, warm_up=4).share_in(round) for round in range(6)]
    assert shares == pytest.approx([0.25, 0.0625, 0.0158, 0.00398, 0.001, 0.001], rel=0.01)


ROOM = SharedTensors({"weight": torch.linspace(-1, 1, 2000).repeat(200, 1)[:, None]}, "")


@pytest.mark.parametrize(
    ("noise", "mean", "variance"),
    [
        (GaussianNoise(0.3), 0.0, 0.09),
        (LaplaceNoise(0.3), 0.0, 0.18),
        (ExponentialNoise(0.3), 0.3, 0.09),
        (ExponentialNoise(0.3, centred=True), 0.0, 0.09),
        (HeadNoise(0.3), 0.0, 0.09),
    ],
    ids=str,
)
def test_noise_has_the_mean_and_variance_it_claims(noise, mean, variance):
    added = (sent_by(noise, ROOM)[0].tensors["weight"] - ROOM.tensors["weight"]).double()
    assert float(added.mean()) == pytest.approx(mean, abs=0.003)
    assert float(added.var()) == pytest.approx(variance, rel=0.02)
    together = torch.corrcoef(added[:2, 0])[0, 1]
    assert abs(float(together)) < 0.1, "trials must not share their noise"


def test_head_noise_leaves_the_rest_alone():
    update = make_update()
    sent, _ = sent_by(HeadNoise(1.0), update)
    changed = [name for name, t in sent.tensors.items() if not torch.equal(t, update.tensors[name])]
    assert changed == ["head.weight", "head.bias"]


@pytest.mark.parametrize("text", ["topk:0.13", "randomk:0.13", "prune:0.87"])
def test_the_kept_share_is_the_one_asked_for(text):
    sent, _ = sent_by(parse_defense(text), ROOM)
    assert (sent.tensors["weight"].flatten(1).count_nonzero(dim=1) == 260).all()


def test_topk_keeps_the_largest_of_all_and_pruning_of_each_tensor():
    pair = {"a.weight": torch.tensor([[9.0, 8.0]]), "b.weight": torch.tensor([[1.0, -2.0]])}
    update = SharedTensors(pair, "b")
    top, pruned = (sent_by(d, update)[0].tensors for d in (TopK(0.5), Pruning(0.5)))
    assert [t.tolist() for t in top.values()] == [[[9.0, 8.0]], [[0.0, 0.0]]]
    assert [t.tolist() for t in pruned.values()] == [[[9.0, 0.0]], [[0.0, -2.0]]]


@pytest.mark.parametrize("defense", [QSGD(3), RandomK(0.25, rescale=True)], ids=str)
def test_what_claims_to_be_unbiased_is(defense):
    row = torch.linspace(-1, 1, 50)
    many = SharedTensors({"weight": row.repeat(20_000, 1)[:, None]}, "")
    sent = sent_by(defense, many)[0].tensors["weight"][:, 0].double()
    error = sent.mean(dim=0) - row
    spread = sent.std(dim=0) / 20_000**0.5
    assert (error.abs() <= 5 * spread + 1e-6).all()


@pytest.mark.parametrize("levels", [1, 4, 100])
def test_qsgd_keeps_its_error_bound(levels):
    values = ROOM.tensors["weight"].double()
    sent = sent_by(QSGD(levels), ROOM)[0].tensors["weight"].double()
    error = (sent - values).flatten(1).square().sum(dim=1).mean()
    size = values[0].numel()
    bound = min(size / levels**2, size**0.5 / levels) * values[0].square().sum()
    assert error <= bound
    steps = sent * levels / values.flatten(1).norm(dim=1)[:, None, None]
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_k_bits_are_off_by_half_a_step_at_most(bits):
    sent = sent_by(Quantisation(bits), ROOM)[0].tensors["weight"]
    error = (sent - ROOM.tensors["weight"]).abs().max()
    assert error <= 0.5 / (2 ** (bits - 1) - 1) + 1e-6
    assert len(sent.unique()) <= 2**bits


def test_scaled_signs_keep_the_mean_size():
    update = make_update()
    sent, _ = sent_by(SignSGD(scaled=True), update)
    for name, tensor in update.floats.items():
        torch.testing.assert_close(sent.tensors[name].sign(), tensor.sign())
        torch.testing.assert_close(
            sent.tensors[name].abs().flatten(1).mean(1), tensor.abs().flatten(1).mean(1)
        )


def test_clipping_bounds_norms_over_parameters_alone():
    update = make_update()
    assert (update.norms() < 20).all(), "counters and running statistics must not count"
    sent, _ = sent_by(Clipping(0.5), update)
    assert sent.norms().tolist() == pytest.approx([0.5] * 3)
    layered, _ = sent_by(LayerClipping(0.5), update)
    assert layered.norms().tolist() == pytest.approx([0.5 * 2**0.5] * 3)


def test_bytes_on_the_wire():
    dense = SharedTensors(
        {"weight": torch.ones(1, 10, 100), "steps": torch.ones(1, dtype=torch.int64)}, ""
    )
    kept = dense.replaced({"weight": torch.arange(1000.0).view(1, 10, 100) == 1})

    def cost(text, update=dense):
        defense = parse_defense(text)
        return wire_bytes(defense, sent_by(defense, update)[0])

    assert cost("none") == 4000 + 8
    assert cost("float16") == 2000 + 8
    assert cost("sign") == 125 + 4 + 8
    assert cost("bits:3") == 375 + 4 + 8
    assert cost("none", kept) == cost("clip:1", kept) == cost("prune:0", kept) == 4000 + 8
    assert cost("prune:0.5", kept) == 8 + 8
    assert cost("topk:0.1") == 125 + 400 + 8, "a bitmap is cheaper than a hundred indices"
    assert cost("topk:0.1|gaussian:1") == 4000 + 8, "noise fills what was pruned"
    assert cost("sign", kept) == pytest.approx(33 / 8 + 4 + 8)
    half = SharedTensors({**dense.tensors, "weight": dense.tensors["weight"].half()}, "")
    assert cost("none", half) == cost("gaussian:1", half) == 2000 + 8
    # What was held back makes floats of quantised values again.
    few = 1000 * 0.01 * (32 + 32) / 8 + 8
    assert cost("bits:4|topk:0.01:feedback") == cost("sign|dgc:0.01") == few
    assert cost("topk:0.01:feedback|bits:4") == 1000 * 0.01 * (32 + 4) / 8 + 4 + 8


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("gausian:1", "unknown defense 'gausian'; did you mean 'gaussian'"),
        ("gaussian", "write it as gaussian:SIGMA"),
        ("gaussian:x", "cannot read 'x' in 'gaussian:x'; write it as gaussian:SIGMA"),
        ("gaussian:-1", "sigma must be a number of at least 0, not -1"),
        ("gaussian:nan", "sigma must be a number of at least 0, not nan"),
        ("clip:0", "clipping norm must be above 0"),
        ("topk:1.5", "share that is kept must lie above 0 and up to 1 (off), not 1.5"),
        ("topk:0", "share that is kept must lie above 0 and up to 1 (off), not 0"),
        ("prune:1", "pruning everything shares nothing"),
        ("randomk:0.5:rescale:feedback", "cannot rescale with feedback"),
        ("sign:feedback", "needs scaled signs"),
        ("withhold::others", "name the part to withhold"),
        ("withhold:0:others|head_noise:1", "acts on the head, which withhold:0:others withholds"),
        ("withhold:head|head_noise:1", "acts on the head, which withhold:head withholds"),
        ("bits:1", "must lie between 2 and 32"),
        ("topk:0.1|dpsgd:1", "dpsgd:1 changes how the client computes its gradient, so it must"),
        ("dpsgd:1|dpsgd:2", "dpsgd stands twice"),
        ("withhold:head|withhold:head", "withhold stands twice"),
        ("clip:1|clip:1", "clip stands twice"),
        ("float16|topk:0.1|float16", "float16 stands twice"),
        ("server_noise:1|clip:1", "the server does server_noise:1 to what it received"),
        ("head_dropout:0.3|soteria:0.5", "give one of the two"),
        ("soteria:0.5|head_dropout:0.3", "give one of the two"),
        ("qsgd:0", "qsgd takes 1 to"),
        ("qsgd:99999999999", "qsgd takes 1 to"),
        ("mixup:1|dpsgd:1", "dpsgd cannot be combined with mixup"),
        ("mixup:1|randomised_response:1", "randomised_response goes first"),
        ("dpsgd:inf", "infinite clipping norm"),
        ("label_smoothing:1", "leaves no label"),
        ("", "a defense is missing in ''"),
        ("clip:1|", "a defense is missing in 'clip:1|'; join them as in clip:1|gaussian:0.1"),
        ("none|clip:1", "none is no defense by itself; leave it out"),
    ],
)
def test_what_cannot_work_gives_one_sentence(text, sentence):
    with pytest.raises(BadInput, match=re.escape(sentence)) as caught:
        parse_defense(text)
    assert "\n" not in str(caught.value)


def test_remarks_on_orders_that_defeat_their_purpose():
    assert "wire" in remarks(parse_defense("topk:0.1|gaussian:1"))[0]
    assert "clip first" in remarks(parse_defense("gaussian:1|clip:1"))[0]
    assert "hides no label" in remarks(parse_defense("clip:1"))[0]
    assert "that server" in remarks(parse_defense("server_noise:1"))[0]
    assert "saved on the wire" in remarks(parse_defense("topk:0.1|clip:1|gaussian:1"))[0]
    assert "the head's entries" in remarks(parse_defense("topk:0.1|head_noise:1"))[0]
    assert "clip first" in remarks(parse_defense("gaussian:1|topk:0.5|clip:1"))[0]
    assert "is lost" in remarks(parse_defense("head_noise:1|withhold:head"))[0]
    said = remarks(parse_defense("topk:0.1|head_noise:0.1|gaussian:1"))
    assert "gaussian:1 after topk:0.1 fills every entry" in said[0]
    for fine in (
        "prune:0.9|clip:1|gaussian:0.1|float16|clip:2",
        "clip:1|gaussian:1|topk:0.1",
        "clip:1|gaussian:1|clip:1",
        "withhold:bias|head_noise:1",
        "withhold:bias|withhold:weight",
    ):
        assert remarks(parse_defense(fine)) == ()
