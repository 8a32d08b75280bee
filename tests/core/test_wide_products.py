"""Products in parts are those of the whole, in double precision."""

import pytest
import torch

from labelleak.core import sketches, wide_products
from labelleak.core.sketches import Sketch
from labelleak.core.wide_products import wide_product


@pytest.mark.parametrize("block", [1, 7, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_products_of_parts_side_by_side_are_those_of_the_whole(block, dtype, monkeypatch):
    monkeypatch.setattr(wide_products, "_BLOCK", block)
    made = torch.Generator().manual_seed(0)
    parts = [torch.randn(3, width, generator=made).to(dtype) for width in (5, 1, 8)]
    columns = torch.randn(14, 4, generator=made, dtype=torch.float64)
    wanted = torch.cat(parts, dim=1).double() @ columns
    found = wide_product(parts, columns)
    assert found.dtype == torch.float64
    assert torch.allclose(found, wanted, atol=1e-12)


def test_gradients_are_sketched_in_blocks_as_each_alone(monkeypatch):
    sketch = Sketch.of("fc.weight", (6, 9), 8)
    gradients = torch.randn(5, 6, 9, generator=torch.Generator().manual_seed(1))
    whole = sketch.of_gradients(gradients)
    monkeypatch.setattr(sketches, "_BLOCK", 1)
    assert torch.equal(sketch.of_gradients(gradients), whole)
    for one, own in zip(gradients, whole, strict=True):
        assert torch.allclose(sketch.of_gradients(one[None])[0], own)
        slow = torch.zeros(8)
        for i in range(6):
            for j in range(9):
                place = int(sketch.rows[i] + sketch.columns[j]) % 8
                slow[place] += sketch.row_signs[i] * sketch.column_signs[j] * one[i, j]
        assert torch.allclose(own, slow, atol=1e-5)
