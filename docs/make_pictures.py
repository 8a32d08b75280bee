"""Draw the pictures of the concept pages; run as ``python docs/make_pictures.py``.

The row sums and the rates in them are measured when the script runs, on digits.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

import labelleak

FOLDER = Path(__file__).parent / "figures" / "concepts"
BLUE, RED, GREY, INK = "#2b6cb0", "#c05621", "#718096", "#1a202c"
# Labels of the batch whose row sums are drawn: class 3 four times, class 7 twice, 0 and 5 once.
DRAWN = (3, 3, 3, 3, 7, 7, 0, 5)


def main() -> None:
    """Write every picture."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, (width, height, said, parts) in {
        "update": update(),
        "threat_models": threat_models(),
        "signals": signals(),
        "advantage": advantage(),
    }.items():
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            f'font-family="sans-serif" font-size="15"><title>{escape(said)}</title>'
            f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>'
        )
        (FOLDER / f"{name}.svg").write_text("\n".join([head, *parts, "</svg>"]) + "\n")


Picture = tuple[int, int, str, list[str]]


def update() -> Picture:
    """Draw the round: model out, training on private data, update back."""
    parts = [
        *box(20, 40, 170, 110, "Server", "model w"),
        *box(470, 40, 170, 110, "Client", "labels 3 3 3 7"),
        *arrow(195, 70, 465, 70, "sends the model"),
        *arrow(465, 125, 195, 125, "shares the update"),
        text(330, 185, "The data stay. The update is computed from them, labels included.", GREY),
    ]
    return 660, 210, "A server sends a model, a client trains on its labels, and shares", parts


def threat_models() -> Picture:
    """Draw what each server holds."""
    rows = (
        ("none", "nothing: the guess to beat"),
        ("update", "the shared gradient"),
        ("model", "the gradient and the model"),
        ("auxiliary", "both, and labelled data of its own"),
    )
    parts = []
    for place, (name, holds) in enumerate(rows):
        top = 20 + 46 * place
        width = 130 + 130 * place
        colour = (GREY, BLUE, BLUE, RED)[place]
        parts += [rectangle(150, top, width, 34, colour), text(140, top + 23, name, INK, "end")]
        parts.append(text(165 + width, top + 23, holds, INK, "start"))
    return 960, 210, "Four servers, each holding more than the one above it", parts


def signals() -> Picture:
    """Draw row sums of a real gradient beside how often each class is in the batch."""
    sums, counts = row_sums()
    scale = 120 / np.abs(sums).max()
    parts = [
        f'<line x1="40" y1="90" x2="640" y2="90" stroke="{INK}"/>',
        text(340, 25, "row sums of the last layer's gradient, a bar a class", INK),
    ]
    for label, (height, count) in enumerate(zip(sums * scale, counts, strict=True)):
        left, colour = 55 + 60 * label, RED if count else GREY
        parts.append(rectangle(left, 90 + min(0, -height), 34, abs(height), colour))
        words = f"{label}: {count}x" if count else f"{label}: -"
        parts.append(text(left + 17, 250, words, colour))
    parts.append(text(340, 280, "below zero: in the batch (P1); how far: how often (P2)", INK))
    return 680, 300, "Row sums: negative for classes in the batch, deeper the more often", parts


def advantage() -> Picture:
    """Draw a success rate between the free guess and 1."""
    found = labelleak.audit(
        data="digits", model="mlp", batch_sizes=[32], schemes=["unbalanced"], attacks=["llg"],
        trials=50, initialisations=2, training_steps=[0],
    )  # fmt: skip
    rows = [row for row in found.records if row.attack == "llg"]
    free, asr = (float(np.mean([getattr(r, k) for r in rows])) for k in ("asr_free", "asr"))
    gained = (asr - free) / (1 - free)
    start, end = 60, 620
    at = [start + (end - start) * share for share in (0.0, free, asr, 1.0)]
    parts = [
        rectangle(at[0], 70, at[1] - at[0], 30, "#cbd5e0"),
        rectangle(at[1], 70, at[2] - at[1], 30, RED),
        rectangle(at[2], 70, at[3] - at[2], 30, "#edf2f7"),
        text(at[1], 125, f"free guess {free:.2f}", GREY),
        text(at[2], 55, f"attack {asr:.2f}", RED),
        text(340, 160, f"advantage = ({asr:.2f} - {free:.2f}) / (1 - {free:.2f}) = {gained:.2f}"),
        text(340, 30, "share of 32 labels that are named (LLG, unbalanced batches of digits)"),
    ]
    return 680, 180, "The attack's rate between the free guess and 1", parts


def row_sums() -> tuple[np.ndarray, np.ndarray]:
    """Return the row sums of one batch's gradient, and how often each class is in it."""
    inputs, labels = load_digits(return_X_y=True)
    rows = [np.flatnonzero(labels == label)[place] for place, label in enumerate(DRAWN)]
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    logits = net(torch.tensor(inputs[rows] / 16.0, dtype=torch.float32))
    torch.nn.functional.cross_entropy(logits, torch.tensor(labels[rows])).backward()
    (grad,) = [p.grad for n, p in net.named_parameters() if n == "2.weight" and p.grad is not None]
    return grad.sum(dim=1).numpy(), np.bincount(labels[rows], minlength=10)


def rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    """Return a filled rectangle."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3" '
        f'fill="{colour}"/>'
    )


def text(x: float, y: float, words: str, colour: str = INK, anchor: str = "middle") -> str:
    """Return words at a place."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">'
        f"{escape(words)}</text>"
    )


def box(x: float, y: float, width: float, height: float, *lines: str) -> Sequence[str]:
    """Return a frame with words in it."""
    frame = (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="none" '
        f'stroke="{BLUE}" stroke-width="2"/>'
    )
    return [frame, *(text(x + width / 2, y + 35 + 35 * n, line) for n, line in enumerate(lines))]


def arrow(x1: float, y1: float, x2: float, y2: float, words: str) -> Sequence[str]:
    """Return a level arrow with words above it."""
    back = 10 if x2 > x1 else -10
    return [
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{RED}" stroke-width="2"/>',
        f'<path d="M{x2} {y2} l{-back} -6 v12 z" fill="{RED}"/>',
        text((x1 + x2) / 2, y1 - 8, words),
    ]


if __name__ == "__main__":
    main()
