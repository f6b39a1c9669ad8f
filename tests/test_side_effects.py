"""Side effects: who is a neighbour, what is written, and a sentence where there is no benchmark."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from conftest import RELATION

from lib.facts.formats import own_wordings
from lib.measure import side_effects
from lib.model.runner import Runner


def test_neighbours_share_relation_and_old_answer_with_an_edited_fact(known, known_split):
    groups = side_effects.neighbourhood(known, known_split)
    assert list(groups) == list(known_split.retain_test)
    edited = {known[i].true for i in known_split.forget}
    for i, group in groups.items():
        assert (group == side_effects.NEIGHBOURS) == (known[i].true in edited)


def test_the_same_answer_in_another_relation_is_no_neighbour(known, known_split):
    moved = {
        i: replace(f, relation="other") if i in known_split.retain_test else f
        for i, f in known.items()
    }
    assert set(side_effects.neighbourhood(moved, known_split).values()) == {side_effects.OTHERS}


@pytest.fixture
def ask(taught, known_split):
    def retained(forms, facts):
        runner = Runner(taught.model)
        return side_effects.retained(runner, taught.tokenizer, forms, facts, known_split)

    return retained


def test_retained_facts_are_asked_once(ask, short_catalogue, known, known_split):
    groups = side_effects.neighbourhood(known, known_split)
    rows = ask(short_catalogue.forms(short_catalogue.training), known)
    assert rows.id.tolist() == list(groups)
    assert rows.group.tolist() == list(groups.values())
    assert (rows.answer == rows.true).mean() > 0.9


def test_neighbours_that_facts_bring_along_are_asked_for_the_old_answer(ask, known, known_split):
    """Two of each edited fact's, in prompts of their own; those of other facts are not asked."""
    edited = known[known_split.forget[0]]
    other = next(f for f in known.values() if f.true == edited.true and f.id != edited.id)
    near = tuple(f"{name} plays" for name in (other.subject, edited.subject, "Nobody"))
    facts = {i: replace(f, neighbors=near) for i, f in known.items()}
    rows = ask(own_wordings([RELATION], 0).forms("training"), facts)
    own = rows[len(known_split.retain_test) :]
    assert rows.id[: -len(own)].tolist() == list(known_split.retain_test)
    assert own.id.tolist() == [f"{i}/neighbour {k}" for i in known_split.forget for k in (0, 1)]
    assert own.group.unique().tolist() == [side_effects.NEIGHBOURS]
    assert own.true.tolist() == [known[i].true for i in known_split.forget for _ in (0, 1)]
    first = own[own.id.str.startswith(f"{edited.id}/")]
    assert first.answer.tolist() == [edited.true] * 2 and first.p_true.min() > 0.5
    assert first.p_true.iloc[0] != pytest.approx(first.p_true.iloc[1], rel=1e-6)


def test_a_neighbour_is_asked_in_its_prompt_and_not_in_the_facts_paraphrases(
    ask, known, known_split
):
    i = known_split.forget[0]
    facts = known | {i: replace(known[i], neighbors=("N plays",), paraphrases=("P plays",))}
    rows = ask(own_wordings([RELATION], 1).forms("paraphrase-1"), facts)
    assert rows.empty and "group" in rows


def test_what_is_written_is_the_most_probable_text(taught, known):
    prompt = next(iter(known.values())).prompt
    (text,) = side_effects.written(taught, [prompt], 3)
    ids = taught.tokenizer(prompt, return_tensors="pt").input_ids
    start = ids.shape[1]
    for _ in range(3):
        ids = torch.cat([ids, taught.model(ids).logits[:, -1:].argmax(-1)], dim=1)
    assert text == taught.tokenizer.decode(ids[0, start:], skip_special_tokens=True)


def test_prompts_of_any_length_are_continued_as_if_alone(taught, known):
    first = next(iter(known.values()))
    second = next(f for f in known.values() if f.true != first.true)
    prompts = [first.prompt, f"{first.prompt} {first.true}. {second.prompt}", second.prompt]
    lengths = {len(taught.tokenizer(p).input_ids) for p in prompts}
    alone = [side_effects.written(taught, [p], 3)[0] for p in prompts]
    assert len(lengths) > 1 and len(set(alone)) > 1
    assert side_effects.written(taught, prompts, 3) == alone
    bare = copy.copy(taught)
    bare.tokenizer = copy.deepcopy(taught.tokenizer)
    bare.tokenizer.pad_token = None  # as in Llama 3
    assert bare.tokenizer.pad_token_id is None
    assert side_effects.written(bare, prompts, 3) == alone


def test_without_the_library_a_sentence_stands_for_the_benchmark(taught, monkeypatch):
    monkeypatch.setattr(side_effects, "find_spec", lambda name: None)
    table = side_effects.benchmarks(taught, ["mmlu"], 10)
    assert table.benchmark.tolist() == ["mmlu"] and table.value.isna().all()
    assert "lm_eval is not installed" in table.note[0] and "pip install" in table.note[0]


def test_no_benchmark_is_asked_for_none(taught):
    assert side_effects.benchmarks(taught, [], 10).empty


@pytest.mark.parametrize("error", [OSError, ConnectionError])
def test_data_that_cannot_be_had_is_no_crash(taught, monkeypatch, error):
    """lm_eval itself cannot be had here either, so its two entry points are stood in for."""
    import sys
    from types import ModuleType

    def offline(**how):
        raise error("no route to host")

    library, models = ModuleType("lm_eval"), ModuleType("lm_eval.models.huggingface")
    library.simple_evaluate, models.HFLM = offline, lambda **how: None
    monkeypatch.setitem(sys.modules, "lm_eval", library)
    monkeypatch.setitem(sys.modules, "lm_eval.models", ModuleType("lm_eval.models"))
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", models)
    monkeypatch.setattr(side_effects, "find_spec", lambda name: True)
    table = side_effects.benchmarks(taught, ["mmlu"], 10)
    assert table.value.isna().all() and "could not be had" in table.note[0]
