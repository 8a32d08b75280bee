"""Read loss, labels and scale off the gradient at the logits, row by row."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from labelleak.core.logit_losses import Rows, fitted, read_other
from labelleak.core.logit_rows import LogitRows, join_rows

# Entries of logits that are read at once.
CHUNK = 2**22
# Below it, rows are made of rounding.
LOOSEST = 0.03
# From so many entries on, two unknowns that explain all of them are no chance.
MANY_ENTRIES = 24
# Sigmoids that are read one by one.
MOST_COLUMNS = 512


def read_logit_rows(
    logits: Tensor, gradient: Tensor, *, smoothing: float | None = None
) -> LogitRows:
    """Read the rows of one backward pass.

    Softmax cross-entropy with target t and weight s gives the row ``s (p - t)``. Where t is
    one class, all other entries stand to p in the one ratio s, so both follow exactly. With two
    classes a single row fits any s, so several rows must agree.

    One logit z under binary cross-entropy is read as the two (0, z) under softmax.

    Args:
        logits: ``... x K``, what the head returned.
        gradient: the loss's gradient with respect to them, of the same shape.
        smoothing: share that other rows of the same training told, for where these do not.

    >>> z = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 0.5]], requires_grad=True)
    >>> loss = torch.nn.functional.cross_entropy(z, torch.tensor([2, 0]))
    >>> found = read_logit_rows(z.detach(), torch.autograd.grad(loss, z)[0])
    >>> found.loss, found.labels.tolist(), round(float(found.scales.sum()), 4)
    ('cross_entropy', [2, 0], 1.0)
    """
    classes = gradient.shape[-1]
    z, dz = logits.reshape(-1, classes), gradient.reshape(-1, classes)
    if classes == 1:
        z, dz = torch.cat((torch.zeros_like(z), z), 1), torch.cat((-dz, dz), 1)
    step = max(1, CHUNK // classes)
    chunks = [
        _read_chunk(z[at : at + step], dz[at : at + step], smoothing)
        for at in range(0, len(z), step)
    ]
    found = join_rows(chunks) if chunks else LogitRows("unknown", 0)
    if gradient.dim() > 2:
        took = gradient.ne(0).any(-1).flatten(1).sum(1)
        each = tuple(took.tolist()) if int(took.sum()) == found.rows else None
        found = replace(found, images=each)
    return _read_sigmoids(z, dz) if found.loss == "bce" else found


def _read_sigmoids(z: Tensor, dz: Tensor) -> LogitRows:
    """Read rows of several sigmoids entry by entry; scales are those of the single entries."""
    found = read_logit_rows(z.reshape(-1, 1), dz.reshape(-1, 1))
    if found.loss == "cross_entropy" and found.labels is not None and found.rows == z.numel():
        labels = found.labels.reshape(z.shape)
        return LogitRows("bce", len(z), labels, found.scales, found.smoothing, found.certain)
    return _read_columns(z, dz) or LogitRows("bce", None, certain=found.certain)


def _read_columns(z: Tensor, dz: Tensor) -> LogitRows | None:
    """Read sigmoids whose labels weigh differently, label by label."""
    if z.shape[1] > MOST_COLUMNS:
        return None
    each = [read_logit_rows(z[:, [k]], dz[:, [k]]) for k in range(z.shape[1])]
    if any(one.loss != "cross_entropy" or one.rows != len(z) or one.smoothing for one in each):
        return None
    labels = [one.labels for one in each if one.labels is not None]
    scales = [one.scales for one in each if one.scales is not None]
    if not len(labels) == len(scales) == len(each):
        return None
    # A column alone does not tell a single label's weight; that others are read alike does.
    certain = any(one.certain for one in each)
    return LogitRows(
        "bce", len(z), torch.stack(labels, 1), torch.stack(scales, 1).flatten(), 0.0, certain
    )


def _read_chunk(z: Tensor, dz: Tensor, smoothing: float | None) -> LogitRows:
    if not (torch.isfinite(z).all() and torch.isfinite(dz).all()):
        return LogitRows("unknown", None)
    kinds = [torch.finfo(t.dtype) for t in (z, dz)]
    tolerance = min(LOOSEST, 64 * max(kind.eps for kind in kinds))
    least = 2 * max(kind.smallest_normal * kind.eps for kind in kinds)
    took = dz.ne(0).any(1)
    p = z.double().softmax(1)
    if not took.any():
        return LogitRows("unknown", None if _certain(p, least).any() else 0)
    rows = Rows(z[took].double(), p[took], dz[took].double(), tolerance, least)
    count = len(rows.dz)
    read = _read(rows)
    if smoothing is not None and not read.certain:
        read = _as_others(rows, smoothing) or read
    if read.loss != "cross_entropy" or read.scales is None:
        told = None if read.loss != "unknown" and _certain(p[~took], least).any() else count
        return LogitRows(read.loss, told, read.labels, None, read.smoothing, read.certain)
    hidden = p[~took][_certain(p[~took], least / float(read.scales.abs().median()))]
    if not len(hidden):
        return LogitRows("cross_entropy", count, *_facts(read))
    # A mean over N rows weighs each 1/N: it tells whether rows of no gradient were in it.
    weight = float(read.scales[0])
    if read.labels is None or abs(weight * (count + len(hidden)) - 1) > tolerance:
        return LogitRows("cross_entropy", None, *_facts(read))
    labels = torch.cat([read.labels, hidden.argmax(1)])
    scales = torch.full((len(labels),), weight, dtype=torch.float64)
    return LogitRows("cross_entropy", len(labels), labels, scales, read.smoothing, read.certain)


def _certain(p: Tensor, least: float) -> Tensor:
    """Tell the rows whose gradient at their likeliest class would be lost to rounding."""
    return 1 - p.amax(1) <= max(8 * least, 1e-15)


def _facts(read: LogitRows) -> tuple[Tensor | None, Tensor | None, float | None, bool]:
    return read.labels, read.scales, read.smoothing, read.certain


def _read(rows: Rows) -> LogitRows:
    low = rows.tolerance > 1e-3
    read = _hard(rows)
    if read is not None and low:
        # In half precision a little smoothing passes for none; the closer fit is taken.
        spread = _smoothed(rows)
        read = spread if spread is not None and _is_closer(rows, spread, read) else read
    if read is not None:
        return read
    size = float(rows.dz.abs().max())
    if not bool((rows.dz.sum(1).abs() <= rows.tolerance * size + rows.least).all()):
        return read_other(rows)
    readers = (_smoothed, _negated, _weighted_and_smoothed, _sparse)
    for reader in readers[: 2 if low else None]:
        read = reader(rows)
        if read is not None:
            return read
    return LogitRows("softmax", None)


def _is_closer(rows: Rows, spread: LogitRows, hard: LogitRows) -> bool:
    """Choose smoothed labels over hard ones; a weight for each row explains a few rows as well."""
    if hard.scales is None:
        return rows.dz.numel() >= MANY_ENTRIES
    return _left(rows, spread) < _left(rows, hard)


def _left(rows: Rows, read: LogitRows) -> float:
    """Measure what a reading with labels leaves unexplained."""
    assert read.labels is not None
    assert read.scales is not None
    smoothing = read.smoothing or 0.0
    targets = torch.full_like(rows.p, smoothing / rows.classes)
    targets.scatter_(1, read.labels[:, None], 1 - smoothing + smoothing / rows.classes)
    return float((rows.dz - read.scales[:, None] * (rows.p - targets)).norm())


def _hard(rows: Rows) -> LogitRows | None:
    """Read rows whose target is one class."""
    labels = rows.dz.argmin(1)
    here = torch.zeros_like(rows.p).scatter_(1, labels[:, None], 1.0)
    others = rows.p * (1 - here)
    scales = (rows.dz * others).sum(1) / (others**2).sum(1).clamp_min(1e-300)
    apart = (rows.dz - scales[:, None] * others) * (1 - here)
    top = others.amax(1)
    fits = apart.abs().amax(1) <= rows.tolerance * scales * top + rows.least
    # The label's own entry is 1 - p_y, which rounding blurs where the model is certain.
    own = (rows.dz * here).sum(1) + scales * others.sum(1)
    fits &= own.abs() <= rows.tolerance * scales + rows.least
    if not (fits & (scales > 0)).all():
        return None
    slack = rows.tolerance * scales + rows.least / top.clamp_min(1e-300)
    pooled = (rows.dz * others).sum() / (others**2).sum()
    if ((scales - pooled).abs() <= slack).all():
        certain = rows.classes > 2 or _apart(top) or _is_whole(rows, float(pooled))
        return _cross_entropy(labels, pooled.expand(len(labels)), certain=certain)
    by_class = _pooled_by_class(rows.dz * others, others**2, labels)
    alike = torch.bincount(labels)[labels]
    # Rows of classes of their own show class weights only by a sum that is a mean's.
    shown = int(alike.max()) > 1 or _is_whole(rows, float(scales.sum()))
    if shown and ((scales - by_class).abs() <= slack).all():
        certain = rows.classes > 2 or int(alike.min()) > 1
        return _cross_entropy(labels, by_class, certain=certain)
    # With two classes any row fits, so weights of its own say nothing.
    return None if rows.classes == 2 else LogitRows("row_weighted", None, labels, certain=True)


def _as_others(rows: Rows, smoothing: float) -> LogitRows | None:
    """Read rows of one scale as smoothed like others, if that leaves nothing unexplained."""
    labels = rows.dz.argmin(1)
    spread = torch.full_like(rows.p, smoothing / rows.classes)
    apart = rows.p - spread.scatter(1, labels[:, None], 1 - smoothing + smoothing / rows.classes)
    scale = fitted(rows, apart)
    if scale is None:
        return None
    checked = rows.classes > 2 or len(rows.dz) > 2 or _is_whole(rows, scale)
    scales = torch.full((len(labels),), scale, dtype=torch.float64)
    return _cross_entropy(labels, scales, smoothing, certain=checked)


def _is_whole(rows: Rows, scale: float) -> bool:
    """Tell a scale that is a mean's or a sum's, up to a power of two: no chance hit.

    With two classes and one row any label fits some scale, but only the true one such a scale.
    """
    shares = (math.log2(scale * count) for count in (1, len(rows.dz)))
    return rows.tolerance < 1e-4 and any(abs(s - round(s)) < 1e-4 for s in shares)


def _apart(values: Tensor) -> bool:
    return len(values) > 1 and bool(values.max() - values.min() > 1e-3 * values.max())


def _cross_entropy(
    labels: Tensor | None, scales: Tensor, smoothing: float = 0.0, *, certain: bool
) -> LogitRows:
    return LogitRows("cross_entropy", len(scales), labels, scales.clone(), smoothing, certain)


def _pooled_by_class(products: Tensor, squares: Tensor, labels: Tensor) -> Tensor:
    size = int(labels.max()) + 1
    sums = torch.zeros(2, size, dtype=torch.float64, device=labels.device)
    sums[0].index_add_(0, labels, products.sum(1))
    sums[1].index_add_(0, labels, squares.sum(1))
    return (sums[0] / sums[1].clamp_min(1e-300))[labels]


def _smoothed(rows: Rows) -> LogitRows | None:
    """Read rows of one scale s whose target keeps 1 - e of its class and spreads e evenly.

    With b = s e / K each entry is ``s (p_k - [k = y]) - b (1 - K [k = y])``: two unknowns.
    """
    classes, count = rows.classes, len(rows.dz)
    if count * (classes - 1) < 3 or (classes < 4 and count < 2):
        return None
    # Where the model is surer than the target, the label's entry is not the lowest.
    first, second = rows.dz.argmin(1), (rows.dz.abs().max() * rows.p - rows.dz).argmax(1)
    return _smoothed_from(rows, first) or _smoothed_from(rows, second)


def _smoothed_from(rows: Rows, labels: Tensor) -> LogitRows | None:
    """Fit scale and spread to labels, and labels to them, in turn."""
    classes = rows.classes
    for _ in range(8):
        here = torch.zeros_like(rows.p).scatter_(1, labels[:, None], 1.0)
        columns = torch.stack([(rows.p - here).flatten(), (classes * here - 1).flatten()], 1)
        answer = torch.linalg.lstsq(columns, rows.dz.flatten()[:, None]).solution[:, 0]
        scale, spread = float(answer[0]), float(answer[1])
        better = (scale * rows.p - rows.dz).argmax(1)
        if torch.equal(better, labels):
            break
        labels = better
    if not scale > 0 or not rows.tolerance < classes * spread / scale < 1:
        return None
    left = (columns @ answer - rows.dz.flatten()).abs().max()
    if left > rows.tolerance * scale:
        return None
    scales = torch.full((len(labels),), scale, dtype=torch.float64)
    return _cross_entropy(labels, scales, classes * spread / scale, certain=True)


def _negated(rows: Rows) -> LogitRows | None:
    """Read rows of a loss that is maximised; two classes do not tell it."""
    if rows.classes == 2:
        return None
    read = _hard(Rows(rows.z, rows.p, -rows.dz, rows.tolerance, rows.least))
    if read is None or read.scales is None:
        return None
    return _cross_entropy(read.labels, -read.scales, certain=read.certain)


def _weighted_and_smoothed(rows: Rows) -> LogitRows | None:
    """Read rows of torch's cross-entropy with both class weights and smoothing.

    Each row is ``(p 1^T - I) (b_y e_y + v)`` with b_y the class's own weight and v the spread
    one: 2 K unknowns, which all rows share.
    """
    classes, count = rows.classes, len(rows.dz)
    if classes > 64 or count > 4096 or count * (classes - 1) < 4 * classes:
        return None
    labels = rows.dz.argmin(1)
    spread = rows.p[:, :, None] - torch.eye(classes, dtype=torch.float64)
    own = torch.zeros_like(spread)
    picked = spread.gather(2, labels[:, None, None].expand(-1, classes, 1))
    own.scatter_(2, labels[:, None, None].expand(-1, classes, 1), picked)
    columns = torch.cat([own, spread], 2).flatten(0, 1)
    answer = torch.linalg.lstsq(columns, rows.dz.flatten()[:, None], driver="gelsd").solution[:, 0]
    left = (columns @ answer - rows.dz.flatten()).abs().max()
    scales, shares = answer[:classes][labels], answer[classes:][labels]
    total = scales + classes * shares
    smoothing = classes * shares / total
    even = (smoothing - smoothing[0]).abs().max() <= 1e3 * rows.tolerance
    if left > rows.tolerance * total.max() or not even or not 0 < float(smoothing[0]) < 1:
        return None
    if not (total > 0).all():
        return None
    return _cross_entropy(labels, total, float(smoothing.mean()), certain=True)


def _sparse(rows: Rows) -> LogitRows | None:
    """Read rows whose target leaves most classes out, as mixup does: there the ratio to p is s."""
    if rows.classes < 4:
        return None
    kept = rows.p > 1e-6
    ratio = torch.where(kept, rows.dz / rows.p.clamp_min(1e-300), -torch.inf)
    scales = ratio.amax(1)
    slack = rows.tolerance * scales.abs()[:, None] / rows.p.clamp_min(1e-2)
    sharing = (kept & (ratio >= scales[:, None] - slack)).sum(1)
    uniform = (scales - scales.median()).abs() <= 1e2 * rows.tolerance * scales.median().abs()
    if not (scales > 0).all() or not uniform.all() or int(sharing.min()) < 2:
        return None
    return _cross_entropy(None, scales, certain=True)


__all__ = ["LogitRows", "read_logit_rows"]
