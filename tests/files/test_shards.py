"""Shards are read by their index, which may name nothing but files beside it."""

import json

import pytest
import torch
from safetensors.torch import save_file

from labelleak.errors import BadInput
from labelleak.files.tensors import read_tensors

TENSORS = {"a.weight": torch.rand(5, 4), "a.bias": torch.rand(5), "b.weight": torch.rand(3, 5)}
FILES = {"a.weight": "m-00001-of-00002.safetensors", "a.bias": "m-00001-of-00002.safetensors"}
FILES["b.weight"] = "m-00002-of-00002.safetensors"


@pytest.fixture
def index(tmp_path):
    for file in set(FILES.values()):
        save_file({n: t for n, t in TENSORS.items() if FILES[n] == file}, tmp_path / file)
    return tmp_path / "m.safetensors.index.json"


def write(index, told):
    index.write_text(told if isinstance(told, str) else json.dumps(told))
    return index


def test_all_shards_are_read(index):
    found = read_tensors(write(index, {"metadata": {}, "weight_map": FILES})).tensors
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def test_the_cap_holds_for_all_shards_together(index):
    write(index, {"weight_map": FILES})
    with pytest.raises(BadInput, match="more than the"):
        read_tensors(index, max_bytes=max(p.stat().st_size for p in index.parent.iterdir()) + 10)


@pytest.mark.parametrize(
    "file",
    [
        "../m.safetensors",
        "/etc/passwd",
        "..\\m.safetensors",
        ".safetensors",
        "m.pt",
        "c:m.safetensors",
        "m\n.safetensors",
        "x" * 400 + ".safetensors",
        3,
        None,
        ["m.safetensors"],
    ],
)
def test_a_shard_lies_beside_its_index(index, file):
    with pytest.raises(BadInput, match="must be a safetensors file beside its index"):
        read_tensors(write(index, {"weight_map": {"a.weight": file}}))


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("{", "not JSON"),
        ("{" + '"a":[' * 10**5, "not JSON"),
        ("{}", "no weight_map"),
        ('{"weight_map": []}', "no weight_map"),
        ('{"weight_map": {"a": "m.safetensors", "a": "n.safetensors"}}', "'a' twice"),
        ({"weight_map": {"a": "gone.safetensors"}}, "No such file"),
        ({"weight_map": {"a.weight": FILES["b.weight"]}}, "'a.weight' is not in"),
        ({"weight_map": {str(i): f"{i}.safetensors" for i in range(5000)}}, "names 5000 files"),
        ("{" + " " * 3 * 2**20, "too long to be an index"),
    ],
)
def test_a_broken_index_is_refused(index, told, said):
    with pytest.raises(BadInput, match=said):
        read_tensors(write(index, told))


def test_an_index_that_names_an_index_or_a_pipe_is_refused(index):
    itself = index.parent / "loop.safetensors"
    write(itself, {"weight_map": {"a.weight": itself.name}})
    with pytest.raises(BadInput, match="is no safetensors file"):
        read_tensors(itself)
    (index.parent / "folder.safetensors").mkdir()
    with pytest.raises(BadInput, match="not a regular file but a folder"):
        read_tensors(write(index, {"weight_map": {"a.weight": "folder.safetensors"}}))
