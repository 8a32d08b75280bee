"""What one pass over a head's gradient finds is what separate passes find."""

import numpy as np
import pytest
import torch

from labelleak.attacks.row_energy import energies, split_rows
from labelleak.core import head_sums
from labelleak.core.entries import noise_size, stands_out, sum_rests, zeroed_share
from labelleak.core.head_changes import Change, change_of
from labelleak.core.head_shapes import Layer
from labelleak.core.head_sums import (
    BLOCK,
    HeadSums,
    by_rows,
    measured_once,
    share_scaled,
    shared_sums,
    sums_of,
    weighted_sum,
)
from labelleak.core.observation import Observation

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def gradient(*shape, dtype=torch.float32, seed=0, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    weight = size * torch.randn(*shape, generator=generator, dtype=torch.float64)
    weight[..., 1::3, ::2] = 0.0
    weight[..., 2::3, 1] = -0.0
    weight[..., :, 3] = 0.0
    return weight.to(dtype)


def one_by_one(weight):
    wide = weight.double()
    live = (wide != 0).any(dim=-2)
    return {
        "rows": wide.sum(-1),
        "columns": wide.sum(-2),
        "lowest": wide.amin(-1),
        "highest": wide.amax(-1),
        "square": wide.square().sum((-2, -1)),
        "absolute": wide.abs().sum((-2, -1)),
        "live": live.sum(-1).double(),
        "zeroed": ((wide == 0) & live[..., None, :]).sum((-2, -1)).double(),
        "largest": wide.abs().amax((-2, -1)),
    }


def check(found, weight, tolerance):
    for name, expected in one_by_one(weight).items():
        room = tolerance * float(expected.abs().max())
        np.testing.assert_allclose(getattr(found, name), expected, rtol=tolerance, atol=room)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(7, 5), (3, 7, 5), (2, 3, 7, 5)], ids=str)
@pytest.mark.parametrize("block", [1, 12, 40, 10**6])
@pytest.mark.parametrize("few", [0, 10**6])
def test_one_pass_finds_all(monkeypatch, dtype, shape, block, few):
    monkeypatch.setattr(head_sums, "BLOCK", block)
    monkeypatch.setattr(head_sums, "_FEW", few)
    monkeypatch.setattr(head_sums, "_WIDE", 1)
    monkeypatch.setattr(head_sums, "_AT_ONCE", block)
    weight = gradient(*shape, dtype=dtype)
    check(HeadSums.of(weight), weight, 1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("few", [0, 10**6])
@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_sizes_whose_squares_do_not_fit_are_added_up_in_double(monkeypatch, size, few):
    monkeypatch.setattr(head_sums, "_FEW", few)
    weight = gradient(6, 33, size=size)
    check(HeadSums.of(weight), weight, 1e-5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e300, 0.0])
def test_few_entries_say_what_many_do_of_what_is_no_number(monkeypatch, dtype, wrong):
    weight = gradient(2, 6, 33, dtype=dtype)
    weight[1, 2:4] = torch.tensor(wrong, dtype=torch.float64).to(dtype)
    each = []
    for few in (0, 10**6):
        monkeypatch.setattr(head_sums, "_FEW", few)
        each.append(HeadSums.of(weight))
    for name, found in vars(each[0]).items():
        again = getattr(each[1], name)
        assert (found.shape, found.dtype) == (again.shape, again.dtype)
        room = 1e-5 * np.abs(found[np.isfinite(found)]).max(initial=0.0)
        np.testing.assert_allclose(again, found, rtol=1e-5, atol=room)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(10, 588), (10, 64), (100, 33), (2, 32), (30, 31), (90, 100)])
@pytest.mark.parametrize("turned", [False, True])
def test_an_update_has_the_same_sums_alone_and_among_others(dtype, shape, turned):
    weight = gradient(60, *shape, dtype=dtype)
    weight = weight.mT.contiguous().mT if turned else weight
    together = HeadSums.of(weight)
    for trial in (0, 7, 59):
        for alone in (HeadSums.of(weight[trial]), HeadSums.of(weight[trial : trial + 1])):
            for name, found in vars(together).items():
                assert np.array_equal(np.squeeze(getattr(alone, name)), found[trial]), name


@pytest.mark.parametrize("few", [0, 10**6])
def test_sums_of_one_update_are_arrays_that_nobody_else_holds(monkeypatch, few):
    monkeypatch.setattr(head_sums, "_FEW", few)
    weight = torch.nn.Parameter(gradient(4, 33))
    found = HeadSums.of(weight)
    assert all(isinstance(one, np.ndarray) for one in vars(found).values())
    before = weight.detach().clone()
    for one in vars(found).values():
        one += 1.0
    assert torch.equal(weight, before)


def test_strides_do_not_matter():
    weight = gradient(5, 7).T
    check(HeadSums.of(weight), weight, 1e-5)


def test_a_movement_is_measured_without_being_held():
    before, after = gradient(7, 5, seed=1).half(), gradient(7, 5).half()
    check(HeadSums.of(after, before), after.double() - before.double(), 1e-5)


def test_a_tensor_is_measured_once_while_an_update_is_attacked(monkeypatch):
    measured = []
    of = HeadSums.of
    monkeypatch.setattr(HeadSums, "of", lambda *given: measured.append(given) or of(*given))
    weight = gradient(7, 5)
    with shared_sums():
        first, again = sums_of(weight), sums_of(weight[None])
        assert again.rows.shape == (1, 7)
        assert np.array_equal(again.rows[0], first.rows)
        sums_of(weight.clone())
        sums_of(weight[:6])
    assert len(measured) == 3
    sums_of(weight)
    sums_of(weight)
    assert len(measured) == 5, "outside nothing is kept, since anybody may write to a tensor"


def test_rows_are_measured_block_by_block(monkeypatch):
    weight = gradient(3, 7, 5)
    whole = weight.double().square().sum(-1)
    monkeypatch.setattr(head_sums, "BLOCK", 20)
    assert np.allclose(by_rows(weight, lambda rows: rows.square().sum(-1)), whole)
    shares = np.linspace(0, 1, weight.shape[-2])
    one = weight.reshape(-1, *weight.shape[-2:])[0]
    assert np.allclose(weighted_sum(one, shares), shares @ one.double().numpy())


def test_a_large_head_says_what_a_small_one_does():
    """Above a block everything is found in one pass, below it by itself."""
    width = 64
    classes = BLOCK // width + 40
    weight = torch.zeros(classes, width)
    weight[:20] = gradient(20, width, seed=3)
    weight[0] -= weight.sum(0)
    small, large = (
        Observation.from_gradient(w, num_samples=4) for w in (weight[:20], weight.bfloat16())
    )
    assert np.allclose(large.row_sums[:20], small.row_sums, atol=0.1)
    assert float(zeroed_share(small)) == pytest.approx(float(zeroed_share(large)) * 1.0, abs=1), (
        "rows that are all zero count as zeroed entries of live columns"
    )
    rest = sum_rests(large)[0]
    assert rest is not None
    assert float(rest) < 0.01
    assert bool(stands_out(large))
    assert float(noise_size(large)) < 0.01
    tensors = {"fc.weight": weight}
    assert change_of(Layer("fc", classes, width), tensors, None) == Change(True, True, True)
    moved = {"fc.weight": weight + 1}
    before = {"fc.weight": torch.ones(classes, width)}
    assert change_of(Layer("fc", classes, width), moved, before) == Change(True, True, True)


@pytest.mark.parametrize("factor", [-10.0, 0.5, 1e38])
def test_a_movement_times_a_factor_has_its_sums_unless_it_overflows(monkeypatch, factor):
    before, after = gradient(7, 5, seed=1), gradient(7, 5)
    moved = (after - before) * factor
    with shared_sums():
        share_scaled(after, before, moved, factor)
        sums_of(after, before)
        share_scaled(after, before, moved, factor)
        passes = []
        of = HeadSums.of
        monkeypatch.setattr(HeadSums, "of", lambda *given: passes.append(given) or of(*given))
        found = sums_of(moved)
    assert len(passes) == (factor > 1e30)
    if factor < 1e30:
        check(found, moved, 1e-5)


def test_a_large_update_is_passed_over_once(monkeypatch):
    before = {"fc.weight": gradient(BLOCK // 64 + 3, 64, seed=1)}
    after = {"fc.weight": before["fc.weight"] - 0.1 * gradient(BLOCK // 64 + 3, 64, seed=2)}
    with shared_sums():
        sums_of(after["fc.weight"], before["fc.weight"])
        monkeypatch.setattr(HeadSums, "of", None)
        seen = Observation.from_update(before, after, head="fc", lr=0.1)
    assert np.allclose(seen.row_sums, seen.weight.double().sum(-1), atol=1e-4)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_large_weights_before_and_after_give_the_gradient_of_small_ones(decay):
    width = 64
    classes = BLOCK // width + 3
    before = {"fc.weight": gradient(classes, width, seed=1)}
    after = {"fc.weight": before["fc.weight"] - 0.1 * gradient(classes, width, seed=2)}
    known = {"head": "fc", "lr": 0.1, "weight_decay": decay}
    large = Observation.from_update(before, after, **known)
    wide = {"fc.weight": after["fc.weight"].double()}, {"fc.weight": before["fc.weight"].double()}
    exact = Observation.from_update(wide[1], wide[0], **known)
    assert large.weight is not None
    assert large.weight.dtype == torch.float32
    torch.testing.assert_close(large.weight.double(), exact.weight, atol=1e-5, rtol=1e-5)


def test_what_an_attack_finds_in_a_tensor_another_does_not_look_for_again():
    looked = []

    def look(weight):
        looked.append(weight.shape)
        return float(weight.sum())

    weight = gradient(2, 7, 5)
    with shared_sums():
        assert measured_once(weight[0], look) == measured_once(weight[0], look)
        assert len(looked) == 1
        assert measured_once(weight[1], look) == float(weight[1].sum())
    measured_once(weight[1], look)
    assert len(looked) == 3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(7, 64), (3, 7, 64), (1, 5)], ids=str)
@pytest.mark.parametrize("block", [1, 128, 10**6])
def test_row_sums_are_the_same_whatever_a_block_holds(monkeypatch, dtype, shape, block):
    monkeypatch.setattr(head_sums, "BLOCK", block)
    weight = gradient(*shape, dtype=dtype).requires_grad_()
    found = head_sums.row_sums_of(weight)
    wide = weight.detach() if dtype == torch.float64 else weight.detach().float()
    assert found.dtype == np.float64
    assert found.shape == shape[:-1]
    assert found.tolist() == wide.sum(-1).double().tolist()
    turned = weight.detach().transpose(-1, -2).contiguous().transpose(-1, -2)
    np.testing.assert_allclose(
        head_sums.row_sums_of(turned), wide.double().sum(-1), rtol=1e-5, atol=1e-5
    )


def test_what_several_share_is_not_written_to():
    weight = gradient(7, 5)
    with shared_sums():
        along, energy = measured_once(weight, split_rows)
        for found in (along, energy, measured_once(weight, energies)):
            with pytest.raises(ValueError, match="read-only"):
                found[0] = 1.0
