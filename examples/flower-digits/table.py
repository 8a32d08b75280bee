"""Print what the server saw in each run below a folder, as a Markdown table.

usage: python table.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np

from labelleak.records.record import read_records

SEEN = {"records.jsonl": "", "aggregates.jsonl": ", the average"}
KEYS = ("asr", "presence_recall", "presence_precision")


def mean(records, attack, key):
    """Give the mean of a figure over an attack's records."""
    return np.mean([getattr(record, key) for record in records if record.attack == attack])


def main(folder):
    """Print a row for each file of records."""
    print("| run | updates | guess | LLG | LLBG | iLRG |\n|---|---|---|---|---|---|")
    for script in ("simulate", "deploy"):
        runs = sorted((folder / script).glob("*/"), key=lambda run: run.stat().st_ctime)
        for run in runs:
            for name, seen in SEEN.items():
                path = run / "server" / name
                if path.exists():
                    records = read_records(path)
                    count = sum(record.attack == "llg" for record in records)
                    cells = [f"{script} {run.name}{seen}", str(count)]
                    cells.append(f"{mean(records, 'free', 'asr'):.3f}")
                    for attack in ("llg", "llbg", "ilrg"):
                        asr, recall, precision = (mean(records, attack, key) for key in KEYS)
                        cells.append(f"{asr:.3f} ({recall:.3f} / {precision:.3f})")
                    print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
