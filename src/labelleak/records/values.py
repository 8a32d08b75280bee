"""Check the values of a record against each other: what no run can have found is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labelleak.errors import BadInput, shown, shown_value

if TYPE_CHECKING:
    from labelleak.records.record import Record

# From this free guess on nothing is left to learn that six digits could say.
CERTAIN = 1 - 1e-6
# Half of the last digit that records of any source must keep.
_ROUNDING = 5e-5
_SHARES = ("asr", "asr_free", "model_accuracy", "presence_precision", "presence_recall")
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
    "chosen": (str,),
    "chosen_adaptive": (bool,),
    "attack_title": (str,),
    "privacy": (str,),
    "concerned_by": (list,),
    "defense_remarks": (list,),
    "defense_off": (list,),
    "flag_figures": (dict,),
    "not_applicable": (dict,),
    "expected_asr": (int, float),
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
    for name in ("attack", "data", "model", "scheme", "defense", "labelleak", "torch", "command"):
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
    if not -_ROUNDING <= record.extra.get("expected_asr", 0) <= 1 + _ROUNDING:
        raise BadInput("has an expected_asr that is not between 0 and 1")


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


__all__ = ["CERTAIN", "check_values"]
