"""Measurements: answers are probabilities, texts are losses, all equal to plain passes."""

from __future__ import annotations

import pandas
import pytest
import torch
import torch.nn.functional as F

from lib.facts.formats import answer_tokens
from lib.measure import answers, score_facts, text_losses
from lib.packing import Runner

LABELS = ["baseball", "basketball", "football"]


@pytest.fixture(scope="module", params=["training", "league"])
def form(request, formats):
    return next(f for f in formats.formats if f.name == request.param)


@pytest.fixture(scope="module")
def subjects(table):
    return list(table.subject[::6])


@pytest.fixture(scope="module")
def asked(loaded, form, subjects):
    return answers(Runner(loaded.model), loaded.tokenizer, form, subjects, mass=True)


def test_answers_are_normalized(asked, subjects):
    assert list(asked.columns) == ["subject", "answer", *LABELS, "mass"]
    assert list(asked.subject) == subjects
    assert asked[LABELS].sum(axis=1).tolist() == pytest.approx([1] * len(subjects), abs=1e-5)


def test_mass_is_a_share_of_the_whole_vocabulary(asked):
    assert asked.mass.between(0, 1 + 1e-6).all() and (asked.mass > 0).all()


def test_answers_equal_the_plain_pass(loaded, form, asked):
    wanted = list(answer_tokens(loaded.tokenizer, form).values())
    for row in asked.to_dict("records"):
        ids = loaded.tokenizer(form.prompt(row["subject"]), return_tensors="pt").input_ids
        p = loaded.model(ids).logits[0, -1].softmax(-1)[wanted]
        assert row["mass"] == pytest.approx(p.sum().item(), rel=1e-3)
        found = [row[label] for label in LABELS]
        assert found == pytest.approx((p / p.sum()).tolist(), abs=1e-4)
        assert row["answer"] == LABELS[p.argmax()]


def test_answers_are_the_same_without_mass(loaded, form, asked, subjects):
    short = answers(Runner(loaded.model), loaded.tokenizer, form, subjects)
    expected = asked.drop(columns="mass")
    pandas.testing.assert_frame_equal(short, expected, atol=1e-5, rtol=1e-4)


def test_scores_pick_the_true_and_the_edited_label(taught, short_formats, known):
    facts = list(known.values())[::4]
    runner, form = Runner(taught.model), short_formats.formats[1]
    rows = score_facts(runner, taught.tokenizer, form, facts)
    asked = answers(runner, taught.tokenizer, form, [f.subject for f in facts])
    assert list(rows.id) == [f.id for f in facts] and set(rows["format"]) == {"short-league"}
    for fact, row, found in zip(facts, rows.itertuples(), asked.to_dict("records")):
        assert (row.true, row.edit, row.answer) == (fact.true, fact.edit, found["answer"])
        assert (row.p_true, row.p_edit) == (found[fact.true], found[fact.edit])


def test_a_model_that_knows_its_facts_is_sure_of_them(taught, short_formats, known):
    runner = Runner(taught.model)
    facts = list(known.values())
    rows = score_facts(runner, taught.tokenizer, short_formats.training, facts)
    assert (rows.answer == rows.true).all()
    assert rows.p_true.mean() > 0.9 > 0.1 > rows.p_edit.mean()


def test_text_losses_equal_the_plain_pass(loaded, passages):
    rows, _ = text_losses(Runner(loaded.model), passages)
    assert list(rows.passage) == list(range(len(passages)))
    for passage, row in zip(passages, rows.itertuples()):
        logits = loaded.model(torch.tensor([passage])).logits[0, :-1]
        expected = F.cross_entropy(logits, torch.tensor(passage[1:]))
        assert row.loss == pytest.approx(expected.item(), abs=1e-4)


def test_a_model_does_not_diverge_from_itself(loaded, passages):
    runner = Runner(loaded.model)
    before, reference = text_losses(runner, passages)
    after, kept = text_losses(runner, passages, reference)
    assert after.kl.abs().max() < 1e-5 and not kept
    assert after.loss.tolist() == before.loss.tolist()
    assert set(before.kl) == {0.0}


def test_divergence_equals_the_plain_sum(fresh, passages):
    first, second = fresh("llama").model, fresh("llama").model
    second.base_model.layers[2].mlp.up_proj.weight.mul_(-1)
    _, reference = text_losses(Runner(first), passages)
    rows, _ = text_losses(Runner(second), passages, reference)
    for passage, row in zip(passages, rows.itertuples()):
        p, q = (m(torch.tensor([passage])).logits[0, :-1].log_softmax(-1) for m in (first, second))
        expected = (p.exp() * (p - q)).sum(-1).mean().item()
        assert expected > 0.01
        assert row.kl == pytest.approx(expected, rel=1e-3, abs=1e-4)
