"""Judge what labelleak says of a training loop: right, flagged, refused, or silently wrong."""

import tempfile
from pathlib import Path

import numpy as np

import labelleak
from labelleak.core.task import HeadForm, Task
from labelleak.errors import BadInput
from labelleak.files.update import gather_update
from loops.training_loops import run_loop

# Half precision rounds each row's gradient, which is up to 1, to 1/256.
CLOSE = {"float64": 1e-4, "float32": 1e-4, "bfloat16": 2e-2}
ROUNDING = {"float64": 1e-6, "float32": 1e-6, "bfloat16": 1e-2}
# What may be wrong under which flag; flags of steps and batch sizes excuse nothing.
EXCUSES = {
    "capture_doubtful": ("gradient", "update", "N", "head"),
    "not_cross_entropy": ("gradient", "update"),
    "adaptive_optimiser": ("update",),
    "learning_rate_unknown": ("update",),
}


def judge(loop):
    """Return right, flagged, refused or SILENT, and why."""
    result = run_loop(loop)
    with tempfile.TemporaryDirectory() as folder:
        try:
            saved = result.captured.save(Path(folder) / "update.safetensors")
            shared = result.captured.save_gradient(Path(folder) / "gradient.safetensors")
            told = labelleak.attack_update(update=saved, attacks=["llg"])
            direct = labelleak.attack_update(result.captured, attacks=["llg"])
            found = gather_update(update=saved)
            read = gather_update(gradient=shared)
        except BadInput as refusal:
            return "refused", str(refusal)
    if told.results[0].counts != direct.results[0].counts:
        return "SILENT", "the file and the capture differ"
    failed = {name for name, check in told.checked.items() if check["failed"]}
    wrong = _wrong(loop, result, found, read, told)
    excuses = sorted(failed & EXCUSES.keys())
    allowed = {what for flag in excuses for what in EXCUSES[flag]}
    excused = all(what.split(" ")[0] in allowed for what in wrong)
    if not wrong:
        return ("right, flagged" if excuses else "right"), ", ".join(excuses)
    return ("flagged" if excused else "SILENT"), f"{'; '.join(wrong)} {excuses}"


def _wrong(loop, result, found, read, told):
    """List what is not as it was computed apart."""
    wrong, tolerance = [], CLOSE[loop.dtype]
    gradient = read.observe(told.head)
    wrong += _apart("gradient", gradient, result.mean, tolerance + 1e-6, ROUNDING[loop.dtype])
    update = found.observe(told.head)
    replayed = result.mean if result.replayed is None else result.replayed
    # Weight decay is undone on the straight line from before to after.
    straight = 1e-3 if loop.weight_decay and loop.steps > 1 else 0.0
    wrong += _apart(
        "update", update, replayed, tolerance + result.rounding + straight, ROUNDING[loop.dtype]
    )
    if told.head != "fc":
        wrong.append(f"head {told.head}")
    if told.num_samples != sum(result.counts):
        wrong.append(f"N {told.num_samples}, not {sum(result.counts)}")
    if (found.training.local_steps or 1) != loop.steps:
        wrong.append(f"steps {found.training.local_steps}, not {loop.steps}")
    return wrong


def _apart(what, seen, expected, tolerance, rounding):
    wrong, expected = [], _lifted(expected, seen.num_classes)
    for part, value in (("weight", seen.weight), ("bias", seen.bias)):
        if value is None or part not in expected:
            if (value is None) != (part not in expected):
                wrong.append(f"{what} has no {part}")
            continue
        right = expected[part].numpy()
        left = float(np.abs(value.double().numpy() - right).max())
        error = left / max(float(np.abs(right).max()), 1e-30)
        # A head whose inputs are all zero has no gradient but rounding.
        if not (error <= tolerance or left < rounding):
            wrong.append(f"{what} {part} off by {error:.2g}")
    return wrong


def _lifted(expected, rows):
    """Return a gradient as attacks see it: a loss of one sigmoid a class has two rows for each."""
    weight, bias = expected.get("weight"), expected.get("bias")
    own = next((tuple(part.shape) for part in (weight, bias) if part is not None), ())
    if not own or rows != 2 * own[0]:
        return expected
    # A head that is rebuilt from its parts is compared by its bias alone.
    parts = HeadForm(Task.multilabel, own if weight is not None else (*own, 1)).lift(weight, bias)
    named = zip(("weight", "bias"), parts, strict=True)
    return {part: value for part, value in named if value is not None}
