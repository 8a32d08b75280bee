"""Keras's weights in HDF5 are read as plain arrays, and nothing else in such a file is."""

import numpy as np
import pytest
import torch

from labelleak.core.forms import torch_form
from labelleak.errors import BadInput
from labelleak.files.h5 import read_h5
from labelleak.files.tensors import read_tensors

h5py = pytest.importorskip("h5py")

KERNEL = np.arange(12, dtype=np.float32).reshape(4, 3)
BIAS = np.ones(3, np.float32)


def saved(path, arrays, put=None):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        if put is not None:
            put(file)
    return path


@pytest.mark.parametrize(
    ("names", "layer"),
    [
        (("layers/dense/vars/0", "layers/dense/vars/1"), "dense"),
        (
            ("_layer_checkpoint_dependencies/d/vars/0", "_layer_checkpoint_dependencies/d/vars/1"),
            "d",
        ),
        (("d/d/kernel:0", "d/d/bias:0"), "d.d"),
        (("model_weights/d/d/kernel:0", "model_weights/d/d/bias:0"), "d.d"),
    ],
)
def test_the_names_of_keras_2_and_3(tmp_path, names, layer):
    optimiser = {"optimizer/vars/0": np.array(3), "optimizer/vars/1": KERNEL}
    arrays = dict(zip(names, (KERNEL, BIAS), strict=True)) | optimiser
    found = torch_form(read_tensors(saved(tmp_path / "w.h5", arrays)).tensors)
    assert sorted(found) == [f"{layer}.bias", f"{layer}.weight"]
    assert torch.equal(found[f"{layer}.weight"], torch.from_numpy(KERNEL).T)


def test_other_variables_keep_their_numbers(tmp_path):
    arrays = {f"layers/bn/vars/{i}": BIAS for i in range(4)}
    arrays |= {f"layers/lstm/cell/vars/{i}": a for i, a in enumerate((KERNEL, KERNEL, BIAS))}
    found = read_tensors(saved(tmp_path / "w.h5", arrays)).tensors
    assert set(found) == {name.removeprefix("layers/") for name in arrays}


HOSTILE = {
    "link to elsewhere": [
        lambda f: f.__setitem__("x", h5py.SoftLink("/layers")),
        lambda f: f.__setitem__("x", h5py.ExternalLink("other.h5", "/layers")),
    ],
    "stands at two places": [
        lambda f: f.__setitem__("x", f["/"]),
        lambda f: f.__setitem__("x", f["layers/d/vars/0"]),
    ],
    "packed, or kept elsewhere": [
        lambda f: f.create_dataset("x", data=np.zeros(10**5), compression="gzip"),
        lambda f: f.create_dataset("x", (2,), "f4", external=[("/etc/passwd", 0, 8)]),
        lambda f: f.create_dataset("x", (10**4,), "f4", chunks=(10,)),
        lambda f: f.create_virtual_dataset("x", virtual()),
    ],
    "but has 0 bytes": [
        lambda f: f.create_dataset("x", (100,), "f4"),
        lambda f: f.create_dataset("x", (10**12,), "f4"),
    ],
    "which is not read": [
        lambda f: f.__setitem__("x", "text"),
        lambda f: f.__setitem__("x", np.zeros(2, np.complex64)),
        lambda f: f.__setitem__("x", np.zeros(2, ">f4")),
    ],
    "absurd name": [
        lambda f: f.__setitem__("x" * 600, BIAS),
        lambda f: f.__setitem__("x/" * 50, BIAS),
        lambda f: f.__setitem__("x\ny", BIAS),
    ],
}


def virtual():
    layout = h5py.VirtualLayout(shape=(3,), dtype="f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=(3,))
    return layout


@pytest.mark.parametrize(
    ("said", "put"), [(said, put) for said, puts in HOSTILE.items() for put in puts]
)
def test_what_is_no_plain_array_of_the_file_is_refused(tmp_path, said, put):
    path = saved(tmp_path / "w.h5", {"layers/d/vars/0": KERNEL}, put)
    with pytest.raises(BadInput, match=said):
        read_tensors(path)


@pytest.mark.parametrize("kept", [9, 60, 500, 2060])
def test_a_file_that_is_cut_short_is_refused(tmp_path, kept):
    whole = saved(tmp_path / "w.h5", {"layers/d/vars/0": KERNEL}).read_bytes()
    assert len(whole) > kept
    (tmp_path / "cut.h5").write_bytes(whole[:kept])
    with pytest.raises(BadInput, match="not a whole HDF5 file"):
        read_tensors(tmp_path / "cut.h5")


def test_random_damage_is_refused_or_harmless(tmp_path):
    whole = saved(tmp_path / "w.h5", {"layers/d/vars/0": KERNEL, "layers/d/vars/1": BIAS})
    content, rng = whole.read_bytes(), np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(content)
        for place in rng.integers(8, len(content), 3):
            damaged[place] = rng.integers(256)
        (tmp_path / "bad.h5").write_bytes(damaged)
        try:
            found = read_tensors(tmp_path / "bad.h5").tensors
        except BadInput:
            continue
        assert sum(t.numel() for t in found.values()) <= len(content)


def test_arrays_that_share_their_bytes_are_refused(tmp_path):
    def put(file):  # arrays that stand in their headers, at no place of their own
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_layout(h5py.h5d.COMPACT)
        for name in (b"x", b"y"):
            space = h5py.h5s.create_simple((12,))
            one = h5py.h5d.create(file.id, name, h5py.h5t.IEEE_F32LE, space, made)
            one.write(h5py.h5s.ALL, h5py.h5s.ALL, KERNEL.ravel())

    path = saved(tmp_path / "w.h5", {}, put)
    assert len(read_tensors(path).tensors) == 2
    with path.open("rb") as file, pytest.raises(BadInput, match="overlap: together they exceed"):
        read_h5(file, 90, "w.h5")


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    path = saved(tmp_path / "w.h5", {"layers/d/vars/0": KERNEL})
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(BadInput, match=r"install labelleak\[keras\]"):
        read_tensors(path)
