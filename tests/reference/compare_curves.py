"""Set the ASR of an audit beside the recorded curves of the paper's official code.

Run as ``python tests/reference/compare_curves.py CURVES.json RECORDS.jsonl ...`` on records of
``labelleak audit --data SET.npz --model cnn --init uniform --training-steps 0
--initialisations 100 --trials 100 --attacks llg,llg_star,llg_plus``. Exits with 1 if a mean lies
more than 0.07 below its curve. Ten local steps: compare_fedavg.py.
"""

import json
import sys
from pathlib import Path

from labelleak.records.record import read_records
from labelleak.report import tabulate

NAMES = {"llg": "LLG", "llg_star": "LLG*", "llg_plus": "LLG+"}
SLACK = 0.07


def compare(curves: Path, files: list[Path]) -> float:
    """Print a Markdown table and give the largest shortfall."""
    official = {
        (row["dataset"], row["version"].split("-")[0], row["balanced"], row["batch_size"]): row
        for row in json.loads(curves.read_text())
    }
    worst = -1.0
    print("| data | scheme | N | free guess | attack | official (repeats) | ours | difference |")
    print("|---|---|---|---|---|---|---|---|")
    for file in files:
        for cell in tabulate(read_records(file)):
            data = cell.data.removesuffix(".npz")
            key = (data, NAMES.get(cell.attack), cell.scheme == "iid", cell.batch_size)
            if key not in official or cell.local_steps > 1:
                continue
            row = official[key]
            difference = cell.asr.mean - row["asr_mean"]
            worst = max(worst, -difference)
            print(
                f"| {data} | {cell.scheme} | {cell.batch_size} | {cell.free:.3f} "
                f"| {key[1]} | {row['asr_mean']:.3f} ({row['repeats']}) "
                f"| {cell.asr.mean:.3f} ({cell.asr.low:.3f} to {cell.asr.high:.3f}) "
                f"| {difference:+.3f} |"
            )
    print(f"\nLargest shortfall: {worst:.3f}; allowed: {SLACK}")
    return worst


if __name__ == "__main__":
    sys.exit(compare(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]) > SLACK)
