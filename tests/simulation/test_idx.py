"""MNIST's and EMNIST's own files: small ones of the same form, and broken ones."""

import gzip
import struct

import numpy as np
import pytest

from labelleak.errors import BadInput
from labelleak.simulation.data.datasets import load_dataset
from labelleak.simulation.data.idx import idx_prefixes

LABELS = np.arange(20) % 4
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 6, 5), dtype=np.uint8)


def idx(array):
    """Write an array of bytes as idx."""
    sides = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes((0, 0, 8, array.ndim)) + sides + array.astype(np.uint8).tobytes()


def save(folder, prefix="", test="t10k", zipped=True, **changes):
    """Write a split's four files; changes replace the content of a file by its name's start."""
    files = {
        "train-images-idx3-ubyte": idx(PIXELS),
        "train-labels-idx1-ubyte": idx(LABELS),
        f"{test}-images-idx3-ubyte": idx(PIXELS[:8]),
        f"{test}-labels-idx1-ubyte": idx(LABELS[:8]),
    }
    for name, content in files.items():
        content = changes.get(name.split("-idx")[0].replace("-", "_"), content)
        if content is not None and zipped:
            (folder / f"{prefix}{name}.gz").write_bytes(gzip.compress(content))
        elif content is not None:
            (folder / f"{prefix}{name}").write_bytes(content)
    return str(folder)


@pytest.mark.parametrize("zipped", [True, False])
def test_mnist_lies_in_a_folder(tmp_path, zipped):
    data = load_dataset(save(tmp_path, zipped=zipped))
    assert (data.name, data.input_shape, data.num_classes) == (tmp_path.name, (1, 6, 5), 4)
    assert np.allclose(data.x_train[3, 0] * 255, PIXELS[3])
    assert data.y_test.tolist() == LABELS[:8].tolist()


def test_emnist_is_turned_upright_and_named_by_its_mapping(tmp_path):
    save(tmp_path, "emnist-byclass-", "test")
    save(tmp_path, "emnist-letters-", "test")
    (tmp_path / "emnist-byclass-mapping.txt").write_text("0 48\n1 65\n2 97\n3 122\n")
    data = load_dataset(str(tmp_path / "emnist-byclass"))
    assert (data.name, data.input_shape) == ("emnist-byclass", (1, 5, 6))
    assert data.class_names == ("0", "A", "a", "z")
    assert np.allclose(data.x_train[3, 0] * 255, PIXELS[3].T)
    assert load_dataset(str(tmp_path / "emnist-letters")).class_names == ("0", "1", "2", "3")
    with pytest.raises(BadInput, match=r"give one, as in .*emnist-byclass"):
        load_dataset(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train_labels": None}, "there is no file"),
        ({"t10k_images": None}, "there is no file"),
        ({"train_images": b"\0\0\x08\x03"}, "no idx file of 3 dimensions"),
        ({"train_images": idx(LABELS)}, "no idx file of 3 dimensions"),
        ({"train_images": idx(PIXELS)[:-1]}, "does not hold the 600 numbers"),
        ({"train_images": idx(PIXELS) + b"1"}, "does not hold the 600 numbers"),
        ({"train_images": bytes((0, 0, 8, 3)) + b"\xff" * 12}, "more than the 4 GiB"),
        ({"train_labels": idx(LABELS[:9])}, "20 rows in x_train, 9 in y_train"),
    ],
)
def test_broken_files_are_refused_in_one_sentence(tmp_path, changes, says):
    with pytest.raises(BadInput, match=says) as refused:
        load_dataset(save(tmp_path, **changes))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_gzip_or_a_mapping_that_is_none_is_refused(tmp_path):
    save(tmp_path, "emnist-x-", "test")
    mapping = tmp_path / "emnist-x-mapping.txt"
    for wrong in ("0 48\n2 49\n", "a b\n", "0\n", "0 99999999\n"):
        mapping.write_text(wrong)
        with pytest.raises(BadInput, match="a class and a character's code"):
            load_dataset(str(tmp_path / "emnist-x"))
    (tmp_path / "emnist-x-train-images-idx3-ubyte.gz").write_bytes(b"not packed")
    with pytest.raises(BadInput, match="cannot be read"):
        load_dataset(str(tmp_path / "emnist-x"))


def test_other_places_hold_no_idx_files(tmp_path):
    assert idx_prefixes(tmp_path) == []
    assert idx_prefixes(tmp_path / "nowhere" / "else") == []


def test_real_files_of_mnist(shared, tmp_path):
    real = shared / "data" / "mnist_idx_first200"
    for kind in ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"):
        content = (real / f"t10k-{kind}").read_bytes()
        for part in ("train", "t10k"):
            (tmp_path / f"{part}-{kind}").write_bytes(content)
    data = load_dataset(str(tmp_path))
    assert data.input_shape == (1, 28, 28)
    assert data.y_train[:5].tolist() == [7, 2, 1, 0, 4]
