"""Random training loops, as people write them, with the mean head gradient computed apart."""

import copy
import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import labelleak


@dataclass(frozen=True)
class Loop:
    """One loop, by what was drawn for it."""

    seed: int
    classes: int
    width: int
    order: str
    bias: bool
    activation: str
    dtype: str
    optimiser: str
    groups: str
    momentum: float
    dampening: float
    nesterov: bool
    weight_decay: float
    lr: float
    schedule: str
    steps: int
    rows: int
    last: int
    accumulation: int
    divided: bool
    reduction: str
    smoothing: float
    weighted: bool
    ignored: bool
    loss: str
    scaler: str
    clip: bool
    odd: str


def draw_loop(seed):
    """Draw a loop; what is common in practice is drawn often."""
    rng = np.random.default_rng(seed)

    def pick(*choices, often=None, share=0.6):
        return (
            often
            if often is not None and rng.random() < share
            else choices[rng.integers(len(choices))]
        )

    optimiser = pick(
        "hand", "hand_data", "adam", "adamw", "rmsprop", "adagrad", "lars", often="sgd", share=0.7
    )
    momentum = pick(0.5, 0.9, often=0.0, share=0.5) if optimiser == "sgd" else 0.0
    nesterov = bool(momentum and rng.random() < 0.3)
    dampening = 0.0 if nesterov or not momentum else pick(0.3, often=0.0, share=0.8)
    dtype = pick("float64", "bfloat16", often="float32")
    scaler = pick("grad_scaler", "by_hand", "skipped", often="none", share=0.75)
    rows = int(pick(2, 3, 8, 16, 21, 32))
    return Loop(
        seed=seed,
        classes=int(pick(2, 3, 5, 10, 20)),
        width=int(pick(4, 8, 16)),
        order=pick("head_first", "projection_after", "embedding_last", often="plain", share=0.5),
        bias=rng.random() < 0.75,
        activation=pick("relu", "tanh"),
        dtype=dtype,
        optimiser=optimiser,
        groups=pick("no_decay_on_bias", "head_apart", "two_optimisers", "head_only", often="one"),
        momentum=momentum,
        dampening=dampening,
        nesterov=nesterov,
        weight_decay=pick(1e-4, 5e-4, often=0.0) if optimiser == "sgd" else 0.0,
        lr=float(pick(0.02, 0.05, 0.1)),
        schedule=pick("step", "cosine", "warmup", often="constant")
        if optimiser == "sgd"
        else "constant",
        steps=int(pick(1, 2, 3, 5)),
        rows=rows,
        last=int(pick(max(1, rows // 2), 1, often=rows, share=0.8)),
        accumulation=int(pick(2, 4, often=1)),
        divided=bool(rng.random() < 0.7),
        reduction=pick("sum", often="mean", share=0.8),
        smoothing=float(pick(0.1, 0.3, often=0.0, share=0.8)),
        weighted=bool(rng.random() < 0.15),
        ignored=bool(rng.random() < 0.15),
        loss=pick(
            "focal", "bce", "mse", "temperature", "penalty", often="cross_entropy", share=0.9
        ),
        scaler=scaler,
        clip=bool(rng.random() < 0.15),
        odd=pick(
            "evaluation",
            "checkpoint",
            "twice",
            "kept_momentum",
            "noise",
            "weight_norm",
            "zero_late",
            "tokens",
            "dict",
            often="",
            share=0.6,
        ),
    )


class Net(nn.Module):
    """A body and a head, defined in any order; what it returns may be a dict."""

    def __init__(self, loop):
        super().__init__()
        self.loop = loop
        head = nn.Linear(loop.width, loop.classes, bias=loop.bias)
        if loop.odd == "weight_norm":
            head = nn.utils.parametrizations.weight_norm(head)
        parts = {"body": nn.Linear(6, loop.width), "fc": head}
        extra = {
            "projection_after": {"projection": nn.Linear(loop.width, loop.classes)},
            "embedding_last": {"embedding": nn.Embedding(loop.classes, loop.width)},
        }.get(loop.order, {})
        if loop.order == "head_first":
            parts = {"fc": parts["fc"], "body": parts["body"]}
        for name, part in (parts | extra).items():
            setattr(self, name, part)

    def forward(self, x):
        act = torch.relu if self.loop.activation == "relu" else torch.tanh
        h = act(self.body(x))
        if self.loop.odd == "checkpoint":
            z = checkpoint(self.fc, h, use_reentrant=False)
        else:
            z = self.fc(h)
        return {"logits": z, "features": h} if self.loop.odd == "dict" else z


class Lars(torch.optim.Optimizer):
    """An optimiser of a user's own."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    trust = p.norm() / (p.grad.norm() + 1e-9) if p.dim() > 1 else 1.0
                    p -= group["lr"] * trust * p.grad


@dataclass
class Result:
    """What a loop did, apart from what was captured.

    Attributes:
        mean: head gradient of the mean loss, averaged over steps, by parameter.
        replayed: the same, weighted as the optimiser's arithmetic weighs steps; None where the
            optimiser is not linear.
        labels: labels of all rows that took part, sorted.
        counts: their number by step.
        captured: labelleak's capture.
        rounding: what float rounding of the weights leaves of the update, relative.
    """

    mean: dict
    replayed: dict | None
    labels: list
    counts: list
    captured: object
    rounding: float


def run_loop(loop):
    """Run a loop under `labelleak.capture`, and compute the gradients apart."""
    torch.manual_seed(loop.seed)
    kind = torch.float64 if loop.dtype == "float64" else torch.float32
    model = Net(loop).to(kind)
    if loop.groups == "head_only":
        for parameter in model.body.parameters():
            parameter.requires_grad_(False)
    rng = np.random.default_rng(loop.seed + 1)
    opts = _optimisers(loop, model)
    if loop.odd == "kept_momentum":
        _one_step(loop, model, opts, _batches(loop, rng, kind, loop.rows), _Reference(loop), 0)
    record = _Reference(loop)
    with labelleak.capture(model) as captured:
        for step in range(loop.steps):
            rows = loop.last if step == loop.steps - 1 else loop.rows
            _one_step(loop, model, opts, _batches(loop, rng, kind, rows), record, step)
            if loop.odd == "evaluation":
                with torch.set_grad_enabled(bool(rng.random() < 0.5)):
                    model(torch.rand(50, 6, dtype=kind))
    largest = max(float(v.abs().max()) for n, v in captured.before.items() if n.startswith("fc."))
    moved = [
        float((captured.after[n] - captured.before[n]).abs().max())
        for n in captured.before
        if n.startswith("fc.")
    ]
    rounding = 8 * torch.finfo(kind).eps * largest / max(min(moved, default=0.0), 1e-30)
    return Result(
        record.mean(), record.replayed(), sorted(record.labels), record.counts, captured, rounding
    )


def _optimisers(loop, model):
    own = [p for p in model.parameters() if p.requires_grad]
    made = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "rmsprop": torch.optim.RMSprop,
        "adagrad": torch.optim.Adagrad,
        "lars": Lars,
    }
    if loop.optimiser.startswith("hand"):
        return []
    if loop.optimiser in made:
        return [made[loop.optimiser](own, lr=loop.lr)]
    options = {
        "lr": loop.lr,
        "momentum": loop.momentum,
        "dampening": loop.dampening,
        "nesterov": loop.nesterov,
        "weight_decay": loop.weight_decay,
    }
    head = list(model.fc.parameters())
    rest = [p for p in own if all(p is not q for q in head)]
    if loop.groups == "no_decay_on_bias":
        groups = [
            {"params": [p for p in own if p.dim() > 1]},
            {"params": [p for p in own if p.dim() == 1], "weight_decay": 0.0},
        ]
        return [torch.optim.SGD([g for g in groups if g["params"]], **options)]
    if loop.groups == "head_apart":
        return [torch.optim.SGD([{"params": rest, "lr": 1e-3}, {"params": head}], **options)]
    if loop.groups == "two_optimisers":
        return [torch.optim.SGD(rest, lr=1e-3), torch.optim.SGD(head, **options)]
    return [torch.optim.SGD(own, **options)]


def _batches(loop, rng, kind, rows):
    """Draw the micro-batches of one step."""
    batches = []
    for _ in range(loop.accumulation):
        shape = (rows, 4) if loop.odd == "tokens" else (rows,)
        x = torch.from_numpy(rng.random((*shape, 6))).to(kind)
        y = torch.from_numpy(rng.integers(0, loop.classes, shape))
        if loop.ignored and loop.loss == "cross_entropy":
            y[torch.from_numpy(rng.random(shape) < 0.3)] = -100
            y.view(-1)[0] = 0
        batches.append((x, y))
    return batches


def _weights(loop, like):
    if not (loop.weighted and loop.loss == "cross_entropy"):
        return None
    return torch.linspace(0.5, 2, loop.classes, dtype=like.dtype)


def _loss(loop, model, x, y):
    """Compute the loss of a loop, its reduction as drawn."""
    out = model(x)
    z = out["logits"] if isinstance(out, dict) else out
    z, y = z.reshape(-1, loop.classes), y.reshape(-1)
    if loop.loss == "bce":
        return F.binary_cross_entropy_with_logits(z, F.one_hot(y, loop.classes).to(z))
    if loop.loss == "mse":
        return F.mse_loss(z, F.one_hot(y, loop.classes).to(z))
    if loop.loss == "focal":
        logs = F.cross_entropy(z, y, reduction="none")
        return ((1 - torch.exp(-logs)) ** 2 * logs).mean()
    if loop.loss == "temperature":
        return F.cross_entropy(z / 2, y)
    loss = F.cross_entropy(
        z, y, weight=_weights(loop, z), label_smoothing=loop.smoothing, reduction=loop.reduction
    )
    if loop.loss == "penalty":
        loss = loss + 0.05 * (model.fc.weight**2).sum()
    return loss


def _one_step(loop, model, opts, batches, record, step):
    """Take one optimiser step as the loop would."""
    head = list(model.fc.parameters())
    rate = (
        loop.lr
        * {
            "constant": 1.0,
            "step": 0.5 ** (step // 2),
            "cosine": 0.5 * (1 + np.cos(np.pi * step / 6)),
            "warmup": (step + 1) / 5,
        }[loop.schedule]
    )
    for opt in opts:
        for group in opt.param_groups:
            if any(p is q for p in group["params"] for q in head):
                group["lr"] = rate
    if loop.scaler == "skipped":
        _backward(loop, model, *batches[0], float("inf"))
        _zero(model)
    if loop.odd != "zero_late":
        _zero(model)
    times = 65536.0 if loop.scaler == "by_hand" else 1.0
    scaler = (
        torch.amp.GradScaler("cpu", init_scale=1024.0) if loop.scaler == "grad_scaler" else None
    )
    over = 1.0 / loop.accumulation if loop.divided else 1.0
    record.start(model)
    for x, y in batches:
        record.add(x, y)
        _backward(loop, model, x, y, over * (scaler.get_scale() if scaler else times))
    if scaler is not None:
        for p in model.parameters():
            if p.grad is not None:
                p.grad /= scaler.get_scale()
    clipped = 1.0
    if times != 1.0:
        for p in model.parameters():
            if p.grad is not None:
                p.grad /= times
    if loop.clip:
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), 0.2))
        clipped = min(1.0, 0.2 / (norm + 1e-6))
    if loop.odd == "noise":
        for p in model.parameters():
            if p.grad is not None:
                p.grad += 0.1 * p.grad.abs().max() * torch.randn_like(p.grad)
    record.step(rate, over * clipped)
    for opt in opts:
        opt.step()
    if loop.optimiser.startswith("hand"):
        with torch.no_grad():
            for p in model.parameters():
                if p.grad is None:
                    continue
                if loop.optimiser == "hand":
                    p -= rate * p.grad
                else:
                    p.data = p.data - rate * p.grad
    if loop.odd == "zero_late":
        _zero(model)


def _zero(model):
    for p in model.parameters():
        p.grad = None


def _backward(loop, model, x, y, times):
    half = loop.dtype == "bfloat16"
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        loss = _loss(loop, model, x, y) * times
    if loop.odd == "twice":
        (0.25 * loss).backward(retain_graph=True)
        (0.75 * loss).backward()
    else:
        loss.backward()


class _Reference:
    """The head gradient of each step's mean loss, on a copy of the model in float64."""

    def __init__(self, loop):
        self.loop = loop
        self.gradients, self.rates, self.factors = [], [], []
        self.labels, self.counts = [], []

    def start(self, model):
        self.model = copy.deepcopy(model).double()
        plain = {"scaler": "none", "dtype": "float64", "odd": ""}
        self.model.loop = dataclasses.replace(self.loop, **plain)
        self.batches = []

    def add(self, x, y):
        self.batches.append((x.double(), y))

    def step(self, rate, factor):
        loop = self.loop
        kept = [y[y >= 0].reshape(-1) for _, y in self.batches]
        self.labels += [int(v) for y in kept for v in y]
        self.counts.append(sum(len(y) for y in kept))
        self.model.zero_grad()
        total = sum(_loss(self.model.loop, self.model, x, y) for x, y in self.batches)
        if loop.reduction == "sum" and loop.loss in ("cross_entropy", "penalty"):
            weights = _weights(loop, torch.zeros(1, dtype=torch.float64))
            over = float(sum(len(y) if weights is None else weights[y].sum() for y in kept))
        else:
            over = float(len(self.batches))
        total.backward()
        named = dict(self.model.fc.named_parameters())
        self.gradients.append({n: p.grad / over for n, p in named.items() if p.grad is not None})
        self.rates.append(rate)
        self.factors.append(factor * over)

    def mean(self):
        names = self.gradients[0]
        return {n: torch.stack([g[n] for g in self.gradients]).mean(0) for n in names}

    def replayed(self):
        """Weigh steps as torch's SGD does, by running it on unit gradients."""
        loop = self.loop
        if loop.optimiser not in ("sgd", "hand", "hand_data"):
            return None
        unit = torch.zeros(loop.steps, dtype=torch.float64, requires_grad=True)
        sgd = torch.optim.SGD(
            [unit], lr=1.0, momentum=loop.momentum, dampening=loop.dampening, nesterov=loop.nesterov
        )
        for step, (rate, factor) in enumerate(zip(self.rates, self.factors, strict=True)):
            sgd.param_groups[0]["lr"] = rate
            unit.grad = torch.zeros_like(unit)
            unit.grad[step] = factor
            sgd.step()
        weights = -unit.detach() / -unit.detach().sum()
        names = self.gradients[0]
        return {
            n: sum(w * g[n] for w, g in zip(weights, self.gradients, strict=True)) for n in names
        }
