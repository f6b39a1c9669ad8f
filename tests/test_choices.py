"""Questions that show the answers: no letter, place or wording is favoured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lib.facts.formats import Format, fill
from lib.measure import choices
from lib.measure.answers import score_facts
from lib.model.runner import Runner

SPORTS = {label: label for label in ("baseball", "basketball", "football")}
LETTERED = Format("mc", "choice", "who is {subject} ?\n{options}\nanswer", SPORTS)
IN_TURN = Format(
    "odds", "choice", "{subject} plays {option} ?", SPORTS, yes=("{subject}", "yes"), no=("no",)
)


@pytest.fixture(scope="module")
def facts(records):
    return records[:5]


def many_options(fact):
    return replace(fact, options=(*fact.options, "golf", "tennis", "hockey"))


def test_true_and_new_answer_are_always_shown(facts):
    for fact in facts:
        shown = choices.shown_options(many_options(fact))
        assert len(shown) == 4 and len(set(shown)) == 4
        assert {fact.true, fact.edit} <= set(shown) <= set(many_options(fact).options)
        assert shown == choices.shown_options(many_options(fact))


def test_the_true_answer_stands_at_different_places(records):
    places = [choices.shown_options(many_options(f)).index(f.true) for f in records]
    assert set(places) == {0, 1, 2, 3}


def letters_of(tokenizer):
    return [tokenizer(f" {c}", add_special_tokens=False).input_ids[0] for c in "ABCD"]


def test_lettered_answers_are_averaged_over_rotations(llama, facts):
    found = choices.lettered(Runner(llama.model), llama.tokenizer, LETTERED, facts)
    for fact, held in zip(facts, found):
        options = choices.shown_options(fact)
        expected = dict.fromkeys(options, 0.0)
        for turn in range(3):
            order = options[turn:] + options[:turn]
            lines = "\n".join(f"{c}. {o}" for c, o in zip("ABC", order))
            text = f"who is {fact.subject} ?\n{lines}\nanswer"
            ids = llama.tokenizer(text, return_tensors="pt").input_ids
            logits = llama.model(ids).logits[0, -1, letters_of(llama.tokenizer)[:3]]
            for option, p in zip(order, logits.softmax(0).tolist()):
                expected[option] += p / 3
        assert held == pytest.approx(expected, abs=1e-4)


def test_a_model_that_always_says_the_same_letter_has_no_preference(llama, facts, monkeypatch):
    runner = Runner(llama.model)

    def stubborn(prompts, tokens):
        return torch.tensor([[9.0, 0.0, 0.0, 0.0]]).repeat(len(prompts), 1)

    monkeypatch.setattr(runner, "answer_logits", stubborn)
    for held in choices.lettered(runner, llama.tokenizer, LETTERED, facts):
        assert list(held.values()) == pytest.approx([1 / 3] * 3)


def test_one_by_one_compares_affirming_with_denying_words(llama, facts):
    found = choices.one_by_one(Runner(llama.model), llama.tokenizer, IN_TURN, facts)

    def first(word):
        return llama.tokenizer(f" {word}", add_special_tokens=False).input_ids[0]

    for fact, held in zip(facts, found):
        scores = []
        for option in held:
            ids = llama.tokenizer(f"{fact.subject} plays {option} ?", return_tensors="pt").input_ids
            logits = llama.model(ids).logits[0, -1]
            yes = logits[[first(fact.subject), first("yes")]].logsumexp(0)
            scores.append(yes - logits[first("no")])
        expected = dict(zip(held, torch.stack(scores).softmax(0).tolist()))
        assert held == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("form", [LETTERED, IN_TURN], ids=lambda f: f.name)
def test_rows_are_those_of_every_format(llama, facts, form):
    rows = score_facts(Runner(llama.model), llama.tokenizer, {facts[0].relation: form}, facts)
    assert list(rows.id) == [f.id for f in facts] and set(rows["format"]) == {form.name}
    assert rows.p_true.between(0, 1).all() and set(rows.answer) <= set(SPORTS)


def test_placeholders_of_the_subject():
    text = "{subject}, {SUBJECT}, {surname}"
    assert fill(text, "Babe Ruth") == "Babe Ruth, BABE RUTH, Ruth"
    assert fill("{subject}", "{surname}") == "{surname}"
