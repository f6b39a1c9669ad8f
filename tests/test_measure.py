"""Measurements: answers are probabilities, texts are losses, all equal to plain passes."""

from __future__ import annotations

from dataclasses import replace

import pandas
import pytest
import torch
import torch.nn.functional as F
from conftest import edit_settings

from lib.edit.train import EditData, train
from lib.facts.formats import Format, answer_tokens, own_wordings
from lib.facts.records import FORGET
from lib.measure.answers import COLUMNS, option_tokens, score_facts, text_losses
from lib.measure.formats import Formats, OnTheWay
from lib.model.components import Component, Localization
from lib.model.runner import Runner

SPORT, LEAGUE = "plays-sport", "joined-league"
LEAGUES = {"baseball": "MLB", "basketball": "NBA", "football": "NFL"}
JOINED = Format("short", "training", "{subject} joined the")


@pytest.fixture(scope="module", params=["training", "league"])
def form(request, catalogue):
    return catalogue.forms(request.param)


@pytest.fixture(scope="module")
def some(records):
    return records[::6]


@pytest.fixture(scope="module")
def asked(loaded, form, some):
    return score_facts(Runner(loaded.model), loaded.tokenizer, form, some)


@pytest.fixture(scope="module")
def athletes(known):
    return list(known.values())[::4]


@pytest.fixture(scope="module")
def members(athletes):
    """The same people and their leagues: facts of another relation, with two options only."""
    return [
        replace(
            f,
            id=f"{LEAGUE}/{f.subject}",
            relation=LEAGUE,
            true=LEAGUES[f.true],
            edit=LEAGUES[f.edit],
            options=(LEAGUES[f.edit], LEAGUES[f.true]),
            prompt=JOINED.prompt(f.subject),
        )
        for f in athletes
    ]


@pytest.fixture
def score(taught):
    def ask(forms, facts):
        return score_facts(Runner(taught.model), taught.tokenizer, forms, facts)

    return ask


@pytest.fixture
def training(short_formats):
    return {SPORT: short_formats.training, LEAGUE: JOINED}


def plain_probabilities(loaded, prompt, tokens) -> list[float]:
    ids = loaded.tokenizer(prompt, return_tensors="pt").input_ids
    return loaded.model(ids).logits[0, -1, tokens].softmax(-1).tolist()


def test_rows_name_their_fact_and_format(asked, form, some):
    assert list(asked.columns) == COLUMNS
    assert list(asked.id) == [f.id for f in some]
    assert set(asked.relation) == {SPORT} and set(asked["format"]) == {form[SPORT].name}
    assert list(asked.true) == [f.true for f in some]
    assert list(asked.edit) == [f.edit for f in some]


def test_probabilities_equal_the_plain_pass(loaded, form, asked, some):
    tokens = answer_tokens(loaded.tokenizer, form[SPORT])
    for fact, row in zip(some, asked.itertuples()):
        wanted = [tokens[label] for label in fact.options]
        p = plain_probabilities(loaded, form[SPORT].prompt(fact.subject), wanted)
        held = dict(zip(fact.options, p))
        expected = (held[fact.true], held[fact.edit])
        assert (row.p_true, row.p_edit) == pytest.approx(expected, abs=1e-4)
        assert row.answer == max(held, key=held.get)


def test_two_options_share_the_whole_probability(score, members):
    rows = score({LEAGUE: JOINED}, members)
    assert (rows.p_true + rows.p_edit).tolist() == pytest.approx([1] * len(rows), abs=1e-5)


def test_a_model_that_knows_its_facts_is_sure_of_them(score, short_catalogue, known):
    rows = score(short_catalogue.forms("short"), list(known.values()))
    assert (rows.answer == rows.true).all()
    assert rows.p_true.mean() > 0.9 > 0.1 > rows.p_edit.mean()


def test_relations_asked_together_give_the_rows_of_each_alone(score, training, athletes, members):
    mixed = [f for pair in zip(athletes, members) for f in pair]
    both = score(training, mixed)
    assert list(both.id) == [f.id for f in mixed]
    for relation, facts in ((SPORT, athletes), (LEAGUE, members)):
        alone = score({relation: training[relation]}, facts)
        mine = both[both.relation == relation].reset_index(drop=True)
        pandas.testing.assert_frame_equal(mine, alone, atol=1e-5, rtol=1e-4)


def test_every_fact_is_answered_among_its_own_options(score, training, athletes, members):
    rows = score(training, athletes + members)
    own = {f.id: f.options for f in athletes + members}
    assert all(row.answer in own[row.id] for row in rows.itertuples())
    assert set(rows.answer) == {*LEAGUES, *LEAGUES.values()}


def test_facts_of_one_relation_may_have_different_options(score, training, athletes):
    few = [replace(f, options=(f.true, f.edit)) for f in athletes[::2]]
    mixed = [f for i, f in enumerate(athletes) if i % 2] + few
    rows = score(training, mixed).set_index("id")
    assert (rows.p_true + rows.p_edit)[[f.id for f in few]].min() > 1 - 1e-5
    whole = score(training, athletes).set_index("id")
    for fact in few:
        full, short = whole.loc[fact.id], rows.loc[fact.id]
        odds = full.p_true / (full.p_true + full.p_edit)
        assert short.p_true == pytest.approx(odds, abs=1e-4)
        assert short.p_true > full.p_true


def test_facts_of_a_relation_without_the_format_are_left_out(score, athletes, members):
    rows = score({LEAGUE: JOINED}, athletes[:3] + members[:2])
    assert list(rows.id) == [f.id for f in members[:2]]


def test_nothing_to_ask_gives_an_empty_table(score, athletes):
    for rows in (score({}, athletes), score({LEAGUE: JOINED}, athletes), score({}, [])):
        assert rows.empty and list(rows.columns) == COLUMNS


def test_a_fact_without_that_wording_is_left_out(score, athletes):
    asked = "It rained , {} plays"
    rich = [replace(f, paraphrases=(asked.format(f.subject),)) for f in athletes[:3]]
    poor = athletes[3:6]
    found = own_wordings([SPORT], 1)
    assert len(score(found.forms("training"), rich + poor)) == 6
    rows = score(found.forms("paraphrase-1"), poor + rich)
    assert list(rows.id) == [f.id for f in rich]
    expected = score({SPORT: Format("x", "rewording", asked.replace("{}", "{subject}"))}, rich)
    pandas.testing.assert_frame_equal(rows[["answer", "p_true"]], expected[["answer", "p_true"]])


def test_a_fact_whose_answers_begin_alike_is_left_out(score, athletes, taught):
    alike = {"baseball": "league one", "basketball": "league two", "football": "football"}
    form = Format("alike", "vocabulary", "{subject} plays", alike)
    clear = replace(athletes[0], true="football", edit="golf", options=("football", "golf"))
    clash = [replace(clear, options=("football", "golf", "golf club"))]
    for true, edit in (("baseball", "football"), ("football", "basketball")):
        clash.append(replace(clear, true=true, edit=edit, options=(*alike,)))
    assert list(score({SPORT: form}, [*clash, clear]).id) == [clear.id]
    found = option_tokens(taught.tokenizer, {SPORT: form}, [*clash, clear])
    assert found[:3] == [None] * 3 and set(found[3]) == {"football", "golf"}


def test_options_that_begin_alike_are_no_answers(score, athletes):
    """Where neither truth nor edit is concerned, the fact stays and those options are dropped."""
    fact = athletes[0]
    more = replace(fact, options=(fact.true, fact.edit, "golf", "golf club"))
    two = replace(fact, options=(fact.true, fact.edit))
    form = Format("short", "training", "{subject} plays")
    rows = score({SPORT: form}, [more, two])
    assert len(rows) == 2
    assert rows.p_true[0] == pytest.approx(rows.p_true[1], abs=1e-5)


def test_answers_of_several_tokens_are_told_apart_by_their_first(score, athletes, taught):
    fact = athletes[0]
    long = {label: f"{label} in the sunny afternoon" for label in LEAGUES}
    words = [f" {long[label]}" for label in LEAGUES]
    assert min(map(len, taught.tokenizer(words, add_special_tokens=False).input_ids)) > 1
    plain, rows = (
        score({SPORT: Format("x", "training", "{subject} plays", answers)}, [fact])
        for answers in ({}, long)
    )
    pandas.testing.assert_frame_equal(rows, plain)


def test_a_format_counts_where_it_does_for_two_draws_of_the_facts(catalogue):
    names = [*catalogue.kinds]
    one = Formats(catalogue, {n: n != names[1] for n in names}, 1 / 3)
    two = Formats(catalogue, {n: n != names[2] for n in names}, 1 / 2)
    for both in (one.both(two), two.both(one)):
        assert both.counted == [names[0], *names[3:]] and both.catalogue is catalogue
        assert names[1] not in both.rewordings and names[2] not in both.rewordings
    assert one.both(two).chance == 1 / 3 and one.answerable[names[2]]


def test_formats_are_asked_on_the_way_of_a_real_edit(pupil, short_catalogue, known, known_split):
    """What is read at the first check that reaches a strength is what the model says there."""
    counts = Formats(short_catalogue, dict.fromkeys(short_catalogue.kinds, True), 1 / 3)
    watch = OnTheWay(counts, pupil.tokenizer, known, known_split, [0.3, 0.6, 0.95], 9)
    seen = []

    def both(runner, step, strength):
        watch(runner, step, strength)
        seen.append((step, strength))

    changed = [known[i] for i in known_split.forget]
    data = EditData.of(pupil.tokenizer, changed, [], [])
    place = Localization("early", (Component("mlp", 1), Component("mlp", 2)), 1, 1)
    wanted = edit_settings(max_steps=60, batch_facts=12, strength=0.8)
    result = train(pupil.model, place, data, wanted, 0, both)
    table = watch.table()
    assert result.reached and result.strength < 0.95
    firsts = {at: next(s for s in seen if s[1] >= at) for at in (0.3, 0.6)}
    assert {r["at"]: (r.step, r.strength) for _, r in table.iterrows()} == firsts
    edited = table[(table.format == "short") & table.split.isin(FORGET)]
    assert edited.groupby("at").p_edit.mean().is_monotonic_increasing
    assert set(table.format) == set(short_catalogue.kinds) and not table.isna().any().any()


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
