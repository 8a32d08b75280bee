"""Answers on a vocabulary: tokens that are there, the likeliest first, with their strings."""

import json

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from labelleak.audits.one_update import attack_update
from labelleak.cli.app import app
from labelleak.errors import BadInput
from labelleak.files.vocabulary import read_vocabulary

TOKENS = 1200


@pytest.fixture
def update(tmp_path):
    weight = torch.zeros(TOKENS, 3)
    weight[7], weight[1100] = torch.tensor([-4.0, 0.0, 0.0]), torch.tensor([-2.0, 0.0, 0.0])
    save_file({"lm_head.weight": weight}, tmp_path / "gradient.safetensors")
    names = {f"t{k}": k for k in range(TOKENS - 1)}
    plain = {"model": {"vocab": names}, "added_tokens": [{"id": TOKENS - 1, "content": "<end>"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(plain))
    return tmp_path


def run(folder, *more):
    asked = ["attack", "--gradient", str(folder / "gradient.safetensors"), "--task", "tokens"]
    asked += [
        "--num-samples",
        "3",
        "--attacks",
        "row_energy",
        "--truth",
        str(folder / "truth.json"),
    ]
    (folder / "truth.json").write_text("[7, 7, 1100]")
    done = CliRunner().invoke(app, [*asked, *map(str, more)])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_only_tokens_that_are_there_are_told(update):
    told = json.loads(run(update, "--json", "--tokenizer", update / "tokenizer.json"))
    (result,) = told["results"]
    assert "counts" not in result
    assert "confidence" not in result
    assert [one["class"] for one in result["present"]] == [7, 1100]
    assert [one["token"] for one in result["present"]] == ["t7", "t1100"]
    assert sum(one["count"] for one in result["present"]) == 3
    assert result["present"][0]["confidence"] == 1.0
    true = told["true_counts"]
    assert true == [
        {"class": 7, "token": "t7", "count": 2},
        {"class": 1100, "token": "t1100", "count": 1},
    ]
    assert len(told["free_guess"]) == 3


def test_dense_tells_all(update):
    told = json.loads(run(update, "--json", "--dense"))
    assert len(told["results"][0]["counts"]) == len(told["true_counts"]) == TOKENS
    assert "present" not in told["results"][0]


def test_the_table_names_tokens(update):
    told = run(update, "--tokenizer", update / "tokenizer.json")
    assert "t7" in told
    assert "True counts" not in told


def test_vocabularies_of_every_form_are_read(tmp_path):
    file = tmp_path / "vocabulary.json"
    for found in (
        {"a": 0, "b\u0007": 1},
        ["a", "b\u0007"],
        {"model": {"vocab": [["a", -1.0], ["b", 0]]}},
    ):
        file.write_text(json.dumps(found))
        names = read_vocabulary(file, 3)
        assert names[0] == "a"
        assert names[1].isprintable()
        assert names[2] == ""
    for wrong in ("3", "{}", '{"a": "b"}', "[1, 2]", '{"a": 9}', '{"model": 3}'):
        file.write_text(wrong)
        with pytest.raises(BadInput, match="token"):
            read_vocabulary(file, 3)


def test_a_large_vocabulary_is_attacked_with_known_frequencies_and_told_once(tmp_path):
    """20,000 labels of 1,200 tokens are more chances than are weighed one by one."""
    weight = torch.zeros(TOKENS, 3)
    weight[7], weight[1100] = torch.tensor([-4.0, 0.0, 0.0]), torch.tensor([-2.0, 0.0, 0.0])
    report = attack_update(
        gradient={"lm_head.weight": weight},
        task="tokens",
        num_samples=20_000,
        prior=[2.0, *[1.0] * (TOKENS - 1)],
        attacks=["free", "row_energy"],
    )
    assert [one.attack for one in report.results] == ["free", "row_energy"]
    assert report.results is report.results
    assert report.results[0].confidence[0] == 1.0
