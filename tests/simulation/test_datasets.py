"""Data sets: the built-in ones, files, folders, stand-ins for hub sets, and what is refused."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from labelleak.errors import BadInput
from labelleak.simulation.data import parts as dataset_parts
from labelleak.simulation.data.datasets import DATASETS, Dataset, load_dataset
from labelleak.simulation.data.given import dataset_of
from labelleak.simulation.data.hub import HUB

datasets = pytest.importorskip("datasets")
from PIL import Image  # noqa: E402

REAL = Path(__file__).parents[3] / "shared" / "data"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="real data is not beside the checkout")


def check(data: Dataset) -> None:
    for inputs, labels in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert inputs.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert len(inputs) == len(labels) > 0
        assert torch.isfinite(inputs).all()
        assert 0 <= labels.min() <= labels.max() < data.num_classes
        assert inputs.is_contiguous()
        assert tuple(inputs.shape[1:]) == data.input_shape
        if inputs.ndim == 4:
            assert 0 <= inputs.min() < inputs.max() <= 1


def images(rows: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, *shape), dtype=np.uint8)


def good(**changes: object) -> dict[str, np.ndarray]:
    arrays = {
        "x_train": images(6, 8, 9),
        "y_train": np.arange(6) % 3,
        "x_test": images(3, 8, 9, seed=1),
        "y_test": np.arange(3),
    }
    return {name: value for name, value in (arrays | changes).items() if value is not None}


def save(path: Path, **arrays: np.ndarray) -> str:
    np.savez_compressed(path, **arrays)
    return str(path)


# ------------------------------------------------------------------ built in


@pytest.mark.parametrize(
    ("name", "num_classes", "train", "test"),
    [
        ("digits", 10, 1438, 359),
        ("synthetic", 100, 4000, 1000),
        ("synthetic:2", 2, 2000, 20),
        ("synthetic:1000", 1000, 40_000, 10_000),
    ],
)
def test_built_in_sets(name, num_classes, train, test):
    data = load_dataset(name)
    check(data)
    assert (data.name, data.num_classes, data.input_shape) == (name, num_classes, (1, 8, 8))
    assert (len(data.x_train), len(data.x_test)) == (train, test)
    assert len(data.y_train.unique()) == len(data.y_test.unique()) == num_classes


@pytest.mark.parametrize("name", ["digits", "synthetic:5"])
def test_built_in_sets_are_the_same_whatever_the_random_state(name):
    np.random.seed(1)
    torch.manual_seed(1)
    first = load_dataset(name)
    np.random.seed(2)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = load_dataset(name)
    assert first.fingerprint == again.fingerprint
    assert len(first.fingerprint) == 16
    assert torch.equal(torch.get_rng_state(), before)


def test_digits_are_split_within_classes():
    data = load_dataset("digits")
    share = data.y_test.bincount() / (data.y_test.bincount() + data.y_train.bincount())
    assert (share - 0.2).abs().max() < 0.01


def test_synthetic_classes_can_be_learnt():
    data = load_dataset("synthetic")
    centres = torch.stack([data.x_train[data.y_train == k].mean(0) for k in range(100)])
    nearest = torch.cdist(data.x_test.flatten(1), centres.flatten(1)).argmin(1)
    assert (nearest == data.y_test).float().mean() > 0.9


def test_every_listed_name_has_a_line():
    assert {"digits", "synthetic", *HUB} < set(DATASETS)
    assert all(line and "\n" not in line for line in DATASETS.values())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("digit", "did you mean 'digits'"),
        ("", "unknown data set"),
        ("synthetic:", "from 2 to 10000"),
        ("synthetic:1", "from 2 to 10000"),
        ("synthetic:-4", "from 2 to 10000"),
        ("synthetic:many", "from 2 to 10000"),
        ("synthetic:99999999999", "from 2 to 10000"),
        ("nowhere.npz", "no file nowhere.npz"),
        ("nowhere.parquet", "no file nowhere.parquet"),
        ("/no/where/at/all", "no file or folder"),
        ("x" * 5000, "unknown data set"),
        ("x" * 5000 + ".npz", "no file"),
        ("nul\0.npz", "no file"),
        (__file__, "give .npz, .csv or .parquet"),
    ],
)
def test_unknown_names_are_refused(name, says):
    with pytest.raises(BadInput, match=says):
        load_dataset(name)


# ----------------------------------------------------------------------- npz


@pytest.mark.parametrize("names", [("X", "y"), ("x", "y")])
def test_all_rows_in_one_pair_of_arrays_are_parted_as_python_parts_them(tmp_path, names):
    x, y = np.random.default_rng(0).random((20, 4)), np.arange(20) % 2
    more = {"writers": np.arange(20), "class_names": np.array(["no", "yes"])}
    data = load_dataset(save(tmp_path / "a.npz", **dict(zip(names, (x, y), strict=True)), **more))
    same = dataset_of((x, y))
    for part in ("x_train", "y_train", "x_test", "y_test"):
        assert torch.equal(getattr(data, part), getattr(same, part))
    assert data.class_names == ("no", "yes")
    kept = [int(row) for row in data.writers]
    assert np.array_equal(data.as_given().x_train, x[kept].astype(np.float32))


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"X": np.zeros((4, 2)), "y": np.arange(3)}, "has 4 rows in X, 3 in y"),
        ({"X": np.zeros((4, 2)), "y": np.array(1)}, "has 4 rows in X, 0 in y"),
        ({"X": np.array(1), "y": np.array(1)}, "has 0 rows in X"),
        ({"X": np.zeros((4, 2)), "y": np.arange(4) % 2, "x_test": np.zeros(3)}, "lacks x_train"),
        ({"X": np.zeros((4, 2)), "Y": np.arange(4)}, "lacks x_train"),
        (
            {"X": np.zeros((4, 2)), "y": np.arange(4) % 2, "writers": np.arange(3)},
            "3 writers for 4 rows",
        ),
    ],
)
def test_a_pair_that_does_not_fit_is_refused(tmp_path, arrays, says):
    with pytest.raises(BadInput, match=says):
        load_dataset(save(tmp_path / "a.npz", **arrays))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((8, 9), (1, 8, 9)), ((8, 9, 3), (3, 8, 9)), ((8, 9, 1), (1, 8, 9)), ((3, 8, 9), (3, 8, 9))],
)
def test_npz_images_are_laid_out_channels_first(tmp_path, shape, expected):
    train, test = images(6, *shape), images(3, *shape)
    data = load_dataset(save(tmp_path / "a.npz", **good(x_train=train, x_test=test)))
    check(data)
    assert (data.name, data.input_shape) == ("a.npz", expected)
    assert data.normalisation == "uint8/255"
    pixels = train[0, ..., None] if len(shape) == 2 else train[0]
    pixels = pixels if pixels.shape[-1] in (1, 3) else pixels.transpose(1, 2, 0)
    assert np.array_equal(data.x_train[0].permute(1, 2, 0), pixels.astype(np.float32) / 255)


def test_npz_float_images_are_kept(tmp_path):
    train, test = (np.random.default_rng(0).random((n, 3, 8, 8)) for n in (6, 3))
    data = load_dataset(save(tmp_path / "a.npz", **good(x_train=train, x_test=test)))
    check(data)
    assert data.normalisation == "none"
    assert np.array_equal(data.x_train, train.astype(np.float32))


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.uint8])
def test_npz_tables_are_standardised_by_the_training_part(tmp_path, kind):
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 99, (n, 4)).astype(kind) for n in (6, 3))
    train[:, 2] = test[:, 2] = 7
    data = load_dataset(save(tmp_path / "a.npz", **good(x_train=train, x_test=test)))
    check(data)
    assert data.normalisation == "standardised by the training part"
    assert data.x_train.mean(0).abs().max() < 1e-6
    assert data.x_train.std(0, correction=0).tolist() == pytest.approx([1, 1, 0, 1], abs=1e-5)
    given = data.as_given()
    assert np.array_equal(given.x_train, train.astype(np.float32))
    assert np.array_equal(given.x_test, test.astype(np.float32))
    assert (given.normalisation, given.as_given()) == ("none", given)
    assert given.fingerprint != data.fingerprint
    expected = (test - train.mean(0)) / np.where(train.std(0) == 0, 1, train.std(0))
    assert np.allclose(data.x_test, expected, atol=1e-5)


def test_npz_class_names(tmp_path):
    names = np.array(["ant", "bee", "cat", "dog"])
    data = load_dataset(save(tmp_path / "a.npz", **good(class_names=names)))
    assert data.class_names == ("ant", "bee", "cat", "dog")
    assert load_dataset(save(tmp_path / "b.npz", **good())).class_names == ("0", "1", "2")


def test_npz_writers(tmp_path):
    arrays = good()
    whose = np.array([f"w{row % 3}" for row in range(len(arrays["y_train"]))])
    data = load_dataset(save(tmp_path / "a.npz", **arrays, writers=whose))
    assert data.writers.tolist() == whose.tolist()
    with pytest.raises(BadInput, match=f"names 2 writers for {len(whose)} rows"):
        load_dataset(save(tmp_path / "b.npz", **arrays, writers=whose[:2]))
    with pytest.raises(BadInput, match=r"writers in .* must be one row of text"):
        load_dataset(save(tmp_path / "c.npz", **arrays, writers=np.ones((2, 2))))


def test_fingerprint_tells_a_single_label(tmp_path):
    first = load_dataset(save(tmp_path / "a.npz", **good()))
    other = load_dataset(save(tmp_path / "a.npz", **good(y_test=np.array([0, 1, 1]))))
    assert first.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"y_test": None}, "lacks y_test; it holds x_train, y_train, x_test"),
        ({"x_train": np.array(["some", "text"] * 3)}, "is text; turn it into numbers first"),
        ({"x_train": np.array([{}] * 6)}, "never unpickled"),
        ({"x_train": images(6, 8)[:, 0]}, r"has shape \(6,\); tables are"),
        ({"x_train": images(6, 2, 2, 2, 2)}, "tables are"),
        ({"x_train": images(6, 8, 9, 4)}, "1 or 3 channels"),
        ({"x_train": images(6, 8, 9).astype(np.int64)}, "save them as uint8 or float32"),
        ({"x_train": images(6, 8, 9).astype(complex)}, "must be numbers"),
        ({"x_train": images(6, 8, 8)}, "rows of one shape"),
        ({"x_train": images(6, 8, 9) / 255}, "one element type"),
        ({"x_train": images(0, 8, 9), "y_train": np.arange(0)}, "is empty"),
        ({"x_test": images(0, 8, 9), "y_test": np.arange(0)}, "is empty"),
        ({"y_train": np.arange(5)}, "6 rows in x_train, 5 in y_train"),
        ({"y_train": np.arange(6) - 1}, "negative label -1"),
        ({"y_train": np.arange(6) / 2}, "whole numbers"),
        ({"y_train": np.array(["a"] * 6)}, "whole numbers"),
        ({"y_train": np.eye(6, dtype=int)}, "labels of one kind"),
        ({"y_train": np.array(3)}, "labels are one a row"),
        ({"y_test": np.array([0, 1, 10**12])}, "without gaps"),
        ({"y_test": np.array([0, 1, 2**64 - 1], np.uint64)}, "without gaps"),
        ({"class_names": np.array(["a", "b"])}, "label 2, but class_names has only 2"),
        ({"class_names": np.array([["a", "b"]])}, "one row of text"),
        ({"class_names": np.array([0.5])}, "one row of text"),
        ({"y_train": np.zeros(6, int), "y_test": np.zeros(3, int)}, "only one class"),
        (
            {"x_train": np.full((6, 4), np.nan), "x_test": np.zeros((3, 4))},
            "x_train .* holds NaN",
        ),
        (
            {"x_train": np.zeros((6, 4)), "x_test": np.full((3, 4), np.inf)},
            "x_test .* holds NaN, infinite",
        ),
        (
            {"x_train": np.full((6, 8, 8), 1e300), "x_test": np.zeros((3, 8, 8))},
            "overflowing",
        ),
    ],
)
def test_bad_npz_files_are_refused_in_one_sentence(tmp_path, changes, says):
    with pytest.raises(BadInput, match=says) as caught:
        load_dataset(save(tmp_path / "a.npz", **good(**changes)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path, kept):
    path = Path(save(tmp_path / "a.npz", **good()))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(BadInput, match=r"cannot be read as \.npz"):
        load_dataset(str(path))


def test_damaged_contents_are_refused(tmp_path):
    path = Path(save(tmp_path / "a.npz", **good()))
    damaged = bytearray(path.read_bytes())
    damaged[200:300] = bytes(100)
    path.write_bytes(damaged)
    with pytest.raises(BadInput, match=r"cannot be read as \.npz"):
        load_dataset(str(path))


def test_a_file_that_is_no_zip_is_refused(tmp_path):
    (tmp_path / "a.npz").write_text("x_train, y_train")
    with pytest.raises(BadInput, match=r"cannot be read as \.npz"):
        load_dataset(str(tmp_path / "a.npz"))


@pytest.mark.parametrize(
    ("shape", "says"), [((10**7, 10**4), "GiB"), ((-5, 8), "impossible shape")]
)
def test_forged_headers_are_refused_before_anything_is_allocated(tmp_path, shape, says):
    path = tmp_path / "a.npz"
    header = io.BytesIO()
    declared = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, declared)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", header.getvalue())
        for name in ("y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", header.getvalue())
    with pytest.raises(BadInput, match=says):
        load_dataset(str(path))


@needs_real
@pytest.mark.parametrize(
    ("name", "shape", "num_classes", "train"),
    [
        ("mnist", (1, 28, 28), 10, 10_000),
        ("cifar100", (3, 32, 32), 100, 3200),
        ("adult", (14,), 2, 32_561),
        ("dry_bean", (16,), 7, 10_890),
    ],
)
def test_real_files(name, shape, num_classes, train):
    data = load_dataset(str(REAL / f"{name}.npz"))
    check(data)
    assert (data.input_shape, data.num_classes, len(data.x_train)) == (shape, num_classes, train)


@needs_real
def test_real_text_is_refused():
    with pytest.raises(BadInput, match="is text"):
        load_dataset(str(REAL / "sms_spam.npz"))


# -------------------------------------------------------- parquet and folders


def rows_of(columns: dict[str, object], **kinds: object) -> datasets.Dataset:
    rows = datasets.Dataset.from_dict(columns)
    for name, kind in kinds.items():
        rows = rows.cast_column(name, kind)
    return rows


def pictures(rows: int, *shape: int, mode: str | None = None) -> list[Image.Image]:
    made = [Image.fromarray(pixels) for pixels in images(rows, *shape)]
    return [picture.convert(mode) for picture in made] if mode else made


def labelled(labels: list[object], *shape: int, mode: str | None = None) -> dict[str, object]:
    return {"image": pictures(len(labels), *shape, mode=mode), "label": labels}


def write(rows: datasets.Dataset, path: Path) -> str:
    table = rows.with_format("arrow")[:]
    import pyarrow.parquet

    pyarrow.parquet.write_table(datasets.table.embed_table_storage(table), path)
    return str(path)


@pytest.mark.parametrize(("shape", "expected"), [((8, 9), (1, 8, 9)), ((8, 9, 3), (3, 8, 9))])
def test_parquet_images(tmp_path, shape, expected):
    names = datasets.ClassLabel(names=["cat", "ant"])
    rows = rows_of(labelled([0, 1] * 10, *shape), label=names)
    data = load_dataset(write(rows, tmp_path / "a.parquet"))
    check(data)
    assert (data.input_shape, data.class_names) == (expected, ("cat", "ant"))
    assert (len(data.x_train), data.y_test.bincount().tolist()) == (16, [2, 2])
    assert data.normalisation == "uint8/255"
    everything = torch.cat([data.x_train, data.x_test]).permute(0, 2, 3, 1).reshape(20, *shape)
    expected_sum = (images(20, *shape) / 255).sum(0)
    assert np.allclose(everything.sum(0), expected_sum, atol=1e-4)


def test_parquet_images_from_elsewhere_are_plain_structs(tmp_path):
    import pyarrow
    import pyarrow.parquet

    def encode(picture: Image.Image) -> dict[str, object]:
        stream = io.BytesIO()
        picture.save(stream, "png")
        return {"bytes": stream.getvalue(), "path": None}

    columns = labelled(["b", "a"] * 5, 8, 8)
    columns["image"] = [encode(picture) for picture in columns["image"]]
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    data = load_dataset(str(tmp_path / "a.parquet"))
    check(data)
    assert data.class_names == ("a", "b")


def test_parquet_links_are_never_followed(tmp_path):
    import pyarrow
    import pyarrow.parquet

    link = {"bytes": None, "path": "https://example.invalid/a.png"}
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"image": pyarrow.array([link] * 4, kind), "label": [0, 1, 0, 1]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(BadInput, match="holds links"):
        load_dataset(str(tmp_path / "a.parquet"))


def test_parquet_rows_have_writers(tmp_path):
    columns = {"a": list(range(10)), "writer_id": list("uv") * 5, "label": [0, 1] * 5}
    data = load_dataset(write(rows_of(columns), tmp_path / "a.parquet"))
    assert data.input_shape == (1,)  # whose a row is, is no input
    assert sorted(set(data.writers.tolist())) == ["u", "v"]
    assert len(data.writers) == len(data.y_train)


def test_parquet_tables_of_numbers(tmp_path):
    rows = rows_of({"a": list(range(10)), "b": [0.5] * 10, "target": [7, 10] * 5})
    data = load_dataset(write(rows, tmp_path / "a.parquet"))
    check(data)
    assert (data.input_shape, data.class_names) == ((2,), ("7", "10"))


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"image": pictures(4, 8, 8)}, "no label column; call it 'label'"),
        (labelled([0, 1, None, 1], 8, 8), "a class in every row"),
        (labelled([0.5, 1.5, 0.5, 1.5], 8, 8), "a class in every row"),
        (labelled([0, -1, 0, 1], 8, 8), "a class in every row"),
        (labelled([0, 0, 0, 0], 8, 8), "only one class"),
        (labelled([0, 1, 2, 3], 8, 8), "is empty"),
        ({"text": ["a", "b"] * 2, "label": [0, 1] * 2}, "neither images nor columns of numbers"),
        ({"label": [0, 1] * 2}, "neither images nor columns of numbers"),
        ({"image": pictures(2, 8, 8) + pictures(2, 8, 9), "label": [0, 1] * 2}, "differ in size"),
        (labelled([0, 1] * 2, 8, 8, mode="I"), "8 bits a channel"),
    ],
)
def test_bad_parquet_files_are_refused(tmp_path, columns, says):
    with pytest.raises(BadInput, match=says):
        load_dataset(write(rows_of(columns), tmp_path / "a.parquet"))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all, but long enough"])
def test_broken_parquet_files_are_refused(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(BadInput, match=r"cannot be read as \.parquet"):
        load_dataset(str(tmp_path / "a.parquet"))


def test_the_size_cap_holds_for_parquet(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_parts, "MAX_BYTES", 2**10)
    path = write(rows_of(labelled([0, 1] * 10, 8, 8)), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match="GiB"):
        load_dataset(path)


def fill(folder: Path, classes: dict[str, int], *shape: int) -> None:
    for name, rows in classes.items():
        (folder / name).mkdir(parents=True)
        for number, picture in enumerate(pictures(rows, *shape)):
            picture.save(folder / name / f"{number}.png")


def test_image_folder_is_split_within_classes(tmp_path):
    fill(tmp_path / "train", {"test": 5, "train": 10}, 8, 8)
    data = load_dataset(str(tmp_path / "train") + "/")
    check(data)
    assert (data.name, data.class_names) == ("train", ("test", "train"))
    assert data.y_train.bincount().tolist() == [4, 8]


def test_image_folder_with_a_training_part_only_is_split(tmp_path):
    fill(tmp_path / "train", {"a": 5, "b": 10}, 8, 8)
    assert load_dataset(str(tmp_path)).y_test.tolist() == [0, 1, 1]
    fill(tmp_path / "val", {"b": 1, "a": 1}, 8, 8)
    assert load_dataset(str(tmp_path)).y_test.tolist() == [0, 1]


def test_image_folder_maps_classes_by_name(tmp_path):
    fill(tmp_path / "train", {str(k): 1 + k for k in range(12)}, 8, 8, 3)
    fill(tmp_path / "test", {"2": 3, "10": 1}, 8, 8, 3)
    data = load_dataset(str(tmp_path))
    check(data)
    assert data.class_names == tuple(map(str, range(12)))
    assert data.y_train.bincount().tolist() == list(range(1, 13))
    assert data.y_test.bincount().tolist() == [0, 0, 3] + [0] * 7 + [1]


def test_grey_images_among_coloured_ones_are_coloured(tmp_path):
    fill(tmp_path, {"a": 5}, 8, 8)
    fill(tmp_path, {"b": 5}, 8, 8, 3)
    assert load_dataset(str(tmp_path)).input_shape == (3, 8, 8)


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(BadInput, match="one folder a class"):
        load_dataset(str(tmp_path))
    fill(tmp_path, {"a": 5, "b": 5}, 8, 8)
    (tmp_path / "a" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match="is broken"):
        load_dataset(str(tmp_path))


# ----------------------------------------------------------------------- hub


def stand_in(name: str) -> tuple[dict[str, datasets.Dataset], tuple[int, ...], int]:
    """Make rows with the columns of a hub set, the shape and the number of classes expected."""
    if name == "celeba":
        hair = {column: [] for column, _ in HUB["celeba"].columns.attributes}
        kinds = [["Black_Hair"], ["Bald"], [], ["Gray_Hair", "Bald"], ["Blond_Hair"]] * 2
        for column, values in hair.items():
            values.extend(column in kind for kind in kinds)
        rows = rows_of({"image": pictures(10, 21, 17, 3), "celeb_id": [1] * 10, **hair})
        twin = rows.select(range(10))
        return {"train": rows, "valid": rows, "test": twin}, (3, 32, 32), 5
    if name == "celeba_male":
        columns = {"image": pictures(10, 21, 17, 3), "Male": [True, False, False, True, True] * 2}
        return {"train": rows_of(columns)}, (3, 32, 32), 2
    image, label, shape, classes = {
        "mnist": ("image", "label", (28, 28), 10),
        "svhn": ("image", "label", (32, 32, 3), 10),
        "cifar100": ("img", "fine_label", (32, 32, 3), 100),
        "femnist": ("image", "character", (28, 28), 62),
    }[name]
    names = datasets.ClassLabel(names=[f"c{k}" for k in range(classes)])
    extra = {"coarse_label": [0] * 10} if name == "cifar100" else {}
    extra |= {"writer_id": ["f01", "f02"] * 5} if name == "femnist" else {}
    columns = {image: pictures(10, *shape), label: [0, 1, 2, 3, 4] * 2, **extra}
    rows = rows_of(columns, **{label: names})
    expected = (3, 32, 32) if len(shape) == 3 else (1, *shape)
    splits = {"train": rows} if name == "femnist" else {"train": rows, "test": rows.select([2, 3])}
    return splits, expected, classes


@pytest.mark.parametrize("name", HUB)
def test_hub_sets_on_stand_ins(name, monkeypatch):
    asked = []
    splits, shape, num_classes = stand_in(name)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: asked.append(args) or splits)
    data = load_dataset(name)
    check(data)
    assert asked == [(HUB[name].path, HUB[name].config)]
    assert (data.name, data.input_shape, data.num_classes) == (name, shape, num_classes)


def test_celeba_keeps_faces_with_exactly_one_hair_colour(monkeypatch):
    splits, _, _ = stand_in("celeba")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: splits)
    data = load_dataset("celeba")
    assert data.class_names == ("black", "blond", "brown", "gray", "bald")
    assert data.y_train.tolist() == [0, 4, 1] * 2
    assert data.normalisation == "resized to 32x32, uint8/255"


def test_a_no_is_a_class_of_its_own_and_writers_come_along(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("celeba_male", "femnist"):
        splits, _, _ = stand_in(name)
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, rows=splits: rows)
        data = load_dataset(name)
        if name == "femnist":
            assert len(data.writers) == len(data.y_train)
            assert set(data.writers.tolist()) == {"f01", "f02"}
        else:
            assert data.class_names == ("not male", "male")
            assert data.writers is None
            assert torch.bincount(torch.cat([data.y_train, data.y_test])).tolist() == [4, 6]


def test_any_other_hub_set_is_found_by_its_columns(monkeypatch):
    rows = rows_of(labelled(["x", "y"] * 5, 8, 8))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: {"whole": rows})
    data = load_dataset("some-one/some.thing")
    check(data)
    assert (data.name, data.class_names) == ("some-one/some.thing", ("x", "y"))
    assert len(data.x_test) == 2


def test_a_hub_set_with_other_columns_is_refused(monkeypatch):
    rows = rows_of(labelled(["x", "y"] * 5, 8, 8))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: {"train": rows})
    for name, missing in (("cifar100", "fine_label"), ("celeba", "Black_Hair")):
        with pytest.raises(BadInput, match=f"lacks the column {missing}"):
            load_dataset(name)


@pytest.mark.parametrize("name", ["mnist", "owner/name"])
@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_offline_means_offline(name, variable, monkeypatch):
    def fail(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(BadInput, match=r"give a local \.npz file, \.parquet file or image folder"):
        load_dataset(name)


def test_an_unreachable_hub_is_one_sentence(monkeypatch):
    def fail(*_: object) -> None:
        raise ConnectionError("a long\nstory")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(BadInput, match=r"\(ConnectionError\); go online") as caught:
        load_dataset("mnist")
    assert "\n" not in str(caught.value)


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    fill(tmp_path, {"a": 2, "b": 2}, 8, 8)
    monkeypatch.setitem(sys.modules, "datasets", None)
    for name in (str(tmp_path), "mnist"):
        with pytest.raises(BadInput, match=r"pip install labelleak\[data\]"):
            load_dataset(name)
