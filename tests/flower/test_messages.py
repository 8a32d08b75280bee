"""Arrays of messages are decoded as Flower decodes them, whatever they hold."""

from io import BytesIO

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord

from labelleak.flower.messages import Arrays, _layout

VALUES = [
    np.float32([[1, 2], [3, 4]]),
    np.arange(6, dtype=np.int64).reshape(1, 2, 3),
    np.float16([0.5, 1.5]),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array(3.0),
    np.zeros((0, 3), np.float32),
    np.array([True, False]),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: f"{v.dtype} {v.shape}")
def test_decoded_arrays_are_flower_s_own(value):
    record = ArrayRecord({"a": Array(value), "b": Array(value)})
    found = Arrays(record)["a"]
    wanted = torch.from_numpy(record["a"].numpy())
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    assert torch.equal(found, wanted)
    if found.numel() and found.is_floating_point():
        found += 1  # what is decoded is a copy, and each name's own
        assert torch.equal(torch.from_numpy(record["a"].numpy()), wanted)
        assert torch.equal(Arrays(record)["b"], wanted)


def packed(data):
    return ArrayRecord({"a": Array(dtype="float32", shape=(2,), stype="numpy.ndarray", data=data)})


def test_what_is_no_array_is_refused_as_flower_refuses_it():
    file = BytesIO()
    np.save(file, np.float32([1, 2]))
    good = file.getvalue()
    pickled = BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    header = good[:8] + (4).to_bytes(2, "little") + b"{'a'"
    for bad in (good[:-1], good[:20], b"", b"\x93NUMPY\x01\x00", header, pickled.getvalue()):
        with pytest.raises(Exception) as theirs:  # noqa: PT011
            packed(bad)["a"].numpy()
        with pytest.raises(type(theirs.value)):
            Arrays(packed(bad))["a"]
    assert torch.equal(Arrays(packed(good + b"rest"))["a"], torch.tensor([1.0, 2.0]))


def test_a_layout_is_read_once_in_a_process():
    _layout.cache_clear()
    for number in range(3):
        value = Array(np.full((3, 5), number, np.float32))
        assert float(Arrays(ArrayRecord({"a": value}))["a"].mean()) == number
    assert _layout.cache_info().misses == 1
    assert _layout.cache_info().hits == 2
