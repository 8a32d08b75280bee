"""Run random training loops and count verdicts: ``python tests/loops/run.py [LOOPS] [FIRST]``.

Ends with 1 if any observation was silently wrong.
"""

import sys
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from loops.training_loops import draw_loop
from loops.verdicts import judge


def main(loops=500, first=0):
    """Judge so many loops, print what is wrong and the counts."""
    warnings.simplefilter("ignore")
    counts, reasons = Counter(), Counter()
    for seed in range(first, first + loops):
        loop = draw_loop(seed)
        verdict, why = judge(loop)
        counts[verdict] += 1
        reasons[verdict, why.split(" [")[-1] if verdict == "flagged" else why] += 1
        if verdict == "SILENT":
            print(f"SILENT {why}\n  {loop}", flush=True)
    for (verdict, why), count in sorted(reasons.items()):
        print(f"  {count:4d} {verdict}: {why}")
    total = ", ".join(f"{counts[v]} {v}" for v in ("right", "right, flagged", "flagged", "refused"))
    print(f"{loops} loops: {total}, {counts['SILENT']} SILENT WRONG")
    return 1 if counts["SILENT"] else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
