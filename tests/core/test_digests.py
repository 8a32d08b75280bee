"""A digest is that of names, types, shapes and bytes, whatever holds them."""

import hashlib
import json

import numpy as np
import pytest
import torch

from labelleak.core.digests import digest_tensors

KINDS = ["float16", "bfloat16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool"]
TENSORS = {
    "matrix": lambda: torch.arange(12.0).reshape(3, 4) - 5,
    "turned": lambda: torch.arange(12.0).reshape(3, 4).T,
    "every_other": lambda: torch.arange(12.0)[::2],
    "repeated": lambda: torch.tensor([1.5]).expand(4, 3),
    "number": lambda: torch.tensor(-2.5),
    "empty": lambda: torch.zeros(0, 3),
    "trained": lambda: torch.ones(2, 2, requires_grad=True) * 3,
    "no_number": lambda: torch.tensor([float("nan"), float("inf"), -0.0]),
}


def spelt_out(named):
    """What the docstring says, entry by entry."""
    text = b"labelleak tensors 1\n"
    for name, tensor in sorted(named.items()):
        kind = str(tensor.dtype).removeprefix("torch.")
        text += json.dumps([name, kind, list(tensor.shape)]).encode() + b"\n"
        entries = tensor.detach().reshape(-1)
        for entry in entries:
            text += bytes(entry.reshape(1).clone().view(torch.uint8).tolist())
    return "sha256:" + hashlib.sha256(text).hexdigest()


WHOLE = [(name, kind) for name in TENSORS for kind in KINDS if name != "no_number"]
BROKEN = [("no_number", kind) for kind in KINDS if "float" in kind]


@pytest.mark.parametrize(("name", "kind"), WHOLE + BROKEN)
def test_a_digest_is_that_of_its_bytes_in_any_type_and_layout(name, kind):
    made = TENSORS[name]()
    tensor = made if kind == "float32" else made.detach().to(getattr(torch, kind))
    assert digest_tensors({"b.weight": tensor, "ä": tensor}) == spelt_out(
        {"b.weight": tensor, "ä": tensor}
    )
    if kind != "bfloat16":
        assert digest_tensors({"w": tensor.detach().numpy()}) == digest_tensors({"w": tensor})


def test_what_differs_has_another_digest():
    tensor = torch.arange(6.0)
    others = [
        {"v": tensor},
        {"w": tensor.double()},
        {"w": tensor.reshape(2, 3)},
        {"w": tensor.flip(0)},
        {"w": tensor, "v": tensor},
        {"w": np.arange(6, dtype=np.int64)},
    ]
    found = {digest_tensors(one) for one in ({"w": tensor}, *others)}
    assert len(found) == 1 + len(others)
