"""Models: shapes, seeds, initialisations, users' own factories, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import nn

from labelleak.errors import BadInput
from labelleak.simulation.designs import MODELS
from labelleak.simulation.models import INITIALISATIONS, build_model, fingerprint
from labelleak.simulation.networks import ACTIVATIONS, Classifier

GREY_8, GREY_28, RGB_32 = (1, 8, 8), (1, 28, 28), (3, 32, 32)
BUILT_IN = ["cnn", "mlp", "lenet", "resnet20", "resnet18"]
SMALL = [name for name in BUILT_IN if name != "resnet18"]


def build(name: str = "cnn", shape: tuple[int, ...] = GREY_8, **choices: object) -> Classifier:
    arguments = {"input_shape": shape, "num_classes": 5, "seed": 0} | choices
    model = build_model(name, **arguments)
    assert isinstance(model, Classifier)
    return model


def head_inputs(model: Classifier, inputs: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    hook = model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    model(inputs)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [GREY_8, GREY_28, RGB_32], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_every_model_takes_every_shape_and_activation(name, shape, activation):
    model = build(name, shape, activation=activation)
    assert isinstance(model.head, nn.Linear)
    assert model(torch.rand(3, *shape)).shape == (3, 5)
    kinds = {type(module) for module in model.modules()}
    assert type(ACTIVATIONS[activation]()) in kinds


@pytest.mark.parametrize("shape", [GREY_8, RGB_32], ids=str)
def test_resnet18_has_the_usual_width(shape):
    model = build("resnet18", shape)
    assert model.head.in_features == 512
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(11.2e6, rel=0.02)


def test_resnet20_has_the_usual_size():
    model = build("resnet20", RGB_32, num_classes=10)
    assert model.head.in_features == 64
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(0.272e6, rel=0.02)


@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 9, 17), (3, 8, 64)], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_odd_and_large_images_are_taken(name, shape):
    assert build(name, shape)(torch.rand(2, *shape)).shape == (2, 5)


def test_the_papers_network():
    model = build("cnn", GREY_28, num_classes=10)
    layers = [module for module in model.features if isinstance(module, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size[0], c.stride[0], c.padding[0]) for c in layers] == [
        (12, 5, 2, 2),
        (12, 5, 2, 2),
        (12, 5, 1, 2),
    ]
    assert model.head.weight.shape == (10, 588)
    assert isinstance(model.features[1], nn.Sigmoid)


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_head_sees_non_negative_features_with_relu(name):
    model = build(name, activation="relu")
    assert head_inputs(model, torch.rand(4, *GREY_8)).min() >= 0


def test_mlp_takes_tables():
    assert build("mlp", (14,))(torch.rand(3, 14)).shape == (3, 5)


@pytest.mark.parametrize("init", INITIALISATIONS)
@pytest.mark.parametrize("name", SMALL)
def test_the_seed_decides_the_parameters(name, init):
    first, again, other = (build(name, init=init, seed=seed) for seed in (3, 3, 4))
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)


@pytest.mark.parametrize("name", SMALL)
def test_global_random_states_are_left_alone(name):
    before = torch.get_rng_state(), random.getstate()
    build(name, init="uniform", seed=9)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_the_global_random_state_does_not_matter():
    torch.manual_seed(1)
    first = fingerprint(build())
    torch.manual_seed(2)
    assert fingerprint(build()) == first


@pytest.mark.parametrize("name", SMALL)
def test_uniform_covers_every_parameter(name):
    for parameter in build(name, init="uniform").parameters():
        assert parameter.abs().max() <= 0.5
        if parameter.numel() > 200:
            assert parameter.std().item() == pytest.approx(1 / 12**0.5, rel=0.2)
            assert parameter.mean().item() == pytest.approx(0, abs=0.1)


def test_xavier_zeroes_biases():
    model = build("resnet20", init="xavier")
    assert not model.head.bias.any()
    assert model.head.weight.abs().max() <= (6 / (64 + 5)) ** 0.5
    assert model.features[1].weight.min() == 1  # batch normalisation stays the identity


def test_building_moves_no_running_statistic_and_leaves_training_mode():
    model = build("resnet20")
    assert all(module.training for module in model.modules())
    assert not model.features[1].running_mean.any()
    assert model.features[1].num_batches_tracked == 0


def test_fingerprint_tells_names_and_values():
    model = nn.Linear(2, 2)
    before = fingerprint(model)
    with torch.no_grad():
        model.bias[0] += 1e-3
    assert len(before) == 16
    assert fingerprint(model) != before
    halved = nn.Linear(2, 2).to(torch.bfloat16)
    assert len(fingerprint(halved)) == 16


def test_models_are_listed():
    assert set(BUILT_IN) < set(MODELS)


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"name": "cnnn"}, "did you mean 'cnn'"),
        ({"activation": "rellu"}, "did you mean 'relu'"),
        ({"init": "unifrom"}, "did you mean 'uniform'"),
        ({"num_classes": 0}, "at least one output"),
        ({"shape": (14,)}, "cnn needs images"),
        ({"name": "lenet", "shape": (1, 4, 4)}, "at least 8x8"),
        ({"name": "resnet20", "shape": (14,)}, "mlp takes any"),
        ({"name": "mlp", "shape": (2, 3)}, r"\(C, H, W\) or \(D,\)"),
        ({"name": "mlp", "shape": ()}, r"\(C, H, W\) or \(D,\)"),
        ({"name": "mlp", "shape": (0,)}, r"\(C, H, W\) or \(D,\)"),
    ],
)
def test_bad_choices_are_refused(choices, says):
    with pytest.raises(BadInput, match=says):
        build(**choices)


FACTORIES = """
import sys
import torch
from torch import nn

def plain(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

def lazy(input_shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

def anything(**offered):
    return plain(offered["num_classes"])

def dropping():
    return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.BatchNorm1d(64), nn.Linear(64, 5)).eval()

def late():
    import helper_beside
    return helper_beside.make()

class Group:
    Net = staticmethod(plain)

built = plain(5)
number = 3

def raises(): raise RuntimeError("no weights\\nsecond line")
def leaves(): sys.exit(3)
def wrong(): return "a model"
def demanding(weights): return plain(5)
def narrow(): return plain(4)
def tupled():
    class Two(nn.Module):
        def forward(self, x): return x, x
    return Two()
def mismatched(): return nn.Linear(3, 5)
"""


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a module of factories into the working directory, under a name of its own."""
    name = f"factories_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    (tmp_path / f"{name}_exits.py").write_text("raise SystemExit(1)")
    (tmp_path / f"{name}_broken.py").write_text("def (")
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize("factory", ["plain", "lazy", "anything", "dropping", "Group.Net"])
@pytest.mark.parametrize("init", INITIALISATIONS)
def test_users_models_are_reproducible(beside, factory, init):
    before = torch.get_rng_state()
    first, again = (
        build_model(f"{beside}:{factory}", input_shape=GREY_8, num_classes=5, init=init, seed=1)
        for _ in range(2)
    )
    assert fingerprint(first) == fingerprint(again)
    assert torch.equal(torch.get_rng_state(), before)
    if init == "uniform":
        assert all(parameter.abs().max() <= 0.5 for parameter in first.parameters())


def test_users_model_keeps_its_mode(beside):
    model = build_model(f"{beside}:dropping", input_shape=GREY_8, num_classes=5, seed=1)
    assert not any(module.training for module in model.modules())


def test_factories_may_import_late_from_the_working_directory(beside, monkeypatch):
    import sys

    Path("helper_beside.py").write_text(f"from {beside} import plain\ndef make(): return plain(5)")
    monkeypatch.delitem(sys.modules, "helper_beside", raising=False)
    path = list(sys.path)
    build_model(f"{beside}:late", input_shape=GREY_8, num_classes=5, seed=1)
    assert sys.path == path


@pytest.mark.parametrize(
    ("suffix", "says"),
    [
        ("_nowhere:plain", "importing .* failed: ModuleNotFoundError"),
        ("_exits:plain", "importing .* failed: SystemExit"),
        ("_broken:plain", "importing .* failed: SyntaxError"),
        (":nothing", "has no 'nothing'"),
        (":", "has no ''"),
        (":number", "is no function, but int"),
        (":built", "is a model already"),
        (":raises", "RuntimeError: no weights$"),
        (":leaves", "failed: SystemExit"),
        (":wrong", "must return a torch.nn.Module, not str"),
        (":demanding", "failed: TypeError"),
        (":narrow", r"must turn 2 inputs into scores \(2, 5\), but gives \(2, 4\); .*run from 1"),
        (":tupled", "but gives tuple"),
        (":mismatched", "fails on inputs of shape"),
    ],
)
def test_users_failures_are_one_sentence(beside, suffix, says):
    with pytest.raises(BadInput, match=says) as caught:
        build_model(beside + suffix, input_shape=GREY_8, num_classes=5, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", [":plain", ".relative:plain", "a b:plain"])
def test_impossible_import_paths_are_refused(path):
    with pytest.raises(BadInput, match="importing"):
        build_model(path, input_shape=GREY_8, num_classes=5, seed=0)


def test_activation_of_a_users_model_is_refused(beside):
    with pytest.raises(BadInput, match="cannot be chosen"):
        build_model(f"{beside}:plain", input_shape=GREY_8, num_classes=5, activation="relu", seed=0)
