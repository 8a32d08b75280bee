"""Which attacks are run: names, batteries, and what is too slow for many classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from labelleak.attacks.catalogue import (
    BELOW_HEAD,
    FOR_STEPS,
    FOR_TOKENS,
    RULES,
    STANDARD,
    TOKEN_BATTERY,
    make_attack,
    slow_attacks,
)
from labelleak.core.interfaces import Attack
from labelleak.core.once import are_same
from labelleak.core.task import Task
from labelleak.errors import BadInput

# Names that stand for several attacks: the standard battery, and it without the attack that fits.
GROUPS: dict[str, tuple[str, ...]] = {"standard": STANDARD, "rules": RULES}


@dataclass(frozen=True)
class Choice:
    """Attacks that were asked for.

    Attributes:
        attacks: those to run.
        of_group: names that were asked for only as part of a battery.
        left_out: those that are not run, with the reason.
    """

    attacks: tuple[Attack, ...]
    of_group: frozenset[str] = frozenset()
    left_out: Mapping[str, str] = field(default_factory=dict)

    def within(self, num_classes: int) -> Choice:
        """Leave out what is too slow for so many classes, unless it was named."""
        slow = slow_attacks(self.of_group, num_classes)
        kept = tuple(one for one in self.attacks if one.name not in slow)
        return replace(self, attacks=kept, left_out=slow)


def going_beside(task: str | None, local_steps: int | None) -> tuple[str, ...]:
    """Name the attacks that go with the battery on one update: on texts, or on several steps.

    >>> going_beside("tokens", 1)[0], going_beside(None, 4), going_beside(None, None)
    ('row_energy', ('interpolation', 'soft_label_shares'), ())
    """
    if task == Task.tokens:
        return FOR_TOKENS
    return FOR_STEPS if (local_steps or 1) > 1 else ()


def choose_attacks(
    asked: str | Sequence[str | Attack],
    num_classes: int | None = None,
    *,
    beside: Sequence[str] = (),
) -> Choice:
    """Turn names and attacks into the attacks to run, each once, in the order of asking.

    Args:
        asked: names, groups (``standard``, ``rules``) or attacks with options of their own; a text
            is names with commas between.
        num_classes: how many classes there are; None leaves nothing out.
        beside: names that go with ``standard`` here, such as attacks that know the defense.

    Raises:
        BadInput: for a name that is no attack, and where nothing is asked for.

    >>> choice = choose_attacks(["standard", "rlu"], 20_000)
    >>> "rlu" in [attack.name for attack in choice.attacks], sorted(choice.left_out)
    (True, ['gdbr', 'gradient_regression', 'ilrg', 'layer_regression', 'shadow', 'shadow_layers'])
    """
    asked = asked.replace(",", " ").split() if isinstance(asked, str) else asked
    named = [one for one in asked if not isinstance(one, str) or one not in GROUPS]
    chosen: dict[str, Attack] = {}
    for one in asked:
        group = GROUPS.get(one, ()) if isinstance(one, str) else ()
        more = beside if one == "standard" else ()
        for part in (*group, *more) or (one,):
            attack = make_attack(part) if isinstance(part, str) else part
            chosen.setdefault(attack.name, attack)
    if not chosen:
        raise BadInput("name at least one attack, or standard, or rules")
    own = {one if isinstance(one, str) else one.name for one in named}
    choice = Choice(tuple(chosen.values()), frozenset(chosen) - own)
    return choice if num_classes is None else choice.within(num_classes)


class LastChoice:
    """The attacks that were chosen the last time, for whoever chooses for one update after another.

    >>> last = LastChoice()
    >>> last.choose(["llg"], 10) is last.choose(["llg"], 10)
    True
    """

    def __init__(self) -> None:
        self._asked: tuple[str | Attack, ...] = ()
        self._classes = 0
        self._choice = Choice(())

    def choose(self, asked: str | Sequence[str | Attack], num_classes: int) -> Choice:
        """Do what `choose_attacks` does, anew for other classes, names or attacks than before.

        Args:
            asked: as `choose_attacks` has it.
            num_classes: how many classes there are.

        Raises:
            BadInput: as `choose_attacks`.
        """
        names = (asked,) if isinstance(asked, str) else tuple(asked)
        if self._classes != num_classes or not are_same(self._asked, names):
            self._choice = choose_attacks(asked, num_classes)
            self._asked, self._classes = names, num_classes
        return self._choice


def choose_for_tokens(asked: Sequence[str | Attack], *, no_head: bool = False) -> Choice:
    """Turn names into attacks on texts, where ``standard`` is the battery that suits them.

    Args:
        asked: names, groups or attacks, as `choose_attacks` has it.
        no_head: whether some client shares no head, so that layers below it are read, too.

    >>> [attack.name for attack in choose_for_tokens(["standard"]).attacks]
    ['free', 'row_min', 'llg', 'row_energy', 'input_tokens', 'token_posterior']
    """
    battery = (*TOKEN_BATTERY, *(BELOW_HEAD if no_head else ()))
    groups = {"standard": battery, "rules": battery}
    names = [
        part
        for one in asked
        for part in (groups.get(one, ()) if isinstance(one, str) else ()) or (one,)
    ]
    return choose_attacks(list(dict.fromkeys(names)))


__all__ = [
    "GROUPS",
    "Choice",
    "LastChoice",
    "choose_attacks",
    "choose_for_tokens",
    "going_beside",
]
