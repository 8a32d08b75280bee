"""Notes of what attacks learnt: kept whole, read back to the last bit, and no code run."""

import pytest
import torch

import labelleak
from labelleak.errors import BadInput
from labelleak.files.fit_cache import FolderFitCache


@pytest.mark.parametrize("kept", ["memory", "folder"])
def test_what_was_noted_is_recalled_and_what_was_not_is_told(tmp_path, kept):
    said = []
    notes = FolderFitCache(tmp_path / "notes" if kept == "folder" else None, said.append)
    assert notes.recall("a fit", "ab12") is None
    learnt = {"x": torch.randn(3, 2).T, "n": torch.tensor(7)}
    notes.note("ab12", learnt)
    found = notes.recall("a fit", "ab12")
    assert all(torch.equal(found[name], learnt[name]) for name in learnt)
    assert said == ["a fit", ""]


def test_another_process_finds_them_and_a_broken_note_is_none(tmp_path):
    FolderFitCache(tmp_path).note("ab12", {"x": torch.ones(2)})
    assert torch.equal(FolderFitCache(tmp_path).recall("a fit", "ab12")["x"], torch.ones(2))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    said = []
    notes = FolderFitCache(tmp_path, said.append)
    assert notes.recall("a fit", "ab12") is None
    notes.note("ab12", {"x": torch.zeros(2)})
    assert torch.equal(notes.recall("a fit", "ab12")["x"], torch.zeros(2))
    assert said == ["a fit", ""]


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot make"):
        FolderFitCache(tmp_path / "file" / "notes")


def test_an_audit_with_notes_gives_the_same_records(tmp_path):
    asked = {
        **{"batch_sizes": [4], "schemes": ["iid"], "attacks": ["shadow"], "trials": 4},
        **{"initialisations": 1, "training_steps": [0], "shadow_batches": 60},
    }
    plain = labelleak.audit(**asked)
    first = labelleak.audit(**asked, learnt=tmp_path)
    (note,) = tmp_path.iterdir()
    written = note.stat().st_mtime_ns
    again = labelleak.audit(**asked, learnt=tmp_path)
    assert note.stat().st_mtime_ns == written
    for found in (first, again):
        assert [r.asr for r in found.records] == [r.asr for r in plain.records]
        told = [r.extra["expected_asr"] for r in found.records]
        assert told == [r.extra["expected_asr"] for r in plain.records]
