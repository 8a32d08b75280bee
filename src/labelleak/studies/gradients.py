"""Row sums of the head's gradient by batch size: sign against presence, size against count."""

from __future__ import annotations

from io import StringIO
from typing import Any

import numpy as np

from labelleak.report.markdown import table
from labelleak.studies.signals import LINE, PRESENT, Signals, measure_signals
from labelleak.studies.study import Found, Study

SIZES, QUICK_SIZES = (2, 8, 32, 128), (2, 32)


def draw_gradients(found: Found) -> dict[str, str]:
    """Draw original and adjusted row sums against counts, and write what their signs tell.

    Returns:
        gradients.svg, gradients.md.
    """
    asked = found.asked
    sizes = QUICK_SIZES if asked.quick else SIZES
    signals = [measure_signals(asked.data, seed=asked.seed, batch_size=size) for size in sizes]
    return {"gradients.svg": _draw(signals), "gradients.md": make_gradients_table(signals)}


def _draw(signals: list[Signals]) -> str:
    """Draw a column a batch size: original, adjusted, and how classes go together."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    text = StringIO()
    with mpl.rc_context({"svg.hashsalt": "labelleak", "font.size": 9, "svg.fonttype": "none"}):
        sheet = Figure(figsize=(3.2 * len(signals), 8.4), layout="constrained")
        grid = sheet.subplots(3, len(signals), squeeze=False)
        for column, one in enumerate(signals):
            top, middle, bottom = (row[column] for row in grid)
            _scatter(top, one.counts, one.row_sums, f"N = {one.batch_size}, row sums")
            _scatter(middle, one.counts, one.adjusted, "less offset, over impact")
            reach = [0, int(one.counts.max())]
            middle.plot(reach, reach, "--", color=LINE, lw=1)
            shown = bottom.imshow(correlations(one), vmin=-1, vmax=1, cmap="RdBu")
            bottom.set(xlabel="count of class", ylabel="row sum of class")
            bottom.set_title("correlation", fontsize=9)
            sheet.colorbar(shown, ax=bottom, shrink=0.7)
        sheet.suptitle(f"Row sums of the head's gradient against counts ({signals[0].data})")
        sheet.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _scatter(axes: Any, counts: np.ndarray, values: np.ndarray, title: str) -> None:
    jitter = np.linspace(-0.25, 0.25, counts.shape[1])
    axes.scatter((counts + jitter).ravel(), values.ravel(), s=6, color=PRESENT, alpha=0.4)
    axes.axhline(0, color=LINE, lw=0.8)
    axes.set_xlabel("samples of the class")
    axes.set_title(f"{title}\n(correlation {correlation(counts, values):.3f})", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def correlation(counts: np.ndarray, values: np.ndarray) -> float:
    """Return Pearson's correlation over all classes of all batches, 0 where one does not vary."""
    if counts.std() == 0 or values.std() == 0:
        return 0.0
    return float(np.corrcoef(counts.ravel(), values.ravel())[0, 1])


def correlations(signals: Signals) -> np.ndarray:
    """Return the correlation of each class's row sum with each class's count, ``K x K``."""
    classes = signals.counts.shape[1]
    found = [
        [correlation(signals.counts[:, j], signals.row_sums[:, i]) for j in range(classes)]
        for i in range(classes)
    ]
    return np.array(found)


def make_gradients_table(signals: list[Signals]) -> str:
    """Write, for each batch size, how signs and presence go together, and both correlations."""
    rows = []
    for one in signals:
        present, negative = one.counts > 0, one.row_sums < 0
        cells = [
            int((present & negative).sum()),
            int((present & ~negative).sum()),
            int((~present & negative).sum()),
            int((~present & ~negative).sum()),
        ]
        both = [correlation(one.counts, values) for values in (one.row_sums, one.adjusted)]
        rows.append([one.batch_size, *cells, *(f"{value:.3f}" for value in both)])
    heads = ["N", "present, negative", "present, not", "absent, negative", "absent, not"]
    heads += ["correlation with the count", "adjusted"]
    return table(heads, rows, title="Sign of the row sum against presence of the class") + "\n"


STUDY = Study(
    report=draw_gradients,
    takes=frozenset({"quick"}),
    claim="Row sums of present classes are negative, those of absent ones positive, and the size "
    "goes with the count; taking the offset off brings them closer to it.",
    picture="gradients.svg",
)
