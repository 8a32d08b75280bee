"""Every form of an update leads to the observation that PyTorch's own form leads to."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import labelleak
from labelleak.cli import main
from labelleak.core.head import locate_head
from labelleak.core.training import LocalTraining
from labelleak.errors import BadInput
from labelleak.files.update import gather_update

N, LR = 12, 0.2


@dataclass(frozen=True)
class Step:
    before: dict
    after: dict
    gradient: dict
    truth: list

    @property
    def difference(self):
        return {n: self.after[n] - self.before[n] for n in self.before}


@pytest.fixture(scope="module")
def step():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 5))
    x, y = torch.randn(N, 6), torch.arange(N) % 3
    nn.functional.cross_entropy(model(x), y).backward()
    before = {n: p.detach().clone().double() for n, p in model.named_parameters()}
    gradient = {n: p.grad.clone().double() for n, p in model.named_parameters()}
    after = {n: before[n] - LR * gradient[n] for n in before}
    return Step(before, after, gradient, torch.bincount(y, minlength=5).tolist())


def turned(tensors):
    return {n: t.T.contiguous() if t.dim() == 2 else t for n, t in tensors.items()}


def keras_list(tensors):
    return [t.numpy() for t in turned(tensors).values()]


def flax(tensors):
    layers = {}
    for name, tensor in turned(tensors).items():
        layer, _, part = name.partition(".")
        part = "kernel" if part == "weight" else part
        layers.setdefault(f"Dense_{int(layer) // 2}", {})[part] = tensor.numpy()
    return {"params": layers}


def renamed(prefix):
    return lambda tensors: {prefix + n: t for n, t in tensors.items()}


def peft(tensors):
    """Names as in an adapter that PEFT saved with the head in modules_to_save."""
    saved = {
        f"base_model.model.layer.{n}.lora_{n2}.weight": torch.ones(2, 2) + i
        for i, (n, n2) in enumerate((("q", "A"), ("q", "B"), ("v", "A"), ("v", "B")))
    }
    return saved | {
        f"base_model.model.classifier.{n[2:]}": tensors[n] for n in ("4.weight", "4.bias")
    }


def with_buffers(tensors):
    odd = {"mask": torch.full((3, 3), -torch.inf), "bn.running_mean": torch.full((4,), torch.nan)}
    return tensors | odd | {"seen": torch.tensor(7), "bool": torch.ones(3, 3, dtype=torch.bool)}


FORMS = {
    "numpy": lambda t: {n: v.numpy() for n, v in t.items()},
    "list of numpy": lambda t: [v.numpy() for v in t.values()],
    "tuple of tensors": lambda t: tuple(t.values()),
    "keras list": keras_list,
    "keras tuple": lambda t: tuple(keras_list(t)),
    "keras archive": lambda t: {f"arr_{i}": v for i, v in enumerate(keras_list(t))},
    "keras names": lambda t: {
        f"dense_{n[0]}/{n[2:].replace('weight', 'kernel')}:0": v.numpy()
        for n, v in turned(t).items()
    },
    "flax": flax,
    "DataParallel": renamed("module."),
    "compiled": renamed("_orig_mod."),
    "Lightning": renamed("model."),
    "PEFT": peft,
    "buffers": with_buffers,
}


def seen_in(**sides):
    update = gather_update(**sides)
    return update.observe(locate_head(update.tensors, before=update.before).name)


def told(**more):
    return LocalTraining(batch_size=N, **more)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_row_sums_and_answers(step, form):
    as_form = FORMS[form]
    expected = seen_in(before=step.before, after=step.after, made=told(lr=LR))
    forms = [
        {"before": as_form(step.before), "after": as_form(step.after), "made": told(lr=LR)},
        {"gradient": as_form(step.gradient), "made": told()},
        {"difference": as_form(step.difference), "made": told(lr=LR)},
        {
            "before": as_form(step.before),
            "difference": as_form(step.difference),
            "made": told(lr=LR),
        },
    ]
    for sides in forms:
        seen = seen_in(**sides)
        assert seen.row_sums == pytest.approx(expected.row_sums, abs=1e-6)
        assert seen.bias_gradient == pytest.approx(expected.bias_gradient, abs=1e-6)
        assert seen.num_samples == N
        report = labelleak.attack_update(**sides, truth=step.truth, attacks=["llg", "llbg"])
        assert [r.counts for r in report.results] == [
            r.counts
            for r in labelleak.attack_update(
                gradient=step.gradient, made=told(), attacks=["llg", "llbg"]
            ).results
        ]


@pytest.mark.parametrize("wrap", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_one_side_may_be_wrapped(step, wrap):
    for sides in (
        (step.before, renamed(wrap)(step.after)),
        (renamed(wrap)(step.before), step.after),
    ):
        seen = seen_in(before=sides[0], after=sides[1], made=told(lr=LR))
        assert seen.row_sums == pytest.approx(step.gradient["4.weight"].sum(1).numpy(), abs=1e-6)


def test_a_head_is_found_by_any_of_its_names(step):
    for head in ("4", "module.4", "4.weight", "4/kernel"):
        report = labelleak.attack_update(
            gradient=step.gradient, made=told(), attacks=["llg"], head=head
        )
        assert report.head == "4"


def test_a_model_takes_the_weights_that_its_wrapper_saved(step):
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 5))
    model.load_state_dict(step.before)
    for head, how in ((None, "traced"), ("4", "named"), ("module.4", "named")):
        report = labelleak.attack_update(
            before=renamed("module.")(step.before),
            after=renamed("module.")(step.after),
            made=told(lr=LR),
            model=model,
            head=head,
            attacks=["llg"],
        )
        assert (report.head, report.head_found) == ("4", how)


def save_h5(path, arrays):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for layer, both in arrays["params"].items():
            for place, part in enumerate(("kernel", "bias")):
                file[f"layers/{layer}/vars/{place}"] = both[part]


def save_shards(path, tensors):
    files = {n: f"{path.stem}-0000{1 + (n > '3')}-of-00002.safetensors" for n in tensors}
    for file in set(files.values()):
        save_file({n: t for n, t in tensors.items() if files[n] == file}, path.parent / file)
    path.write_text(json.dumps({"metadata": {}, "weight_map": files}))


def save_archive(path, arrays):
    with path.open("wb") as file:
        np.savez(file, *arrays)


def save_lightning(path, tensors):
    optimiser = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
    rest = {"epoch": 3, "optimizer_states": [optimiser.state_dict()], "loops": {"fit": {}}}
    torch.save({**rest, "state_dict": renamed("model.")(tensors)}, path)


FILES = {
    "h5": lambda path, t: save_h5(path, flax(t)),
    "shards": save_shards,
    "Lightning": save_lightning,
    "checkpoint": lambda path, t: torch.save(
        {"epoch": 1, "net": t, "optimizer": {"state": {}}}, path
    ),
    "list with None": lambda path, t: torch.save([None, None, *list(t.values())[2:]], path),
    "dict with None": lambda path, t: torch.save({**t, "0.weight": None, "0.bias": None}, path),
    "keras archive": lambda path, t: save_archive(path, keras_list(t)),
    "buffers": lambda path, t: torch.save(with_buffers(t), path),
}


@pytest.mark.parametrize("form", FILES)
def test_every_file_gives_the_same_row_sums(step, tmp_path, form):
    for side in ("before", "after", "gradient", "difference"):
        FILES[form](tmp_path / side, getattr(step, side))
    pair = seen_in(before=tmp_path / "before", after=tmp_path / "after", made=told(lr=LR))
    expected = step.gradient["4.weight"].sum(1).numpy()
    for seen in (
        pair,
        seen_in(gradient=str(tmp_path / "gradient"), made=told()),
        seen_in(difference=tmp_path / "difference", made=told(lr=LR)),
    ):
        assert seen.row_sums == pytest.approx(expected, abs=1e-6)


def test_one_shard_is_no_model(step, tmp_path):
    save_shards(tmp_path / "m", step.gradient)
    for number in (1, 2):
        with pytest.raises(BadInput, match="one of several files of a model; give their index"):
            gather_update(gradient=tmp_path / f"m-0000{number}-of-00002.safetensors")
    update = gather_update(gradient=tmp_path / "m-00002-of-00002.safetensors", head="4")
    assert set(update.tensors) == {"4.weight", "4.bias"}


def test_a_difference_undoes_what_needs_no_weights(step):
    plain = told(lr=LR, momentum=0.9, local_steps=3)
    pair = seen_in(before=step.before, after=step.after, made=plain)
    alone = seen_in(difference=step.difference, made=plain)
    assert alone.row_sums == pytest.approx(pair.row_sums, abs=1e-9)
    decayed = told(lr=LR, weight_decay=0.1)
    with pytest.raises(BadInput, match="cannot be taken out of a difference alone"):
        seen_in(difference=step.difference, made=decayed)
    both = seen_in(before=step.before, difference=step.difference, made=decayed)
    pair = seen_in(before=step.before, after=step.after, made=decayed)
    assert both.row_sums == pytest.approx(pair.row_sums, abs=1e-9)
    with pytest.raises(BadInput, match=r"the difference of '4.bias' does not fit"):
        gather_update(before=step.before, difference={"4.bias": torch.ones(3)})


def test_a_difference_of_parts_does_not_tell_the_weight(step):
    parts = {"fc.weight_g": torch.ones(4, 1), "fc.weight_v": torch.rand(4, 3)}
    update = gather_update(difference=parts)
    with pytest.raises(BadInput, match="weight-normed"):
        locate_head(update.tensors, before=update.before)


def test_weights_that_did_not_change_are_said_to_tell_nothing(step):
    made = told(lr=LR)
    report = labelleak.attack_update(
        before=step.before, after=step.before, made=made, head="4", attacks=["llg"]
    )
    assert any("the head did not change at all" in note for note in report.notes)
    report = labelleak.attack_update(
        before=step.before, after=step.after, made=made, attacks=["llg"]
    )
    assert not report.notes


def test_one_form_at_a_time(step):
    gradient, difference = step.gradient, step.difference
    for sides in (
        {},
        {"before": step.before},
        {"gradient": gradient, "difference": difference},
        {"before": step.before, "after": step.after, "difference": difference},
    ):
        with pytest.raises(BadInput, match="give the update in one form"):
            gather_update(**sides)


def test_the_number_of_samples_may_be_told_in_all(step):
    made = LocalTraining(local_steps=5)
    report = labelleak.attack_update(
        gradient=step.gradient, made=made, num_samples=71, attacks=["llg"], truth=[71, 0, 0, 0, 0]
    )
    assert report.num_samples == sum(report.results[0].counts) == 71
    (record,) = report.records()
    assert (record.num_samples, record.local_steps) == (71, 5)
    with pytest.raises(BadInput, match="give `num_samples` or `batch_size`, not both"):
        gather_update(gradient=step.gradient, made=told(), num_samples=71)


def test_the_command_line_takes_them_too(step, tmp_path, monkeypatch, capsys):
    save_archive(
        tmp_path / "d.npz", [t.numpy() for t in list(turned(step.difference).values())[4:5]]
    )
    command = ["labelleak", "attack", "--difference", str(tmp_path / "d.npz"), "--lr", str(LR)]
    command += ["--num-samples", str(N), "--attacks", "llg", "--json"]

    def run(*more):
        monkeypatch.setattr("sys.argv", [*command, *more])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr()

    status, shown = run()
    assert status == 2
    assert "say it with --layout: torch or keras" in shown.err
    status, shown = run("--layout", "keras")
    assert not status
    told = json.loads(shown.out)
    assert (told["head"], told["num_classes"], told["num_samples"]) == ("0", 5, N)
    status, shown = run("--layout", "keras", "--batch-size", "3")
    assert status == 2
    assert "give --num-samples or --batch-size, not both" in shown.err


def test_only_the_head_must_be_finite(step):
    body = step.gradient | {"0.weight": torch.full((9, 6), torch.nan)}
    report = labelleak.attack_update(gradient=body, made=told(), attacks=["llg"])
    assert report.head == "4"
    head = step.gradient | {"4.weight": torch.full((5, 9), torch.inf)}
    with pytest.raises(BadInput, match="NaN or infinite"):
        labelleak.attack_update(gradient=head, made=told(), attacks=["llg"], head="4")
