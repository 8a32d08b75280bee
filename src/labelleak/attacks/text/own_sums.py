"""What the head shows of the attacker's own text, summed token by token in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from labelleak.core.counts import Floats
from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import F, Tensor, nn, torch
from labelleak.core.task import NO_LABEL
from labelleak.core.white_box import WhiteBox

# Labels of own text that are passed at most; more only cost.
MOST_LABELS = 100_000
# Above so many entries sums are held in single precision.
_LARGE = 2**24


# What labels leave ``n x D``, head inputs ``n x D``, probabilities ``n x K`` and labels ``n``.
Pass = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class OwnSums:
    """Means over the labels of own text.

    Attributes:
        seen: how often each token is a label, K numbers.
        inputs: sum of what each label leaves in its row, the head input before it, ``K x D``.
        weighted: mean over all labels of p_v h, ``K x D``.
        chances: mean of p_v, K numbers.
        squares: mean of p_v squared, K numbers.
        second: mean of the outer product of what a label leaves, ``D x D``.
        size: mean of ``|h|^2 / D``.
    """

    seen: Floats
    inputs: Tensor
    weighted: Tensor
    chances: Floats
    squares: Floats
    second: Tensor
    size: float

    @classmethod
    def of(cls, passes: Iterable[Pass], num_classes: int) -> OwnSums:
        """Add up passes."""
        found: OwnSums | None = None
        for left, inputs, chances, labels in passes:
            if found is None:
                found = cls._empty(num_classes, inputs.shape[1])
            found = found._with(left, inputs, chances, labels)
        assert found is not None
        total = found.seen.sum()
        return cls(
            found.seen,
            found.inputs,
            found.weighted / total,
            found.chances / total,
            found.squares / total,
            found.second / total,
            found.size / total,
        )

    @classmethod
    def _empty(cls, classes: int, width: int) -> OwnSums:
        kind = torch.float64 if classes * width <= _LARGE else torch.float32
        inputs, weighted = (torch.zeros(classes, width, dtype=kind) for _ in range(2))
        seen, chances, squares = (np.zeros(classes) for _ in range(3))
        second = torch.zeros(width, width, dtype=torch.float64)
        return cls(seen, inputs, weighted, chances, squares, second, 0.0)

    def _with(self, left: Tensor, inputs: Tensor, chances: Tensor, labels: Tensor) -> OwnSums:
        """Add one pass, in place where memory would double."""
        self.inputs.index_add_(0, labels, left.to(self.inputs.dtype))
        self.weighted.add_((chances.mT @ inputs).to(self.weighted.dtype))
        wide = left.double()
        return OwnSums(
            self.seen + np.bincount(labels.numpy(), minlength=len(self.seen)),
            self.inputs,
            self.weighted,
            self.chances + chances.sum(0).double().numpy(),
            self.squares + chances.square().sum(0).double().numpy(),
            self.second + wide.mT @ wide,
            self.size + float(inputs.double().square().mean(1).sum()),
        )

    @property
    def total(self) -> int:
        """How many labels there were."""
        return int(self.seen.sum())

    @property
    def middle(self) -> Tensor:
        """What a label leaves on average."""
        return self.inputs.sum(0).double() / self.total

    def within(self) -> Tensor:
        """Return the covariance of head inputs around their token's mean, ``D x D``.

        Drawn towards a round one by as many labels as there are dimensions.
        """
        rows = torch.from_numpy(self.seen > 0)
        means = self.inputs[rows].double()
        sizes = torch.from_numpy(self.seen[self.seen > 0])
        apart = self.second * self.total - (means / sizes[:, None]).mT @ means
        width = len(apart)
        freedom = max(self.total - len(sizes), 0)
        apart = (apart + apart.mT) / 2
        round_ = torch.eye(width, dtype=torch.float64) * self.spread
        return (apart + width * round_) / (freedom + width)

    @property
    def spread(self) -> float:
        """The variance of what a label leaves, averaged over its dimensions."""
        around = self.second - torch.outer(self.middle, self.middle)
        return max(float(around.trace()) / len(around), 1e-12)


def pass_text(known: Knowledge, num_classes: int) -> OwnSums:
    """Pass the attacker's own data through its model and add up what the head shows.

    Where the head is tied to the input embedding, its gradient holds that of the embedding, too.
    A label is the input of the next position, so what it leaves is its head input less the loss's
    gradient at the embedding of that position.
    """
    assert known.model is not None
    table = tied_embedding(known.model)
    passes = (
        _plain(part, number) if table is None else _tied(part, table)
        for number, part in enumerate(known.parts(MOST_LABELS))
    )
    return OwnSums.of(passes, num_classes)


def _plain(part: Knowledge, seed: int) -> Pass:
    seen, labels = part.pass_own(seed)
    inputs, chances = seen.inputs.detach().cpu().float(), seen.probabilities.detach().cpu().float()
    return inputs, inputs, chances, labels


def _tied(part: Knowledge, table: nn.Embedding) -> Pass:
    """Pass texts with the gradient at the embedding of the next position."""
    assert part.model is not None
    assert part.auxiliary is not None
    model, texts = part.model, part.auxiliary
    caught: list[Tensor] = []
    hook = table.register_forward_hook(lambda _m, _i, output: caught.append(output))
    try:
        seen = model.run(texts.inputs, grad=True)
    finally:
        hook.remove()
    labels = texts.labels
    loss = F.cross_entropy(seen.outputs, labels.clamp_min(NO_LABEL), reduction="sum")
    at_inputs = torch.autograd.grad(loss, caught[0])[0]
    after = torch.zeros_like(at_inputs)
    after[:, :-1] = at_inputs[:, 1:]
    follows = labels[:, :-1] == texts.inputs[:, 1:]
    after[:, :-1][~follows] = 0.0
    held = labels.flatten() >= 0
    inputs = seen.inputs.detach()[held].float()
    left = inputs - after.flatten(0, 1)[held].float()
    return left, inputs, seen.probabilities.detach()[held].float(), labels.flatten()[held]


def tied_embedding(model: WhiteBox) -> nn.Embedding | None:
    """Return the input embedding whose weight is the head's own; None where there is none."""
    weight = model.head_weight
    tables = (one for one in model.module.modules() if isinstance(one, nn.Embedding))
    return next((one for one in tables if one.weight is weight), None)


__all__ = ["OwnSums", "pass_text", "tied_embedding"]
