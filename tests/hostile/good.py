"""Good files by safetensors, numpy and torch, with random names, dtypes, shapes and metadata."""

import io
import random
from collections import OrderedDict

import numpy as np
import safetensors.torch
import torch

SIGNS = "abcXYZ019_.-/ äß漢字🙂éλ:|@#$%()[]{}'\"\\"
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def _name(chance: random.Random) -> str:
    if chance.random() < 0.5:
        return f"layer{chance.randrange(99)}.{chance.choice(['weight', 'bias', 'running_mean'])}"
    return "".join(chance.choices(SIGNS, k=chance.choice([1, 3, 10, 40, 200]))).strip() or "x"


def _tensor(chance: random.Random, dtypes: tuple[torch.dtype, ...]) -> torch.Tensor:
    shape = [chance.choice([0, 1, 1, 2, 3, 7]) for _ in range(chance.randrange(6))]
    dtype = chance.choice(dtypes)
    drawn = torch.randint(-100 if dtype.is_signed else 0, 100, shape)
    return drawn.to(dtype)


def draw(seed: int) -> tuple[str, dict[str, torch.Tensor], bytes]:
    """Draw a file: its ending, what must be read, and its bytes."""
    chance = random.Random(seed)
    torch.manual_seed(seed)
    kind = ("safetensors", "npz", "pt")[seed % 3]
    dtypes = FLOATS + WHOLE if kind != "npz" else FLOATS[:3] + WHOLE
    tensors = {_name(chance): _tensor(chance, dtypes) for _ in range(chance.choice([1, 2, 5, 30]))}
    if kind == "safetensors":
        metadata = {_name(chance): _name(chance) for _ in range(chance.randrange(4))}
        return kind, tensors, safetensors.torch.save(tensors, metadata or None)
    buffer = io.BytesIO()
    if kind == "npz":
        save = np.savez if chance.random() < 0.7 else np.savez_compressed
        tensors = {name: value for name, value in tensors.items() if name != "file"}
        save(buffer, **{name: value.numpy() for name, value in tensors.items()})
    else:
        state = OrderedDict(tensors) if chance.random() < 0.5 else tensors
        if isinstance(state, OrderedDict) and chance.random() < 0.5:
            state._metadata = OrderedDict({"": {"version": 1}})
        torch.save({"state_dict": state, "epoch": 3} if chance.random() < 0.3 else state, buffer)
    return kind, tensors, buffer.getvalue()
