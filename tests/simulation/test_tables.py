"""Tables of text and folders of images and masks: what is read, what is refused."""

import numpy as np
import pytest
from PIL import Image

from labelleak.core.task import Task
from labelleak.errors import BadInput
from labelleak.simulation.data.datasets import load_dataset

HEAD = "Path,Sex,Age,Frontal/Lateral,Edema,Pleural Effusion,Nobody Looked"


@pytest.fixture
def chest(tmp_path):
    """A folder as CheXpert's, with images of several sizes."""
    folder = tmp_path / "CheXpert-small"
    (folder / "train").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = [HEAD]
    for number in range(20):
        size = (70 + number, 80)
        Image.fromarray(rng.integers(256, size=size, dtype=np.uint8)).save(
            folder / "train" / f"{number}.jpg"
        )
        edema, effusion = ("1.0", "", "-1.0", "0.0")[number % 4], ("0.0", "1.0")[number % 2]
        sex = ("Male", "Female")[number % 2]
        lines.append(
            f"CheXpert-small/train/{number}.jpg,{sex},{number},Frontal,{edema},{effusion},"
        )
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return folder / "train.csv"


@pytest.mark.parametrize(
    ("rule", "rows", "edema"), [("", 20, 5), (":ones", 20, 10), (":skip", 15, 5)]
)
def test_findings_are_read_by_the_rule_for_uncertain_ones(chest, rule, rows, edema):
    data = load_dataset(f"{chest}{rule}")
    assert data.class_names == ("Edema", "Pleural Effusion")
    assert data.task is Task.multilabel
    assert data.input_shape == (1, 64, 64)
    assert len(data.y_train) + len(data.y_test) == rows
    assert int(data.y_train[:, 0].sum() + data.y_test[:, 0].sum()) == edema
    assert f"uncertain findings: {rule[1:] or 'zeros'}" in data.normalisation


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("../../secret.png", "not in its folder"),
        ("/etc/passwd", "not in its folder"),
        ("train/none.jpg", "has no image"),
        ("train.csv", "is broken"),
    ],
)
def test_a_list_reaches_no_further_than_its_folder(chest, path, sentence):
    chest.write_text(f"Path,Edema\n{path},1\n{path},0\n")
    with pytest.raises(BadInput, match=sentence):
        load_dataset(str(chest))


def test_a_link_out_of_the_folder_is_no_image_of_it(chest, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "secret.png")
    (chest.parent / "train" / "link.png").symlink_to(tmp_path / "secret.png")
    chest.write_text("Path,Edema\ntrain/link.png,1\n")
    with pytest.raises(BadInput, match="not in its folder"):
        load_dataset(str(chest))


def test_tables_of_numbers_have_one_label_or_several(tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"{n},{n / 2},{n % 2},{int(n > 7)}" for n in range(10)]
    path.write_text("\n".join(["a,b,label:old,label:ill", *rows]))
    several = load_dataset(str(path))
    assert several.class_names == ("old", "ill")
    assert several.task is Task.multilabel
    path.write_text("\n".join(["a,b,c,label", *rows]))
    single = load_dataset(str(path))
    assert (single.class_names, single.task, single.input_shape) == (("0", "1"), None, (3,))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a row of names"),
        ("a,label\n", "a row of names"),
        ("a,a,label\n1,2,0", "none twice"),
        ("a,label\n1\n", "has 1 cells, not 2"),
        ("a,label\nx,1\ny,0", "something else than numbers"),
        ("a,b\n1,2", "no column of labels"),
        ("path,name\nx.png,Ann", "no column of 0, 1, -1 and blanks"),
        ('a,label\n"1,0', "cannot be read as .csv"),
        ("a,label:x,label:y\n1,2,0\n1,0,0\n1,1,1\n1,1,1\n1,1,1", "must hold 0 or 1"),
        ("a,label\nnan,1\n1,0\n2,1\n2,0", "NaN"),
        ("a,label:x,label:y\n1,1,0\n", "too few rows"),
    ],
)
def test_bad_tables_are_refused_in_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(BadInput, match=sentence) as caught:
        load_dataset(str(path))
    assert "\n" not in str(caught.value)


def test_an_unknown_rule_is_refused(chest):
    with pytest.raises(BadInput, match="zeros, ones, skip"):
        load_dataset(f"{chest}:maybe")


def masks(folder, *, without=(), size=(6, 4), mode=np.uint8):
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(10):
        Image.fromarray(rng.integers(256, size=(4, 6, 3), dtype=np.uint8)).save(
            folder / "images" / f"{number}.png"
        )
        mask = rng.integers(3, size=size[::-1]).astype(mode)
        mask[0, 0] = 255
        if number not in without:
            Image.fromarray(mask).save(folder / "masks" / f"{number}.png")


def test_images_with_masks_are_maps_of_classes(tmp_path):
    masks(tmp_path)
    data = load_dataset(str(tmp_path))
    assert (data.task, data.num_classes, data.input_shape) == (Task.dense, 3, (3, 4, 6))
    assert tuple(data.y_train.shape) == (8, 4, 6)
    assert set(data.y_train[:, 0, 0].tolist()) == {-1}
    assert int(data.y_train.max()) == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"without": (3,)}, "no mask for the image .3.png"),
        ({"size": (6, 5)}, "the size of its image"),
    ],
)
def test_masks_that_do_not_fit_are_refused(tmp_path, options, sentence):
    masks(tmp_path, **options)
    with pytest.raises(BadInput, match=sentence):
        load_dataset(str(tmp_path))


def test_canvases_of_digits_hold_correlated_labels():
    data = load_dataset("digit_sets")
    assert (data.task, data.num_classes, data.input_shape) == (Task.multilabel, 10, (1, 16, 16))
    shares = data.y_train.float().mean(0)
    assert shares[0] > 2 * shares[9] > 0
    both = (data.y_train[:, 0] * data.y_train[:, 1]).float().mean()
    assert both > shares[0] * shares[1] * 1.2
    empty = data.x_train.flatten(1).sum(1) == 0
    assert not data.y_train[empty].any()
