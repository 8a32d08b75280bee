"""Check the values of a record against each other: what no run can have found is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labelleak.errors import BadInput, shown, shown_value

if TYPE_CHECKING:
    from labelleak.records.record import Record

# From this free guess on nothing is left to learn that six digits could say.
CERTAIN = 1 - 1e-6
# Half of the last digit that records of any source must keep.
_ROUNDING = 5e-5
_SHARES = ("asr", "asr_free", "model_accuracy", "presence_precision", "presence_recall")
_RATES = ("asr", "asr_free", "advantage")
_SHARES_BESIDE = ("expected_asr", "asr_image", "asr_image_free")
_LEAST = {
    "trial": 0,
    "initialisation": 0,
    "training_steps": 0,
    "num_classes": 1,
    "batch_size": 1,
    "local_steps": 1,
    "num_samples": 1,
    "seconds": 0,
}
_MOST = 2**53
# Beyond it sums and squares of floats overflow.
_LARGEST = 1e100
_TEXTS = ("attack", "data", "model", "scheme", "defense", "labelleak", "torch", "command")
_LONGEST = {"command": 2**16, "defense": 4000}
_LONGEST_NAME = 500
# Kinds of the keys of ``extra`` that tables and gates rely on.
_EXTRA: dict[str, tuple[type, ...]] = {
    "part": (int,),
    "round": (int,),
    "clients": (int,),
    "client": (str, int),
    "defended": (bool,),
    "action": (str,),
    "policy": (str,),
    "limit": (int, float),
    "chosen": (str,),
    "chosen_adaptive": (bool,),
    "attack_title": (str,),
    "privacy": (str,),
    "concerned_by": (list,),
    "defense_remarks": (list,),
    "defense_off": (list,),
    "class_names": (list,),
    "flag_figures": (dict,),
    "not_applicable": (dict,),
    "expected_asr": (int, float),
    "task": (str,),
    "asr_image": (int, float),
    "asr_image_free": (int, float),
    "class_asr": (list,),
    "class_asr_free": (list,),
    "band_labels": (list,),
    "band_named": (list,),
    "rare_once": (list,),
    "presence_f1": (int, float),
}


def check_values(record: Record) -> None:
    """Refuse a record whose values no run can have found.

    Raises:
        BadInput: with a sentence that goes on after "the line ...".
    """
    for name in _SHARES:
        share = getattr(record, name)
        if share is not None and not 0 <= share <= 1:
            raise BadInput(f"has {name} {share:.6g}, which is not between 0 and 1")
    for name, least in _LEAST.items():
        number = getattr(record, name)
        if not least <= number <= _MOST:
            raise BadInput(f"has {name} {number:.6g}, where at least {least} belongs")
    for name in _TEXTS:
        length = len(getattr(record, name))
        if length > _LONGEST.get(name, _LONGEST_NAME):
            raise BadInput(f"has {length} characters under {name!r}")
    if any(len(flag) > _LONGEST_NAME for flag in record.flags):
        raise BadInput("has a flag with an absurd name")
    _check_advantage(record.asr, record.asr_free, record.advantage)
    for name, value in record.extra.items():
        most = _MOST if isinstance(value, int) else _LARGEST
        if isinstance(value, int | float) and abs(value) > most:
            raise BadInput(f"has {shown_value(value)} under {shown(name)}")
    for name, kinds in _EXTRA.items():
        if name in record.extra:
            _check_extra(name, kinds, record.extra[name])
    _check_classes(record)
    for name in _SHARES_BESIDE:
        if not -_ROUNDING <= record.extra.get(name, 0) <= 1 + _ROUNDING:
            raise BadInput(f"has {name} {record.extra[name]:.6g}, which is not between 0 and 1")


def are_sound(columns: Mapping[str, Sequence[Any]], extras: Mapping[str, Sequence[Any]]) -> bool:
    """Return whether `check_values` refuses none of many records; False where it might.

    Of part of a contract's keys, what concerns these alone is checked; rates stand together.

    Args:
        columns: the values of each key of the contract, or of some, of the right kinds.
        extras: the values of each other key, of the records that have it.
    """
    if "class_asr" in extras or "multilabel" in extras.get("task", ()):
        return False  # these are compared one by one
    flags = {flag for row in set(map(tuple, columns.get("flags", ()))) for flag in row}
    return (
        all(_lie(columns.get(name, ()), 0, 1) for name in _SHARES)
        and all(_lie(columns.get(name, ()), least, _MOST) for name, least in _LEAST.items())
        and all(_fit(columns.get(name, ()), _LONGEST.get(name, _LONGEST_NAME)) for name in _TEXTS)
        and _fit(flags, _LONGEST_NAME)
        and _advantages_follow(*(columns.get(name, ()) for name in _RATES))
        and all(_is_sound_extra(name, values) for name, values in extras.items())
    )


def _lie(values: Sequence[Any], least: float, most: float) -> bool:
    known = values if None not in values else [value for value in values if value is not None]
    return not known or (least <= min(known) and max(known) <= most)


def _fit(values: Iterable[str], longest: int) -> bool:
    return max(map(len, set(values)), default=0) <= longest


def _advantages_follow(asr: Sequence[Any], free: Sequence[Any], found: Sequence[Any]) -> bool:
    """Do what `_check_advantage` does, for many; NaN stands where there is no advantage."""
    left = 1 - np.array(free, dtype=np.float64)
    told = np.array(found, dtype=np.float64)
    known = ~np.isnan(told)
    if (left[~known] > 2 * (1 - CERTAIN)).any() or (left[known] < (1 - CERTAIN) / 2).any():
        return False
    left, told = left[known], told[known]
    expected = (np.array(asr, dtype=np.float64)[known] - 1 + left) / left
    allowed = _ROUNDING / 2 * (1 + (2 + np.abs(expected)) / left)
    return bool((np.abs(told - expected) <= allowed).all())


def _is_sound_extra(name: str, values: Sequence[Any]) -> bool:
    kinds = set(map(type, values))
    if name in _EXTRA:
        texts = (value for value in values if isinstance(value, str))
        if not kinds <= set(_EXTRA[name]) or not _fit(texts, 8 * _LONGEST_NAME):
            return False
    if kinds.isdisjoint({int, float, bool}):
        return True
    known = values if kinds <= {int, float} else [v for v in values if isinstance(v, int | float)]
    most = _LARGEST if kinds.isdisjoint({int, bool}) else _MOST
    least, most = (0, 1) if name in _SHARES_BESIDE else (-most, most)
    return _lie(known, least, most)


def _check_classes(record: Record) -> None:
    """Compare rates over several labels with the mean of those of their classes."""
    if record.extra.get("task") == "multilabel" and "class_asr" not in record.extra:
        raise BadInput("has several labels an input, but no class_asr")
    for name, whole in (("class_asr", record.asr), ("class_asr_free", record.asr_free)):
        each = record.extra.get(name)
        if each is None:
            continue
        numbers = [share for share in each if isinstance(share, int | float) and 0 <= share <= 1]
        if len(numbers) != len(each) or len(each) != record.num_classes:
            raise BadInput(f"has a {name} that is no share for each class")
        if abs(sum(numbers) / len(numbers) - whole) > 2 * _ROUNDING:
            raise BadInput(f"has {name[6:]} {whole:.6g}, which is not the mean of its {name}")


def _check_advantage(asr: float, free: float, found: float | None) -> None:
    """Compare an advantage with (asr - asr_free) / (1 - asr_free), each rounded."""
    left = 1 - free
    if found is None:
        if left > 2 * (1 - CERTAIN):
            raise BadInput(f"has no advantage, though asr_free is {free:.6g}")
        return
    if left < (1 - CERTAIN) / 2:
        raise BadInput(f"has advantage {found:.6g}, though nothing is left to learn (null)")
    expected = (asr - free) / left
    if abs(found - expected) > _ROUNDING * (1 + (2 + abs(expected)) / left):
        raise BadInput(
            f"has advantage {found:.6g}, which does not follow from asr {asr:.6g} and "
            f"asr_free {free:.6g}"
        )


def _check_extra(name: str, kinds: tuple[type, ...], value: Any) -> None:
    good = isinstance(value, kinds) and (isinstance(value, bool) <= (bool in kinds))
    if not good or (isinstance(value, str) and len(value) > 8 * _LONGEST_NAME):
        kind = " or ".join(kind.__name__ for kind in kinds)
        raise BadInput(f"has {shown_value(value)} under {name!r}, where {kind} belongs")


__all__ = ["CERTAIN", "are_sound", "check_values"]
