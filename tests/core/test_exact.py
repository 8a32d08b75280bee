"""Counts from the bias gradient: exact with the batch's own posteriors, unbiased with others'."""

import numpy as np
import torch
from torch.nn import functional as F

from labelleak.attacks.losses import recover_from_mean
from labelleak.audits.options import AuditOptions
from labelleak.audits.plan import plan_audit
from labelleak.audits.stage import train_stages


def test_counts_of_pixels_on_the_client_are_exact():
    """``counts = sum of posteriors - N g`` over the pixels that have a label: 1,000 batches."""
    rng = np.random.default_rng(0)
    for _ in range(1000):
        size = int(2 ** rng.uniform(0, 12))
        z = torch.from_numpy(2 * rng.standard_normal((1, 4, size, 1))).requires_grad_()
        y = torch.from_numpy(rng.integers(-1, 4, size=(1, size, 1)))
        y[0, 0] = 1
        held = y[0, :, 0] >= 0
        slope = torch.autograd.grad(F.cross_entropy(z, y, ignore_index=-1), z)[0].sum((0, 2, 3))
        p = z.detach().softmax(1)[0, :, held, 0].mean(1)
        counts = recover_from_mean(slope.numpy(), p.numpy(), int(held.sum()))
        assert np.array_equal(counts.round(6), np.bincount(y[0, held, 0], minlength=4))


def test_the_servers_estimate_is_unbiased_and_its_interval_holds():
    """Of one output: posteriors of own data in place of the client's, 1,000 batches."""
    options = AuditOptions(
        data="breast_cancer",
        model="mlp",
        task="binary",
        trials=1000,
        initialisations=1,
        training_steps=(0,),
        batch_sizes=(32,),
        schemes=("natural",),
    )
    plan = plan_audit(options)
    stage = next(train_stages(plan, 0, (0,)))
    shared = stage.clients.share(plan.cells[0])
    own = stage.model.run_all(plan.roles.auxiliary.inputs).probabilities[:, 1].double().numpy()
    found = 32 * (own.mean() - shared.observation.bias_gradient[:, 1])
    missed = found - shared.truth.counts[:, 1]
    reach = 1.96 * 32 * own.std(ddof=1) * np.sqrt(1 / 32 + 1 / len(own))
    assert abs(missed.mean()) < 32 * own.std() / np.sqrt(len(own)) * 3
    assert np.mean(np.abs(missed) <= reach) >= 0.93
