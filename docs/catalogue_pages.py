"""The pages that are made from the catalogues: a page for each attack, defense, flag and module."""

import inspect
import re
import tomllib
from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from pathlib import Path

import labelleak
from labelleak.attacks import ATTACKS
from labelleak.audits.options import AuditOptions
from labelleak.core.card import card_of
from labelleak.core.interfaces import threat_model
from labelleak.core.training import TrainingFacts
from labelleak.defenses import DEFENSES, parse_defense
from labelleak.defenses.text import write_form
from labelleak.records.flags import FLAGS, Doubt
from labelleak.records.options import declared

KINDS = ("attacks", "defenses", "flags", "api")
_INTRO = {
    "attacks": """# Attacks

Each guesses how often every label is in the batch, from what a server sees.
How they compare is measured in [The attacks, side by side](../../attacks.md).
""",
    "defenses": """# Defenses

Each changes what a client shares, or how it trains. Join several with `|`.
What each hides and costs is measured in [The defenses, side by side](../../defenses.md).
""",
    "flags": """# Flags

A flag says that something which an attack assumes does not hold, or is not known to hold.
It stands beside the answers that it concerns, in records and on pages.
""",
}
_DOCSTRING = """::: {path}
    options:
      members: false
      show_root_heading: false
      show_root_toc_entry: false
      separate_signature: false
"""
# What a kind of doubt does to verdicts.
_DOUBTS = {
    None: "",
    Doubt.untold: "A page says that a low score shows nothing here, and a gate with `on_unknown` "
    "fails.",
    Doubt.unlike: "A page says that a low score shows nothing here, and a gate with `on_unknown` "
    "fails, unless a defense was declared.",
    Doubt.refuted: "A page says that a low score shows nothing here, a gate with `on_unknown` "
    "fails, and `block` withholds the update, unless a defense was declared.",
}
_API = {
    "labelleak": "The names of `labelleak`. They are loaded when first used.",
    "labelleak.flower": "Audits in a Flower federation; [the how-to](../../howto/flower.md) "
    "shows them at work. Needs `pip install labelleak[flower]`.",
    "labelleak.testing": "For test suites of your own; [the how-to](../../howto/gate.md) shows it "
    "at work.",
}


# Options that are passed by name: the class that declares them, and where they are passed.
_OPTIONS = {
    "labelleak": (
        (AuditOptions, "Options of `audit`"),
        (TrainingFacts, "Fields of `LocalTraining`"),
    )
}


def pages_of(kind: str) -> dict[str, str]:
    """Return the generated pages of a kind: path in the site, and Markdown."""
    if kind == "api":
        return {_path(kind, module): _api_page(module) for module in _API}
    names = {"attacks": ATTACKS, "defenses": DEFENSES, "flags": FLAGS}[kind]
    page = {"attacks": _attack_page, "defenses": _defense_page, "flags": _flag_page}[kind]
    made = {_path(kind, name): page(name) for name in names}
    rows = [(f"[`{name}`]({name}.md)", _line(kind, name)) for name in names]
    made[_path(kind, "index")] = f"{_INTRO[kind]}\n{_table(('name', 'what'), rows)}"
    return made


def titles_of(kind: str) -> list[tuple[str, str]]:
    """Return title and path of the pages of a kind, in the order of the menu."""
    paths = sorted(pages_of(kind), key=lambda path: (not path.endswith("index.md"), path))
    stems = [path.rpartition("/")[2].removesuffix(".md") for path in paths]
    return [("All" if s == "index" else s, path) for s, path in zip(stems, paths, strict=True)]


def _attack_page(name: str) -> str:
    attack = ATTACKS[name]
    card, server = card_of(attack), threat_model(attack())
    battery = "in the standard battery" if card.standard else "runs when it is named"
    if card.quick_up_to:
        battery += f"; slow above {card.quick_up_to} classes, and left out there"
    facts = [
        ("Server", f"`{server}` ([threat models](../../concepts/threat_models.md))"),
        ("Needs", "; ".join(sorted(need.value for need in attack.needs)) or "nothing"),
        ("Runs", battery),
        ("Source", attack.cite),
    ]
    broken = [
        (flag, meaning)
        for flag, meaning in FLAGS.items()
        if meaning.breaks and meaning.concerns(card.assumes)
    ]
    rows = [
        (meaning.breaks.value, f"[`{flag}`](../flags/{flag}.md): {meaning.says}", meaning.advice)
        for flag, meaning in broken
        if meaning.breaks
    ]
    fails = (
        _table(("it assumes that", "what shows that it does not hold", "what to do"), rows)
        if rows
        else "It assumes nothing that a flag could contradict."
    )
    return f"""# {card.title}

{card.plain or _line("attacks", name)}

{_table(("`" + name + "`", ""), facts)}

```console
labelleak audit --data digits --model cnn --batch-sizes 8 --attacks {name},free --out audit
```

## How it works

{_DOCSTRING.format(path=_home(attack))}
## When it fails, and what to do

{fails}

Flags that concern every attack on an update are in [the list](../flags/index.md).
"""


def _defense_page(name: str) -> str:
    defense = DEFENSES[name]
    example = defense.example or name
    (tried,) = parse_defense(example).links
    facts = [
        ("Text form", f"`{write_form(defense)}`, for example `{example}`"),
        ("What it does", defense.kind.value if defense.kind else "see below"),
        ("Needs at hand", tried.scope.name.lower()),
        ("Changes the training", "yes" if tried.changes_training else "no"),
        ("Acts on", "the head alone" if defense.uses_head else "what is shared"),
        ("Searched by `labelleak tune`", ", ".join(defense.ladders) or "no"),
    ]
    opens = "".join(f"- {sentence}\n" for sentence in defense.leaves_open)
    return f"""# {name}

{_line("defenses", name)}

{_table(("`" + name + "`", ""), facts)}

```console
labelleak audit --data digits --batch-sizes 8 --defenses "none,{example}" --out out
```

## How it works

{_DOCSTRING.format(path=_home(defense))}
## What it leaves open

{opens or "Nothing is known to us that the measurements do not show."}
What it hides and what it costs: [the defenses, side by side](../../defenses.md). A setting for your
model: [the cheapest defense that works](../../tune.md).
"""


def _flag_page(name: str) -> str:
    meaning, more = FLAGS[name], _flag_notes()[name]
    names = [n for n in ATTACKS if meaning.concerns(card_of(ATTACKS[n]).assumes)]
    listed = ", ".join(f"[`{n}`](../attacks/{n}.md)" for n in names)
    concerned = "Every attack that reads an update."
    if meaning.breaks:
        concerned = f"The attacks which assume that {meaning.breaks.value}: {listed}"
    return f"""# {name}

{_sentence(meaning.says)}

**When it is raised.** {more["when"]}

**What follows.** {more["means"]} {_DOUBTS[meaning.doubt]}

**What to do.** {_sentence(meaning.advice)}

**Whom it concerns.** {concerned}
"""


@cache
def _flag_notes() -> dict[str, dict[str, str]]:
    return tomllib.loads(Path(__file__).with_name("flags.toml").read_text(encoding="utf-8"))


def _api_page(module: str) -> str:
    if module != "labelleak":
        found = getattr(labelleak, module.rpartition(".")[2])
        names = getattr(found, "__all__", [])
    else:
        found, names = labelleak, labelleak.__all__
    parts = [f"# {module}", _API[module]]
    for name in names:
        thing = getattr(found, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            parts.append(f"::: {_home(thing)}\n    options:\n      heading: {module}.{name}")
    parts += [_options_table(*owner) for owner in _OPTIONS.get(module, ())]
    return "\n\n".join(parts) + "\n"


def _options_table(owner: type, title: str) -> str:
    defaults = {field.name: field.default for field in fields(owner)}
    rows = [
        (f"`{name}`", option.help, f"`{defaults[name]!r}`")
        for name, _, option in declared(owner)
        if option is not None
    ]
    return f"## {title}\n\n{_table(('name', 'what', 'default'), rows)}"


def _home(thing: type) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _line(kind: str, name: str) -> str:
    if kind == "flags":
        return _sentence(FLAGS[name].says)
    thing = (ATTACKS if kind == "attacks" else DEFENSES)[name]
    return (thing.__doc__ or "").strip().splitlines()[0]


def _sentence(words: str) -> str:
    linked = re.sub(r"docs/(\w+)\.md", r"[the page on \1](../../\1.md)", words)
    return f"{linked[:1].upper()}{linked[1:]}."


def _path(kind: str, name: str) -> str:
    return f"catalogue/{kind}/{name}.md"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *escaped]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
