"""Plain text: sampled repeatably, cut to length, split without overlap."""

from __future__ import annotations

import json

import pytest

from lib import paths
from lib.config.blocks import Text
from lib.facts import text


def test_sampled_passages_have_the_length_and_open_like_a_document(loaded):
    passages = text.sample(loaded.model, loaded.tokenizer, n=5, length=9, seed=0, batch=2)
    assert [len(p) for p in passages] == [9] * 5
    assert {p[0] for p in passages} == {loaded.tokenizer.bos_token_id}
    assert len({tuple(p) for p in passages}) == 5


def test_sampling_depends_on_the_seed(llama):
    first, again, other = (
        text.sample(llama.model, llama.tokenizer, 3, 8, seed) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_chunks_follow_each_other_without_a_gap(llama, texts):
    source = "\n".join(texts[:10])
    ids = llama.tokenizer(source, add_special_tokens=False).input_ids
    found = text.chunks(llama.tokenizer, source, n=4, length=11)
    assert [p[0] for p in found] == [llama.tokenizer.bos_token_id] * 4
    assert [t for p in found for t in p[1:]] == ids[:40]


def test_a_text_that_is_too_short_says_how_much_is_missing(llama, refuses):
    with refuses(ValueError, "has 2 tokens", "40 are needed", "lower text.passages or add text"):
        text.chunks(llama.tokenizer, "Babe Ruth", n=4, length=11)


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_a_text_of_ones_own_is_read_from_the_project_as_utf8(llama, tmp_path, monkeypatch, where):
    """By a path from the project's folder, wherever a notebook runs, or by a whole path."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.chdir("/")
    words = "José Peña plays\n" * 20
    (tmp_path / "mine.txt").write_bytes(words.encode("utf-8"))
    source = "mine.txt" if where == "inside" else str(tmp_path / "mine.txt")
    wanted = Text(source=source, passages=4, tokens=6, train=0.5)
    found = text.make(llama, wanted)
    expected = text.chunks(llama.tokenizer, words, 4, 6)
    assert [tuple(p) for p in (*found["train"], *found["heldout"])] == [tuple(p) for p in expected]


def test_the_second_text_is_long_and_always_the_same():
    assert text.second_text() == text.second_text()
    assert len(text.second_text()) > 100_000


@pytest.mark.parametrize(("n", "share", "n_train"), [(12, 0.667, 8), (4, 0.5, 2), (96, 0.667, 64)])
def test_training_and_held_out_passages_are_apart(n, share, n_train):
    parts = text.split([[i, i] for i in range(n)], share)
    assert (len(parts["train"]), len(parts["heldout"])) == (n_train, n - n_train)
    assert set(parts["train"]) | set(parts["heldout"]) == {(i, i) for i in range(n)}


def test_stored_passages_read_back_as_tuples(tmp_path):
    (tmp_path / "passages.json").write_text(json.dumps({"train": [[2, 5]], "second": [[2]]}))
    assert text.load(tmp_path) == {"train": [(2, 5)], "second": [(2,)]}
