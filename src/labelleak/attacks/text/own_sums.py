"""What the head shows of the attacker's own text, summed token by token in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from labelleak.core.counts import Floats
from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import F, Tensor, nn, torch
from labelleak.core.task import NO_LABEL
from labelleak.core.white_box import WhiteBox
from labelleak.errors import NotApplicable

# Labels of own text that are passed at most; more only cost.
MOST_LABELS = 100_000
# Above so many entries sums are held in single precision.
_LARGE = 2**24
# A token's posteriors are taken to follow its labels as much as these many labels' worth do not.
_DOUBT = 5.0
# A share of a sum of squares that rounding in single precision leaves.
_ROUNDING = 1e-6
# Labels whose inputs are kept as they are.
_KEPT = 6000
# Labels whose texts are looked at together.
_TOGETHER = 1024


# What labels leave ``n x D``, head inputs ``n x D``, probabilities ``n x K``, labels ``n``, and the
# text that each stands in, in order.
Pass = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


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
        beyond: the same of what a label leaves beyond h, where the head is tied.
        beside: sum over a token's labels of the mean of p_v h over their texts, ``K x D``.
        chances_beside: sum over a token's labels of the mean of p_v over their texts, K numbers.
        pairs: sum over a token's labels of its share of the labels of their texts, K numbers.
        texts: sum over a token's labels of what share of its text each is, K numbers; they sum
            to how many texts there are.
        kept: what some labels leave as it is, with the labels and a number for each text.
    """

    seen: Floats
    inputs: Tensor
    weighted: Tensor
    chances: Floats
    squares: Floats
    second: Tensor
    size: float
    beyond: float
    beside: Tensor
    chances_beside: Floats
    pairs: Floats
    texts: Floats
    kept: tuple[tuple[Tensor, Tensor, Tensor], ...] = ()

    @classmethod
    def of(cls, passes: Iterable[Pass], num_classes: int) -> OwnSums:
        """Add up passes.

        Raises:
            NotApplicable: if there is no label in them.
        """
        found: OwnSums | None = None
        for one in passes:
            if found is None:
                found = cls._empty(num_classes, one[1].shape[1])
            found = found._with(*one)
        if found is None or not found.total:
            raise NotApplicable("own data without a single label show nothing")
        total = found.total
        means = ("weighted", "chances", "squares", "second", "size", "beyond")
        return replace(found, **{name: getattr(found, name) / total for name in means})

    @classmethod
    def _empty(cls, classes: int, width: int) -> OwnSums:
        kind = torch.float64 if classes * width <= _LARGE else torch.float32
        inputs, weighted, beside = (torch.zeros(classes, width, dtype=kind) for _ in range(3))
        seen, chances, squares, more, pairs, texts = np.zeros((6, classes))
        second = torch.zeros(width, width, dtype=torch.float64)
        sums = seen, inputs, weighted, chances, squares, second
        return cls(*sums, 0.0, 0.0, beside, more, pairs, texts)

    def _with(
        self, left: Tensor, inputs: Tensor, chances: Tensor, labels: Tensor, texts: Tensor
    ) -> OwnSums:
        """Add one pass, in place where memory would double."""
        beside = self._beside(inputs, chances, labels, texts)
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
            self.beyond + float((left - inputs).double().square().mean(1).sum()),
            self.beside,
            *beside,
            self._keeping(left, labels, texts),
        )

    def _keeping(
        self, left: Tensor, labels: Tensor, texts: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
        """Keep some of a pass; texts of another have other numbers."""
        room = _KEPT - self.total
        if room <= 0:
            return self.kept
        return (*self.kept, (left[:room], labels[:room], texts[:room] + self.total))

    def _beside(
        self, inputs: Tensor, chances: Tensor, labels: Tensor, texts: Tensor
    ) -> tuple[Floats, Floats, Floats]:
        """Add what stands in the texts of each label, a few whole texts at a time."""
        sums = [self.chances_beside, self.pairs, self.texts]
        at, ends = 0, torch.cumsum(torch.unique_consecutive(texts, return_counts=True)[1], 0)
        while at < len(labels):
            held = ends[ends <= at + _TOGETHER]
            end = int(held[-1]) if len(held) and held[-1] > at else int(ends[ends > at][0])
            # Of a text that is longer than that, some labels at a time are held against all.
            for some in torch.split(torch.arange(at, end), _TOGETHER):
                own, ids = labels[some], texts[at:end, None]
                part = (ids == texts[some]).to(chances.dtype)
                part /= part.sum(0)
                # Each column has the chances of a label's token over the places of its text.
                there = chances[at:end].index_select(1, own) * part
                self.beside.index_add_(0, own, (there.mT @ inputs[at:end]).to(self.beside.dtype))
                again = (labels[at:end, None] == own) * part
                found = (there.sum(0), again.sum(0), part.amax(0))
                sums = [
                    old + np.bincount(own.numpy(), one.double().numpy(), len(self.seen))
                    for old, one in zip(sums, found, strict=True)
                ]
            at = end
        return sums[0], sums[1], sums[2]

    @cached_property
    def follows(self) -> tuple[Tensor, Floats]:
        """Return how much each label more than usual adds to the posteriors of its token.

        A text in which a token stands often has higher chances of it throughout, in a model that
        has learnt. This is the regression of ``sum_j p_jv h_j``, and of ``sum_j p_jv``, on the
        count of v, text by text, less what both have in common with how long a text is. A text's
        sums vary as its length does, so it weighs 1 over that; then what is divided by is a sum of
        squares, ``(c_t - f_v L_t)^2 / L_t`` of text t, and never near 0 or below.
        """
        squares = np.maximum(self.pairs - self.seen**2 / self.total, 0.0)
        most = squares + _DOUBT * self.texts.sum() / self.total
        # A token that all texts have alike, or the one text that there is, leaves but rounding.
        tells = squares > _ROUNDING * self.pairs
        seen = torch.from_numpy(self.seen)
        apart = self.beside.double() - seen[:, None] * self.weighted.double()
        apart[~torch.from_numpy(tells)] = 0.0
        alone = np.where(tells, self.chances_beside - self.seen * self.chances, 0.0)
        return apart / torch.from_numpy(most)[:, None], alone / most

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
    return inputs, inputs, chances, labels, _texts_of(part, len(labels))


def _texts_of(part: Knowledge, number: int) -> Tensor:
    """Return the text of each label; each its own where that is not known."""
    assert part.auxiliary is not None
    labels = part.auxiliary.labels
    held = torch.nonzero(labels.flatten() >= 0)[:, 0]
    if labels.dim() < 2 or len(held) != number:
        return torch.arange(number)
    return held // labels[0].numel()


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
    of = torch.nonzero(held)[:, 0] // labels.shape[1]
    return left, inputs, seen.probabilities.detach()[held].float(), labels.flatten()[held], of


def tied_embedding(model: WhiteBox) -> nn.Embedding | None:
    """Return the input embedding whose weight is the head's own; None where there is none.

    One that is frozen has no gradient, so the head's holds nothing of it.
    """
    weight = model.head_weight
    if not weight.requires_grad:
        return None
    tables = (one for one in model.module.modules() if isinstance(one, nn.Embedding))
    return next((one for one in tables if one.weight is weight), None)


__all__ = ["OwnSums", "pass_text", "tied_embedding"]
