"""How many numbers a sketch needs: what regression on all layers names of a trained model, by r.

With `-s` the figures behind `SIZE` are printed.
"""

from __future__ import annotations

import numpy as np
import torch

from labelleak.attacks.layers.class_means import ClassMeans
from labelleak.attacks.layers.regression import shares_of
from labelleak.core.layer_table import SIZE, LayerTable
from labelleak.core.rounding import round_counts
from labelleak.core.score import Truth, score
from labelleak.core.white_box import WhiteBox
from labelleak.simulation.batches import draw_batches, parse_scheme
from labelleak.simulation.data.datasets import load_dataset
from labelleak.simulation.models import build_model
from labelleak.simulation.roles import divide
from labelleak.simulation.training import Training, train_in_stages

SIZES = (16, 128, SIZE, 8192)
BATCH, TRIALS, CLASSES = 32, 100, 10


def named_by_size(model, own, victims, batches):
    """Return the share of labels that is named, trial by trial, with the head left out."""
    truth = Truth.from_labels(victims.labels.numpy()[batches], CLASSES)
    found = {}
    for size in SIZES:
        mine, theirs = (LayerTable.build(model, data, size=size) for data in (own, victims))
        below = [name for name in mine.rows if not name.startswith(f"{model.head}.")]
        rows = torch.cat([mine.rows[name] for name in below], dim=1).double()
        system = ClassMeans.measure(rows, own.labels, CLASSES)
        parts = theirs.of_batches(batches)
        seen = torch.cat([parts[name] for name in below], dim=1).double()
        counts = BATCH * shares_of(system.gram, system.onto(seen), 1 / BATCH)
        found[size] = score(round_counts(counts, BATCH), truth).asr
    return found


def test_a_thousand_numbers_name_as_many_as_all_and_few_name_less():
    data, rng = load_dataset("digits"), np.random.default_rng(0)
    roles = divide(data.x_train, data.y_train, seed=0)
    module = build_model("mlp", input_shape=data.input_shape, num_classes=CLASSES, seed=0)
    list(train_in_stages(module, roles.train, (100,), Training(), rng=rng))
    labels = roles.victims.labels.numpy()
    scheme = parse_scheme("unbalanced")
    batches = draw_batches(scheme, labels, CLASSES, BATCH, TRIALS, rng)
    model = WhiteBox(module, "head")
    found = named_by_size(model, roles.auxiliary, roles.victims, batches)
    print({size: f"{asr.mean():.3f}" for size, asr in found.items()})
    gap = found[8192] - found[SIZE]
    assert gap.mean() < 0.02 + 2 * gap.std() / TRIALS**0.5
    loss = found[SIZE] - found[16]
    assert loss.mean() > 2 * loss.std() / TRIALS**0.5
