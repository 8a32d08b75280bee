"""Head gradients of any batch in closed form, from one pass of each sample through the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelleak.core.knowledge import LabelledData
from labelleak.core.lazy import Tensor, torch
from labelleak.core.observation import Observation
from labelleak.core.white_box import HeadPass, WhiteBox

# Bytes of head inputs that one slice of trials may take up: some that stay in the cache.
_SLICE_BYTES = 2**20


@dataclass(frozen=True, eq=False)
class HeadTable:
    """Head inputs and posteriors of every sample of a data set, kept from one pass.

    With cross-entropy, mean reduction and a forward pass that treats each sample alone, the
    head gradient of a batch is ``mean_k (p_k - e_{y_k}) h_k^T`` and its bias gradient
    ``mean_k (p_k - e_{y_k})``: rows of this table, so no batch needs a pass of its own.

    Attributes:
        inputs: h, ``n x D``.
        errors: p - e_y, ``n x K``.
        has_bias: whether the head has a bias.
    """

    inputs: Tensor
    errors: Tensor
    has_bias: bool

    @classmethod
    def build(cls, model: WhiteBox, data: LabelledData) -> HeadTable:
        """Pass the data through the model once."""
        bias = model.head_bias
        shared = bias is not None and bias.requires_grad
        return cls.of_pass(model.run_all(data.inputs), data.labels, shared)

    @classmethod
    def of_pass(cls, seen: HeadPass, labels: Tensor, has_bias: bool) -> HeadTable:
        """Keep a pass that was already made."""
        errors = seen.probabilities.clone()
        if labels.dim() > 1:  # several labels: absent and present, class after class
            errors -= torch.stack((1 - labels, labels), -1).flatten(1)
        else:
            errors[torch.arange(len(labels)), labels] -= 1.0
        return cls(seen.inputs, errors, has_bias)

    def gradients(self, batches: np.ndarray) -> Observation:
        """Return the head gradients of ``T x B`` batches, all at once.

        >>> model = torch.nn.Linear(3, 2)
        >>> data = LabelledData(torch.rand(5, 3), torch.tensor([0, 1, 0, 1, 1]))
        >>> batches = np.array([[0, 1], [2, 4]])
        >>> fast = HeadTable.build(WhiteBox(model, ""), data).gradients(batches)
        >>> tuple(fast.weight.shape), fast.num_samples
        ((2, 2, 3), 2)
        """
        picks = torch.from_numpy(batches)
        trials, size = batches.shape
        classes, width = self.errors.shape[1], self.inputs.shape[1]
        scaled = self.errors / size
        weight = self.inputs.new_empty(trials, classes, width)
        bias = self.errors.new_empty(trials, classes)
        # Fresh memory costs more than the arithmetic: one buffer serves every slice, and the
        # products go where they stay.
        slices = max(1, min(trials, _SLICE_BYTES // (4 * width * size)))
        buffer = self.inputs.new_empty(slices * size, width)
        for start in range(0, trials, slices):
            part = picks[start : start + slices]
            held = buffer[: part.numel()]
            torch.index_select(self.inputs, 0, part.flatten(), out=held)
            errors = torch.index_select(scaled, 0, part.flatten()).view(len(part), size, classes)
            rows = slice(start, start + len(part))
            torch.bmm(errors.transpose(1, 2), held.view(len(part), size, width), out=weight[rows])
            torch.sum(errors, dim=1, out=bias[rows])
        shared = bias if self.has_bias else None
        return Observation.from_gradient(weight, shared, num_samples=size)
