"""The words and number formats that the page and the terminal share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from labelleak.attacks.titles import title_of
from labelleak.records.cells import Cell, Setting
from labelleak.records.intervals import Interval
from labelleak.records.states import IMPOSSIBLE

SERVERS = {
    "none": "someone who sees no update",
    "update": "a server that sees only the shared update",
    "model": "a server that also holds the model",
    "auxiliary": "a server that holds the model and some data of its own",
}
SHORT_SERVERS = {
    "none": "no update",
    "update": "update only",
    "model": "holds the model",
    "auxiliary": "model + own data",
}
NO_ATTACK = "no attack gains"
_CLOSE = 1e-9
_NONE: Mapping[str, str] = {}


def name_attack(attack: str, adaptive: bool = False, titles: Mapping[str, str] = _NONE) -> str:
    """Return the name of an attack as the literature writes it, or else as the records do.

    Args:
        attack: its name.
        adaptive: whether its attacker knows the defense.
        titles: what records call attacks that are not installed here.

    >>> name_attack("llg_star"), name_attack("new_one", adaptive=True)
    ('LLG*', 'new_one, adaptive')
    >>> name_attack("new_one", titles={"new_one": "New One", "llg_star": "ignored"})
    'New One'
    """
    name = title_of(attack) or titles.get(attack, attack)
    return f"{name}, adaptive" if adaptive and not name.endswith("adaptive") else name


def name_attacker(cell: Cell) -> str:
    """Name a cell's attack; of a strongest attacker's cell, the attacks that were chosen."""
    return name_chosen(cell.chosen or ((cell.attack, cell.adaptive),), dict(cell.titles))


def name_chosen(chosen: Sequence[tuple[str, bool]], titles: Mapping[str, str] = _NONE) -> str:
    """Name the attacks that a server does best with; the free guess means that it needs none.

    >>> name_chosen([("free", False)]), name_chosen([("llg", False), ("free", False)])
    ('no attack gains', 'LLG or none')
    """
    named = [name_attack(*one, titles) for one in chosen if one[0] != "free"]
    guessed = any(name == "free" for name, _ in chosen)
    return " or ".join([*named, *(["none"] if guessed else [])]) if named else NO_ATTACK


def name_stage(training_steps: int, init: str = "") -> str:
    """Say how far a model was trained; of one that was given, that is known of the audit only.

    >>> name_stage(0), name_stage(200)
    ('untrained model', 'model after 200 training steps')
    >>> name_stage(0, "as given"), name_stage(200, "as given")
    ('model as given', 'model as given after 200 training steps')
    """
    steps = f" after {count(training_steps, 'training step')}" if training_steps else ""
    if init == AS_GIVEN:
        return f"model as given{steps}"
    return f"model{steps}" if steps else "untrained model"


def name_training(training_steps: int, init: str = "") -> str:
    """Say how far a model was trained, for a column of a table.

    >>> name_training(0), name_training(1), name_training(0, "as given")
    ('untrained', '1 step', 'as given')
    """
    if init == AS_GIVEN:
        return name_stage(training_steps, init).removeprefix("model ")
    return "untrained" if training_steps == 0 else count(training_steps, "step")


# What records call the initial weights of a module or file that was handed over.
AS_GIVEN = "as given"
TRAINING_UNKNOWN = "as given; how they were trained is not known"
_SCHEMES = {
    "iid": "batches drawn evenly over the classes (iid)",
    "unbalanced": "batches in which a few classes prevail (unbalanced)",
    "natural": "batches drawn as they come in the data (natural)",
    "federation": "batches as the clients hold them",
}
_INITS = {
    "default": "PyTorch's initial weights",
    "uniform": "initial weights drawn evenly (uniform)",
    "xavier": "initial weights by Xavier",
    AS_GIVEN: "how its weights were trained is not known",
}


def name_scheme(scheme: str) -> str:
    """Say how batches were drawn.

    >>> name_scheme("iid"), name_scheme("dirichlet:0.3")
    ('batches drawn evenly over the classes (iid)', 'batches drawn by dirichlet:0.3')
    """
    return _SCHEMES.get(scheme, f"batches drawn by {scheme}")


def capital(text: str) -> str:
    """Write a text with a capital letter at its start.

    >>> capital("one LLG")
    'One LLG'
    """
    return text[:1].upper() + text[1:]


def list_words(words: Iterable[str], most: int) -> str:
    """List words in a sentence, the first few of many.

    >>> list_words(["a", "b", "c"], 9), list_words(["a", "b", "c"], 1)
    ('a, b and c', 'a and 2 more')
    """
    named = list(words)
    kept = named[:most] + ([f"{len(named) - most} more"] if len(named) > most else [])
    return " and ".join(filter(None, [", ".join(kept[:-1]), *kept[-1:]]))


# Why a search for a defense measured something.
PHASES = {"search": "during the search", "fresh": "on seeds that the search never saw"}


def name_setting(setting: Setting) -> str:
    """Say what data, model and training a figure speaks of."""
    usual = ("1 local step", "no defense")
    return ", ".join(part for part in _setting_parts(setting) if part and part not in usual)


def tell_apart(settings: Sequence[Setting]) -> dict[Setting, str]:
    """Name each setting by what it does not share with all the others; by all if it is alone."""
    if len(settings) < 2:
        return {setting: name_setting(setting) for setting in settings}
    parts = {setting: _setting_parts(setting) for setting in settings}
    shared = set.intersection(*map(set, parts.values()))
    return {
        setting: ", ".join(part for part in own if part and part not in shared)
        for setting, own in parts.items()
    }


def _setting_parts(setting: Setting) -> list[str]:
    return [
        setting.data,
        setting.model,
        _INITS.get(setting.init, f"initial weights {setting.init}") if setting.init else "",
        count(setting.local_steps, "local step"),
        f"defense {setting.defense}" if setting.defense != "none" else "no defense",
        *(
            PHASES.get(value, value) if key == "phase" else f"{key.replace('_', ' ')} {value}"
            for key, value in setting.condition
        ),
    ]


def count(number: int, noun: str) -> str:
    """Write a number with its noun.

    >>> count(1, "trial"), count(32000, "trial")
    ('1 trial', '32,000 trials')
    """
    plural = "es" if noun.endswith("ss") else "s"
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def as_sentence(said: str, defense: str) -> str:
    """Write a clause about a defense as a sentence; text forms keep their small letters.

    >>> as_sentence("clipping hides no label", "clip:1"), as_sentence("sign is coarse", "sign")
    ('Clipping hides no label.', 'sign is coarse.')
    """
    forms = (defense, *defense.split("|"))
    return f"{said if said.split(' ', 1)[0] in forms else said[:1].upper() + said[1:]}."


def share(value: float) -> str:
    """Write a share in per cent; never 100 % for less than all, never 0 % for more than none.

    >>> share(0.5), share(1.0), share(0.99999), share(0.00001)
    ('50.0\xa0%', '100\xa0%', '>99.9\xa0%', '<0.1\xa0%')
    """
    if abs(value - round(value)) < _CLOSE:
        return f"{value:.0%}".replace("%", "\xa0%")
    if round(value, 3) >= 1:
        return ">99.9\xa0%"
    if round(value, 3) <= 0:
        return "<0.1\xa0%"
    return f"{100 * value:.1f}\xa0%"


def number(value: float) -> str:
    """Write an advantage with two decimals; never 1.00 for less than 1.

    >>> number(0.954), number(0.9999), number(1.0), number(-0.2)
    ('0.95', '>0.99', '1.00', '−0.20')
    """
    if 0.995 <= value < 1 - _CLOSE:
        return ">0.99"
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text.replace("-", "−")


def points(value: float) -> str:
    """Write a loss of accuracy.

    >>> points(-0.0123)
    '−1.2 points'
    """
    return f"{100 * value:.1f} points".replace("-", "−")


def span(interval: Interval | None, trials: int, called: str = "") -> str:
    """Write an advantage with its interval, which a single trial does not have.

    Args:
        interval: the advantage; None where there was none to gain.
        trials: behind it.
        called: what the interval is called, where it is said.

    >>> span(Interval(0.5, 0.4, 0.6), 9), span(Interval(0.5, 0.5, 0.5), 1), span(None, 9)
    ('0.50 (0.40 to 0.60)', '0.50', 'none to gain')
    >>> span(Interval(0.7, 0.7, 0.7), 9), span(Interval(0.5, 0.4, 0.6), 9, "interval")
    ('0.70 (interval narrower than 0.01)', '0.50 (interval 0.40 to 0.60)')
    """
    if interval is None:
        return "none to gain"
    if trials == 1:
        return number(interval.mean)
    low, high = number(interval.low), number(interval.high)
    ends = f"{low} to {high}"
    if low == high:
        ends, called = "narrower than 0.01", called or "interval"
    return f"{number(interval.mean)} ({f'{called} {ends}'.strip()})"


INTERVAL = "95\xa0% interval"


def share_span(interval: Interval, trials: int) -> str:
    """Write a share with its interval, which a single trial does not have.

    >>> share_span(Interval(0.5, 0.4, 0.6), 9).replace(chr(160), " ")
    '50.0 % (40.0 to 60.0 %)'
    """
    if trials == 1:
        return share(interval.mean)
    low, high = share(interval.low), share(interval.high)
    if low == high:
        return f"{share(interval.mean)} (interval narrower than 0.1\xa0%)"
    return f"{share(interval.mean)} ({low.removesuffix(chr(160) + '%')} to {high})"


def labels_named(rate: float, labels: int) -> str:
    """Say how many of a number of labels a success rate stands for, to a tenth of a label.

    >>> labels_named(1.0, 32), labels_named(0.98, 32), labels_named(0.9999, 32)
    ('all 32', '31.4', 'more than 31.9')
    >>> labels_named(1.0, 1), labels_named(0.0, 8), labels_named(0.25, 8), labels_named(0.001, 8)
    ('all 1', 'none', '2', 'less than 0.1')
    """
    named = rate * labels
    if abs(named - labels) < _CLOSE:
        return f"all {labels}"
    if named < _CLOSE:
        return "none"
    if round(named, 1) >= labels:
        return f"more than {labels - 0.1:.1f}"
    if round(named, 1) <= 0:
        return "less than 0.1"
    return f"{named:.0f}" if abs(named - round(named)) < _CLOSE else f"{named:.1f}"


def doubt(cell: Cell) -> str:
    """Say that a cell is no evidence of safety, where what it rests on is in doubt; else nothing.

    An impossible scale or sign means that something else than the client's update was attacked.
    """
    flags = dict(cell.flags)
    broken = max((flags.get(flag, 0) for flag in IMPOSSIBLE), default=0)
    if broken:
        what, trials = "scale or sign is impossible", broken
    elif cell.unsettled:
        what, trials = "scale, sign, task or loss is not known to hold", cell.unsettled
    else:
        return ""
    of = "" if trials == cell.trials else f" in {count(trials, 'trial')} of {cell.trials:,}"
    return f"The update's {what}{of}, so a low figure here is no evidence of safety."


def name_series(cell: Cell) -> str:
    """Name an attack with what its attacker holds, as a figure's legend does."""
    label = name_attack(cell.attack, cell.adaptive, dict(cell.titles))
    return f"{label} ({SHORT_SERVERS[cell.threat_model]})"
