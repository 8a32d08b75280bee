"""Set LLG and LLG+ on ten local steps beside the recorded curves of the paper's official code.

Run as ``python tests/reference/compare_fedavg.py CURVES.json SET.npz [MODELS]``: unbalanced batches
of 1, 8 and 32, ten local steps at learning rate 0.1, two clients of each untrained model.

The official code adds gradients up over the local steps and divides LLG+'s impact by their number,
so that a label weighs T times too little. LLG+ is shown by that rule, too.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from labelleak.attacks.llg import calibrate
from labelleak.audits.options import check_options
from labelleak.audits.run import Part
from labelleak.audits.stage import train_stages
from labelleak.core.counts import extract_counts

STEPS, LR = 10, 0.1


def measure(data, size, models):
    """Return the success rates of LLG, LLG+ and the official rule of LLG+, client by client."""
    options = check_options(
        data=data,
        model="cnn",
        batch_sizes=(size,),
        schemes=("unbalanced",),
        attacks=("free", "llg", "llg_plus"),
        trials=2 * models,
        initialisations=models,
        training_steps=(0,),
        local_steps=(STEPS,),
        lr=(LR,),
    )
    part = Part(options=options)
    rates = {"llg": [], "llg_plus": [], "official": []}
    for model in range(models):
        (stage,) = train_stages(part.plan(), model, (0,))
        shared = stage.clients.share(stage.plan.cells[0])
        for record in (row for cell in part.measure(stage) for row in cell):
            if record.attack in rates:
                rates[record.attack].append(record.asr)
        own, truth = stage.plan.roles.auxiliary, shared.truth.counts
        classes, total = truth.shape[1], size * STEPS
        found = calibrate(stage.model.run_chunks(own.inputs), own.labels.numpy(), classes)
        impact = (1 + 1 / classes) / size * found.own / STEPS
        for sums, counts in zip(shared.observation.row_sums * STEPS, truth, strict=True):
            guess = extract_counts(sums, impact, found.offset, total)
            rates["official"].append(np.minimum(guess, counts).sum() / total)
    return rates


def compare(curves, data, models):
    """Print a row for each batch size and attack."""
    name = Path(data).name.removesuffix(".npz")
    rows = {
        (row["version"].split(" ")[0], row["batch_size"]): row
        for row in json.loads(Path(curves).read_text())
        if row["dataset"] == name and "FedAvg" in row["version"]
    }
    print("| data | B | attack | official (std, repeats) | ours | by the official rule |")
    print("|---|---|---|---|---|---|")
    for size in (1, 8, 32):
        rates = measure(data, size, models)
        for attack, key in (("LLG", "llg"), ("LLG+", "llg_plus")):
            if (attack, size) not in rows:
                continue
            row = rows[attack, size]
            theirs = f"{row['asr_mean']:.2f} ({row['asr_std']:.2f}, {row['repeats']})"
            rule = say(rates["official"]) if attack == "LLG+" else "the same"
            print(
                f"| {name} | {size} | {attack} | {theirs} | {say(rates[key])} | {rule} |",
                flush=True,
            )


def say(values):
    """Write a mean with its standard error."""
    return f"{np.mean(values):.2f} ± {np.std(values) / np.sqrt(len(values)):.2f}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    compare(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 30)
