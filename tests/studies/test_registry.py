"""One registry: a name is that of a grid or of a module with a study, and has a title."""

from importlib import resources

import pytest

from labelleak.defenses import parse_defense
from labelleak.errors import BadInput
from labelleak.studies.registry import STUDIES, describe_studies, load_study, read_shipped
from labelleak.studies.study import Asked

GRIDS = [name for name, title in STUDIES.items() if title is None]


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_there_with_its_title(name):
    study = load_study(name)
    assert study.name == name
    assert study.title == dict(describe_studies())[name]
    assert study.takes <= {"model", "quick", "defenses"}


def test_every_grid_that_ships_is_registered():
    folder = resources.files("labelleak.studies") / "paper"
    assert {path.name for path in folder.iterdir()} == {f"{name}.toml" for name in GRIDS}


@pytest.mark.parametrize("name", GRIDS)
def test_grids_are_whole_and_their_quick_form_is_smaller(name):
    full, quick = read_shipped(name), read_shipped(name, Asked(quick=True, data="mnist.npz"))
    assert full.title

    def work(grid):
        return sum(
            a.trials * len(a.batch_sizes) * len(a.local_steps) * len(a.lr) * len(a.training_steps)
            for a in grid.audits
        )

    assert work(quick) < work(full)
    assert {a.data for a in quick.audits} == {"mnist.npz"}
    assert all("free" in a.attacks for a in full.audits)


def test_an_unknown_study_names_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'trained'"):
        load_study("trainde")


@pytest.mark.parametrize("name", [name for name in STUDIES if name not in GRIDS])
def test_every_defense_that_a_study_writes_can_be_asked_for(name):
    for part in load_study(name).parts(Asked(quick=True)):
        for label in part.options.defenses:
            assert parse_defense(label) == parse_defense(parse_defense(label).label)
