"""Tensors of other frameworks come out as PyTorch's would, or the layout is asked for."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from labelleak.core.forms import named_like, plan, torch_form
from labelleak.core.head import AmbiguousHead, locate_head
from labelleak.core.training import LocalTraining
from labelleak.core.update import ReceivedUpdate
from labelleak.errors import BadInput

RNG = np.random.default_rng(0)
SIZES = [(6, 9), (9, 9), (9, 4)]  # inputs x outputs


def random(*shape):
    return RNG.normal(size=shape).astype(np.float32)


KERNELS = [random(*size) for size in SIZES]
BIASES = [random(size[1]) for size in SIZES]
TORCH = {
    f"{2 * i}.{part}": torch.from_numpy(value)
    for i, (kernel, bias) in enumerate(zip(KERNELS, BIASES, strict=True))
    for part, value in (("weight", np.ascontiguousarray(kernel.T)), ("bias", bias))
}
LIST = [value for pair in zip(KERNELS, BIASES, strict=True) for value in pair]
TORCH_LIST = [value.numpy() for value in TORCH.values()]


def same(found, expected=TORCH):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("source", [list, tuple])
@pytest.mark.parametrize("arrays", [LIST, TORCH_LIST])
def test_a_list_is_named_and_its_layout_told_by_its_biases(source, arrays):
    same(torch_form(source(arrays)))


def test_the_names_of_numpy_archives_are_a_list_too():
    same(torch_form({f"arr_{i}": array for i, array in enumerate(LIST)}))


@pytest.mark.parametrize(
    "name",
    [
        lambda i, part: f"model/dense_{i}/{part}:0",
        lambda i, part: f"params.Dense_{i}.{part}",
        lambda i, part: f"mlp/~/linear_{i}/{part[0].replace('k', 'w')}",
    ],
)
def test_names_of_keras_flax_and_haiku(name):
    named = {
        name(i, part): value
        for i, pair in enumerate(zip(KERNELS, BIASES, strict=True))
        for part, value in zip(("kernel", "bias"), pair, strict=True)
    }
    found = torch_form(named)
    same(dict(zip(TORCH, found.values(), strict=True)))
    assert all(n.rpartition(".")[2] in ("weight", "bias") and "/" not in n for n in found)


def test_nested_parameters_of_flax():
    nested = {
        "params": {
            f"Dense_{i}": {"kernel": kernel, "bias": bias}
            for i, (kernel, bias) in enumerate(zip(KERNELS, BIASES, strict=True))
        }
    }
    found = torch_form(nested)
    assert list(found)[-2:] == ["params.Dense_2.weight", "params.Dense_2.bias"]
    assert torch.equal(found["params.Dense_2.weight"], TORCH["4.weight"])


def test_convolutions_have_their_channels_in_front():
    found = torch_form([random(3, 3, 1, 8), random(8), random(72, 4), random(4)])
    assert found["0.weight"].shape == (8, 1, 3, 3)
    assert locate_head(found).name == "2"


@pytest.mark.parametrize("turn", [False, True])
def test_without_biases_the_chain_of_sizes_tells(turn):
    arrays = [random(6, 9), random(9, 5), random(5, 4)]
    arrays = [a if turn else np.ascontiguousarray(a.T) for a in arrays]
    found = torch_form(arrays)
    assert [tuple(t.shape) for t in found.values()] == [(9, 6), (5, 9), (4, 5)]


@pytest.mark.parametrize(
    "arrays", [[random(5, 5), random(5)], [random(4, 6)], [random(5, 5), random(5, 5)]]
)
def test_what_cannot_be_told_is_asked_for(arrays):
    with pytest.raises(BadInput, match="say it with `layout`: torch or keras"):
        torch_form(arrays)
    assert torch.equal(torch_form(arrays, "torch")["0.weight"], torch.from_numpy(arrays[0]))
    assert torch.equal(torch_form(arrays, "keras")["0.weight"], torch.from_numpy(arrays[0]).T)
    # Tensors of PyTorch, and files that it wrote, have its layout.
    tensors = [torch.from_numpy(a) for a in arrays]
    assert torch.equal(torch_form(tensors)["0.weight"], tensors[0])


def test_an_embedding_before_a_norm_is_no_bias_that_tells():
    language = [random(30, 8), random(8), random(30, 8)]  # a language model without biases
    assert torch_form(language)["2.weight"].shape == (30, 8)
    with pytest.raises(BadInput, match="cannot be told"):
        torch_form([random(30, 8), random(8), random(8, 8), random(8)])


def shapes_of(rng, layout):
    """Make up a network: an embedding or none, layers of any width, biases and norms or none."""
    widths = [int(n) for n in rng.choice([4, 8, 10, 16, 32], rng.integers(2, 6))]
    shapes = [(int(rng.choice([50, 1000])), widths[0])] if rng.random() < 0.4 else []
    shapes += [(widths[0],)] * int(rng.integers(3)) if shapes else []
    biased, norms = rng.random(2) < 0.5, int(rng.integers(3))
    for place, (inputs, outputs) in enumerate(pairwise(widths)):
        last = place == len(widths) - 2
        shapes.append((outputs, inputs) if layout == "torch" else (inputs, outputs))
        shapes += [(outputs,)] * int(biased[int(last)]) + [(outputs,)] * (0 if last else norms)
    return shapes


@pytest.mark.parametrize("layout", ["torch", "keras"])
def test_the_layout_of_random_networks_is_told_right_or_asked_for(layout):
    rng, told = np.random.default_rng(0), 0
    for _ in range(3000):
        shapes = {str(i): shape for i, shape in enumerate(shapes_of(rng, layout))}
        try:
            found = plan(shapes)
        except BadInput:
            continue
        told += 1
        assert any(entry.turned for entry in found.values()) == (layout == "keras"), shapes
    assert told > 2000


def test_kernels_that_fit_their_rows_are_doubted():
    with pytest.raises(BadInput, match="cannot be told"):
        torch_form({"d/kernel": random(4, 6), "d/bias": random(4)})


def test_named_weights_are_turned_only_where_every_bias_says_so():
    turned = {n: t.T.contiguous() if t.dim() == 2 else t for n, t in TORCH.items()}
    same(torch_form(turned))
    # Some of GPT-2's layers are inputs x outputs, but its head is not.
    mixed = {"c_attn.weight": torch.rand(6, 18), "c_attn.bias": torch.rand(18)}
    mixed["lm_head.weight"] = torch.rand(30, 6)
    assert torch_form(mixed)["c_attn.weight"].shape == (6, 18)
    with pytest.raises(AmbiguousHead, match="say so with `layout` keras"):
        locate_head(torch_form(mixed))


def test_none_keeps_its_place():
    found = torch_form([None, BIASES[0], TORCH_LIST[4], None, BIASES[2]], "torch")
    assert list(found) == ["1", "2.weight", "4"]
    found = torch_form([None, None, *TORCH_LIST[2:]])
    assert list(found) == ["2.weight", "2.bias", "4.weight", "4.bias"]


def test_arrays_that_torch_does_not_take_as_they_are():
    fixed = KERNELS[2].T.copy()
    fixed.flags.writeable = False
    for array in (fixed, fixed[::-1], fixed.astype(">f4")):
        found = torch_form({"fc.weight": array})["fc.weight"]
        assert np.array_equal(found.numpy(), array)
    with pytest.raises(BadInput, match=r"'fc.weight' is no array of numbers"):
        torch_form({"fc.weight": "text"})


def test_absurd_input_is_refused():
    with pytest.raises(BadInput, match="must be one of torch, keras"):
        torch_form(LIST, "tensorflow")
    with pytest.raises(BadInput, match=r"two tensors would be called 'd.weight'"):
        plan({"d/kernel": (2, 3), "d/w": (2, 3)})
    deep = random(2, 3)
    for _ in range(100):
        deep = {"a": deep}
    with pytest.raises(BadInput, match="nested too deeply"):
        torch_form(deep)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "net."])
def test_wrappers_are_taken_off_where_they_set_names_apart(prefix):
    wrapped = {prefix + name: tensor for name, tensor in TORCH.items()}
    assert list(named_like(wrapped, TORCH)) == list(TORCH)
    assert list(named_like(TORCH, wrapped)) == list(wrapped)
    assert named_like(wrapped, wrapped) is None
    assert named_like(wrapped, ["other.weight"]) is None


LORA = {
    f"base_model.model.l.0.query.lora_{p}.weight": torch.rand(*s)
    for p, s in (("A", (2, 6)), ("B", (6, 2)))
}


def test_no_head_is_shared_by_adapters_of_attention():
    with pytest.raises(BadInput, match=r"no head is shared.*'base_model.model.l.0.query'"):
        locate_head(LORA)


def test_a_head_that_peft_saves_beside_its_adapters_is_found():
    name = "base_model.model.classifier"
    shared = LORA | {f"{name}.weight": torch.rand(4, 6), f"{name}.bias": torch.rand(4)}
    assert locate_head(shared).name == name


@pytest.mark.parametrize("part", ["weight", "default.weight"])
def test_a_head_that_is_adapted_itself_is_refused_for_that_reason(part):
    sizes = {"A": (2, 6), "B": (4, 2)}
    adapted = {f"m.classifier.lora_{p}.{part}": torch.rand(*s) for p, s in sizes.items()}
    with pytest.raises(AmbiguousHead, match=r"'m.classifier' is adapted by LoRA"):
        locate_head(LORA | adapted)
    with pytest.raises(BadInput, match=r"'m.classifier' is adapted by LoRA"):
        locate_head(adapted, name="m.classifier")
    lora_b = f"m.classifier.lora_B.{part}".removesuffix(".weight")
    assert locate_head(adapted, name=lora_b).name == lora_b


def test_the_second_matrix_of_an_adapted_head_is_a_head_of_the_first_ones_outputs():
    torch.manual_seed(1)
    x, y = torch.randn(8, 6), torch.arange(8) % 4
    down, up, scale, lr = torch.randn(2, 6), torch.zeros(4, 2, requires_grad=True), 4.0, 0.1
    logits = x @ torch.randn(4, 6).T + scale * x @ down.T @ up.T
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, y), up)
    before = {"c.lora_A.weight": down, "c.lora_B.weight": up.detach()}
    after = before | {"c.lora_B.weight": up.detach() - lr * gradient}
    made = LocalTraining(lr=lr, batch_size=8)
    update = ReceivedUpdate(before, after, training=made)
    seen = update.observe(locate_head(after, before=before, name="c.lora_B").name)
    errors = logits.detach().softmax(1) - torch.eye(4)[y]
    right = errors.T @ (scale * x @ down.T) / 8
    assert torch.allclose(seen.weight.float(), right.float(), atol=1e-5)
