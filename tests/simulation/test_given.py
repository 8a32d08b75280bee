"""Data and models as Python users hold them; no message shows a value of theirs."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import labelleak
from labelleak.core.knowledge import LabelledData
from labelleak.errors import BadInput
from labelleak.simulation.data.given import dataset_of

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 4)).astype("float32"), np.arange(60) % 3
FEW = {"batch_sizes": [2], "schemes": ["iid"], "attacks": ["llg"], "trials": 2}
FEW |= {"initialisations": 1, "training_steps": [0]}
SECRET = 987.654321


@pytest.mark.parametrize(
    "given",
    [
        (X, Y),
        [X.tolist(), Y.tolist()],
        (torch.from_numpy(X), torch.from_numpy(Y)),
        LabelledData(torch.from_numpy(X), torch.from_numpy(Y)),
        TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
    ],
    ids=["arrays", "lists", "tensors", "labelled", "torch"],
)
def test_the_same_data_in_any_form_is_the_same_data_set(given):
    found, plain = dataset_of(given), dataset_of((X, Y))
    assert found.fingerprint == plain.fingerprint
    assert (len(found.x_train), len(found.x_test), found.num_classes) == (48, 12, 3)


def test_four_parts_a_name_and_a_data_set_stay_what_they_are():
    parts = dataset_of((X[:40], Y[:40], X[40:], Y[40:]))
    assert (len(parts.x_train), len(parts.x_test)) == (40, 20)
    assert dataset_of(parts) is parts
    assert dataset_of("digits").name == "digits"


def test_a_hugging_face_data_set_is_read_and_its_parts_are_kept():
    library = pytest.importorskip("datasets")
    rows = {"a": X[:, 0].tolist(), "b": X[:, 1].tolist(), "label": [f"c{y}" for y in Y]}
    whole = library.Dataset.from_dict(rows)
    found = dataset_of(whole)
    assert found.class_names == ("c0", "c1", "c2")
    vectors = {"x": X.tolist(), "label": Y.tolist()}
    assert dataset_of(library.Dataset.from_dict(vectors)).x_train.shape[1:] == X.shape[1:]
    beside = library.Dataset.from_dict(vectors | {"a": X[:, 0].tolist()})
    assert dataset_of(beside).x_train.shape[1:] == (X.shape[1] + 1,)
    vectors["x"][0] = [1.0]
    with pytest.raises(BadInput, match="lists that differ in length"):
        dataset_of(library.Dataset.from_dict(vectors))
    both = library.DatasetDict({"train": whole, "test": whole.select(range(9))})
    assert (len(dataset_of(both).x_train), len(dataset_of(both).x_test)) == (60, 9)
    with pytest.raises(BadInput, match="no part called train"):
        dataset_of(library.DatasetDict({"all": whole}))


class Odd(torch.utils.data.Dataset):
    def __init__(self, row):
        self.row = row

    def __len__(self):
        return 4

    def __getitem__(self, number):
        return self.row


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((np.full((3, 4), SECRET), [0, 1]), "has 3 rows in X, 2 in y"),
        ((np.full((3, 4), SECRET),), "not 1 parts"),
        ((np.full((4, 4), SECRET), [SECRET] * 4), "must be whole numbers"),
        (([[SECRET], [SECRET, SECRET]], [0, 1]), "X of your data is no array"),
        (([[str(SECRET)]] * 4, [0, 1, 0, 1]), "is text"),
        ((SECRET, SECRET), "is one float, not an array"),
        ({"x": SECRET}, "not dict"),
        (SECRET, "not float"),
        (Odd(SECRET), "row 0 of your data is no pair"),
        (Odd((str(SECRET), 1)), "is a str"),
        (Odd((torch.tensor([SECRET]), SECRET)), "no whole number"),
    ],
)
def test_what_is_no_data_is_refused_without_a_value_of_it(given, said):
    with pytest.raises(BadInput) as caught:
        labelleak.audit(data=given, model="mlp", **FEW)
    text = str(caught.value)
    assert said in text
    assert "987" not in text
    assert len(text) < 200
    assert caught.value.__cause__ is None or "987" not in str(caught.value.__cause__)


def test_no_option_shows_what_it_was_given_instead():
    with pytest.raises(BadInput, match="`model` takes a name"):
        labelleak.audit(model=(X, Y))
    with pytest.raises(BadInput) as caught:
        labelleak.audit(trials=np.full(3, SECRET))
    assert "987" not in str(caught.value)


def test_own_arrays_with_a_function_that_builds_a_model():
    found = labelleak.audit(
        data=(X, Y), model=lambda input_shape, num_classes: nn.Linear(4, num_classes), **FEW
    )
    (first, *_) = found.records
    assert (first.data, first.num_classes) == ("your data", 3)
    assert "data=<your data>" in first.command
    assert repr(found) == "<Audit: 2 records of 1 attack>"
    assert repr(dataset_of((X, Y))) == "<Dataset 'your data': 60 rows of 4, 3 classes>"
    assert repr(LabelledData(torch.zeros(2, 3), torch.zeros(2))) == "<LabelledData: 2 rows of 3>"


def test_records_name_classes_that_have_names():
    library = pytest.importorskip("datasets")
    rows = {"a": X[:, 0].tolist(), "label": [("asthma", "flu", "none")[y] for y in Y]}
    build = nn.Linear(1, 3)
    found = labelleak.audit(data=library.Dataset.from_dict(rows), model=build, **FEW)
    assert found.records[0].extra["class_names"] == ["asthma", "flu", "none"]
    assert dataset_of((X, Y)).told_names == ()


def test_a_function_is_called_anew_for_each_initialisation():
    made = []

    def build(num_classes):
        made.append(num_classes)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

    few = FEW | {"initialisations": 2}
    found = labelleak.audit(data="digits", model=build, **few)
    assert len(made) >= 2
    assert len({r.extra["model_fingerprint"] for r in found.records}) == 2
