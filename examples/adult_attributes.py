"""Make several labels a person of UCI Adult: five attributes, told from the other columns.

    python examples/adult_attributes.py adult.npz adult_attributes.npz
    labelleak audit --data adult_attributes.npz --model mlp --batch-sizes 32

The first file has the columns of UCI's `adult.data` as `x_train` and `x_test`, their names in
`feature_names`, categories numbered in the order of `category_names` (``column=value``), and the
income as `y_train` and `y_test`.
"""

import sys
from collections.abc import Mapping

import numpy as np

LABELS = {
    "marital-status": "Married-civ-spouse",
    "sex": "Female",
    "workclass": "Private",
    "native-country": "United-States",
}
SIZES = {"train": 6000, "test": 2000}


def rows(data: Mapping[str, np.ndarray], part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs, and a 0 or 1 for each label, of a part of the data."""
    x, income = data[f"x_{part}"][: SIZES[part]], data[f"y_{part}"][: SIZES[part]]
    columns = dict(zip(data["feature_names"].tolist(), x.T, strict=True))

    def values(name: str) -> list[str]:
        kinds = data["category_names"].tolist()
        return [kind.partition("=")[2] for kind in kinds if kind.startswith(f"{name}=")]

    labels = [income, *(columns[name] == values(name).index(is_) for name, is_ in LABELS.items())]
    plain = [columns[name] for name in ("age", "education-num", "hours-per-week")]
    plain += [np.log1p(columns[name]) for name in ("capital-gain", "capital-loss")]
    work = np.eye(len(values("occupation")))[columns["occupation"].astype(int)]
    return np.column_stack((*plain, work)).astype(np.float32), np.stack(labels, 1).astype(np.int64)


if __name__ == "__main__":
    with np.load(sys.argv[1], allow_pickle=False) as held:
        (x_train, y_train), (x_test, y_test) = (rows(held, part) for part in SIZES)
    names = [">50K", *LABELS.values()]
    np.savez(
        sys.argv[2],
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        class_names=names,
    )
