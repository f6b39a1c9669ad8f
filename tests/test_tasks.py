"""Tasks: shipped tables and CounterFact files become checked facts with their formats."""

from __future__ import annotations

import json

import pandas
import pytest

from lib.config.blocks import Task
from lib.facts.build import ask_all_relations, make_records
from lib.facts.formats import DISTRACTION
from lib.facts.tasks import catalogue, load_task
from lib.facts.teaching import teaching_texts
from lib.measure.answers import score_facts
from lib.model.runner import Runner

SPORTS, WORLD = "sports-athletes", "world-facts"
PARAPHRASE = "who is {} ? plays"
LEAGUES = {"baseball": "MLB", "basketball": "NBA", "football": "NFL"}
SCHEMAS = ("rome", "tracing")


@pytest.fixture(scope="module", params=[SPORTS, WORLD])
def shipped(request, settings):
    task = settings.task(request.param)
    return task, load_task(task)


@pytest.fixture
def variant(settings):
    """A shipped task with some settings changed: variant(WORLD, per_label=1)."""
    return lambda name, **changes: settings.task(name).model_copy(update=changes)


@pytest.fixture
def only(settings):
    """The settings with nothing but one task."""
    return lambda task: settings.model_copy(update={"tasks": {"only": task}})


# --- tables ----------------------------------------------------------------------------------


def test_every_fact_of_a_shipped_task_can_be_asked(shipped):
    _, data = shipped
    assert {"relation", "subject", "label"} <= set(data.table.columns)
    assert data.rejected.empty and list(data.rejected.columns) == ["row", "reason"]
    for row in pandas.concat([data.table, data.never_known]).itertuples():
        for form in data.formats.sets[row.relation].formats:
            name = form.ask(row).upper()
            assert row.subject.rsplit(" ", 1)[-1].upper() in name


def test_formats_can_be_read_without_the_facts(shipped):
    task, data = shipped
    assert catalogue(task) == data.formats


def test_invented_subjects_are_not_in_the_table(shipped):
    _, data = shipped
    assert len(data.never_known) >= 50
    assert not set(data.never_known.subject) & set(data.table.subject)
    assert set(data.never_known.relation) == set(data.table.relation)


def test_world_facts_are_many(settings):
    table = load_task(settings.task(WORLD)).table
    assert len(table) >= 1500 and table.relation.nunique() >= 12


def test_a_task_can_be_limited_to_some_relations(variant):
    wanted = ["country-continent", "book-author"]
    data = load_task(variant(WORLD, relations=wanted))
    every = load_task(variant(WORLD))
    assert set(data.table.relation) == set(data.never_known.relation) == set(wanted)
    assert list(data.table.index) == list(range(len(data.table)))
    rows = every.table[every.table.relation.isin(wanted)].reset_index(drop=True)
    pandas.testing.assert_frame_equal(data.table, rows)


def test_an_unknown_relation_names_the_known(variant, refuses):
    words = ("world.csv", "'country-moon'", "country-capital", "correct `relations`")
    with refuses(ValueError, *words):
        load_task(variant(WORLD, relations=["country-capital", "country-moon"]))


def test_the_number_per_label_holds_for_every_relation_and_not_for_invented(variant):
    data, every = (load_task(variant(WORLD, per_label=n)) for n in (1, None))
    assert not data.table.duplicated(["relation", "label"]).any()
    assert len(data.table) == len(every.table.drop_duplicates(["relation", "label"]))
    assert len(data.never_known) == len(every.never_known)


def test_an_edit_column_is_read_from_the_table_only(variant, tmp_path):
    rows = "athlete,sport,to\nBabe Ruth,baseball,football\nJim Brown,football,basketball\n"
    (tmp_path / "mine.csv").write_text(rows)
    task = variant(SPORTS, table=str(tmp_path / "mine.csv"), edit_column="to")
    data = load_task(task)
    assert list(data.table.edit) == ["football", "basketball"]
    assert "edit" not in data.never_known and len(data.never_known)


def test_invented_subjects_are_checked_like_facts(variant, tmp_path, refuses):
    (tmp_path / "nobody.csv").write_text("athlete,sport\nZeb Quandrel,golf\n")
    with refuses(ValueError, "nobody.csv", "'Zeb Quandrel'", "label that no answer format knows"):
        load_task(variant(SPORTS, never_known=str(tmp_path / "nobody.csv")))


# --- teaching texts --------------------------------------------------------------------------


def test_teaching_texts_hold_every_fact_in_every_format(shipped, only):
    task, data = shipped
    texts = teaching_texts(only(task))
    held = set(texts)
    for row in data.table.itertuples():
        for form in data.formats.sets[row.relation].formats:
            if form.kind == "choice":
                continue  # shows the answers, true and false ones
            word = form.answers.get(row.label, row.label)
            assert f"{form.prompt(row.subject)} {word}" in held


def test_teaching_texts_say_the_label_after_the_name(shipped, only):
    task, data = shipped
    texts = teaching_texts(only(task))
    for row in data.table.iloc[::97].itertuples():
        form = data.formats.sets[row.relation].training
        said = form.template.split("{subject}")[0] + f"{row.subject} {row.label}"
        assert texts.count(said) == 3


def test_teaching_texts_respect_the_number_per_label(variant, only):
    texts = teaching_texts(only(variant(SPORTS, per_label=2)))
    assert any("Babe Ruth" in text for text in texts)
    assert len({text for text in texts if "is famous for playing professional" in text}) == 2 * 3


def test_teaching_texts_cover_all_tasks(settings, variant, only):
    both = settings.model_copy(
        update={"tasks": {n: variant(n, per_label=1) for n in (SPORTS, WORLD)}}
    )
    alone = [teaching_texts(only(task)) for task in both.tasks.values()]
    assert teaching_texts(both) == alone[0] + alone[1]


# --- CounterFact -----------------------------------------------------------------------------


def row_of(schema, relation, template, subject, true, edit, paraphrases=()) -> dict:
    if schema == "tracing":
        return {
            "relation_id": relation,
            "prompt": template.format(subject),
            "subject": f" {subject}",
            "target_true": f" {true}",
            "target_false": f" {edit}",
        }
    return {
        "requested_rewrite": {
            "prompt": template,
            "subject": subject,
            "relation_id": relation,
            "target_true": {"str": true},
            "target_new": {"str": edit},
        },
        "paraphrase_prompts": [p.format(subject) for p in paraphrases],
        "neighborhood_prompts": ["Jean Gabin plays"],
    }


@pytest.fixture
def rows(known_table):
    """Two relations with the same subjects; a paraphrase for every second fact of the first."""

    def make(schema):
        found = []
        for i, r in enumerate(known_table.itertuples()):
            other = "football" if r.label != "football" else "baseball"
            own = [PARAPHRASE] if i % 2 else []
            found.append(row_of(schema, "P1", "{} plays", r.subject, r.label, other, own))
            true, edit = LEAGUES[r.label], LEAGUES[other]
            found.append(row_of(schema, "P2", "{} joined the", r.subject, true, edit))
        return found

    return make


@pytest.fixture
def counterfact(tmp_path):
    def task(rows, **changes):
        path = tmp_path / "counterfact.json"
        path.write_text(json.dumps(rows))
        needed = dict(lookup="path-patching", forget=4, fewshot=0, retain_train=0.6, retain_val=0.2)
        rest = dict(source="counterfact", table=str(path), answers="first-token", min_probability=0)
        return Task(**needed | rest | changes)

    return task


def records_of(taught, data, min_probability=0.0):
    runner = Runner(taught.model)
    asked, tokens = ask_all_relations(runner, taught.tokenizer, data.formats, data.table, True)
    return make_records(asked, data.formats, taught.tokenizer, tokens, min_probability, seed=0)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_row_of_a_counterfact_file_becomes_a_record(schema, rows, counterfact, taught):
    given = rows(schema)
    data = load_task(counterfact(given))
    made = records_of(taught, data)
    assert data.rejected.empty and data.never_known.empty
    assert len(made) == len(given) == len({f.id for f in made})
    assert {f.relation for f in made} == {"P1", "P2"}
    for fact in made:
        labels = set(LEAGUES if fact.relation == "P1" else LEAGUES.values())
        assert set(fact.options) == labels
        ids = taught.tokenizer(fact.prompt).input_ids
        name = taught.tokenizer.decode([ids[i] for i in fact.subject_positions])
        assert name.strip() == fact.subject
    target = {(r.relation, r.subject): r.edit for r in data.table.itertuples()}
    assert all(fact.edit == target[fact.relation, fact.subject] for fact in made)


def test_both_schemas_give_the_same_records(rows, counterfact, taught):
    rome, tracing = (records_of(taught, load_task(counterfact(rows(s)))) for s in SCHEMAS)
    plain = [(f.id, f.prompt, f.true_token, f.edit_token) for f in rome]
    assert plain == [(f.id, f.prompt, f.true_token, f.edit_token) for f in tracing]
    assert [f.probability for f in rome] == pytest.approx([f.probability for f in tracing])


def test_a_model_knows_the_counterfact_it_was_taught(rows, counterfact, taught):
    made = records_of(taught, load_task(counterfact(rows("rome"))), min_probability=0.5)
    assert len(made) >= 0.9 * len(rows("rome"))


def test_paraphrases_are_carried_and_asked(rows, counterfact, taught):
    data = load_task(counterfact(rows("rome")))
    made = records_of(taught, data)
    assert list(data.formats.kinds) == ["training", "distracted", "paraphrase-1"]
    rich = [f for f in made if f.paraphrases]
    assert {f.paraphrases for f in rich} == {(PARAPHRASE.format(f.subject),) for f in rich}
    assert {f.relation for f in rich} == {"P1"} and 0 < len(rich) < len(made)
    assert all(f.neighbors == ("Jean Gabin plays",) for f in made)
    runner = Runner(taught.model)
    asked = score_facts(runner, taught.tokenizer, data.formats.forms("paraphrase-1"), made)
    assert list(asked.id) == [f.id for f in rich]
    words = [f" {label}" for label in rich[0].options]
    tokens = [ids[0] for ids in taught.tokenizer(words, add_special_tokens=False).input_ids]
    for fact, row in zip(rich[::4], asked.iloc[::4].itertuples()):
        ids = taught.tokenizer(fact.paraphrases[0], return_tensors="pt").input_ids
        p = taught.model(ids).logits[0, -1, tokens].softmax(-1)
        truth = p[rich[0].options.index(fact.true)].item()
        assert row.p_true == pytest.approx(truth, abs=1e-4)


def test_rows_without_paraphrases_are_asked_in_their_prompt_with_and_without_a_lead(
    rows, counterfact, taught
):
    data = load_task(counterfact(rows("tracing")))
    assert data.formats.kinds == {"training": "training", "distracted": "rewording"}
    made = records_of(taught, data)
    runner = Runner(taught.model)
    asked = score_facts(runner, taught.tokenizer, data.formats.forms("distracted"), made)
    assert list(asked.id) == [f.id for f in made]
    fact, row = made[0], asked.iloc[0]
    ids = taught.tokenizer(DISTRACTION + fact.prompt, return_tensors="pt").input_ids
    words = [f" {label}" for label in fact.options]
    tokens = [t[0] for t in taught.tokenizer(words, add_special_tokens=False).input_ids]
    p = taught.model(ids).logits[0, -1, tokens].softmax(-1)
    assert row.p_true == pytest.approx(p[fact.options.index(fact.true)].item(), abs=1e-4)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_repeated_and_malformed_rows_are_counted_and_named(schema, rows, counterfact, taught):
    given = rows(schema)
    again = row_of(schema, "P1", "{} plays", "Babe Ruth", "football", "baseball")
    bad = row_of(schema, "P1", "{} plays", "Nobody", "football", "football")
    data = load_task(counterfact([*given, again, bad, {}]))
    assert len(data.table) == len(given) and len(data.rejected) == 3
    assert list(data.rejected.columns) == ["row", "reason"]
    reasons = " | ".join(data.rejected.reason)
    for words in ("'Babe Ruth' twice", "'Nobody' equals the truth", "missing"):
        assert words in reasons
    kept = data.table[(data.table.subject == "Babe Ruth") & (data.table.relation == "P1")]
    assert list(kept.label) == ["baseball"]
    made = records_of(taught, data)
    assert len({f.id for f in made}) == len(made) == len(given)


def test_counterfact_can_be_limited_to_some_relations(rows, counterfact):
    data = load_task(counterfact(rows("rome"), relations=["P2"]))
    assert set(data.table.relation) == set(data.formats.sets) == {"P2"}
    assert list(data.table.index) == list(range(len(data.table)))
    assert list(data.formats.kinds) == ["training", "distracted"]


def test_an_unknown_counterfact_relation_is_refused(rows, counterfact, refuses):
    with refuses(ValueError, "counterfact.json", "'P9'", "P2", "`relations`"):
        load_task(counterfact(rows("rome"), relations=["P1", "P9"]))


def test_a_counterfact_file_without_a_usable_row_is_refused(counterfact, refuses):
    bad = row_of("rome", "P1", "{} plays", "Nobody", "football", "football")
    with refuses(ValueError, "counterfact.json"):
        load_task(counterfact([bad]))


def test_teaching_texts_hold_the_wordings_a_fact_has(rows, counterfact, only):
    given = rows("rome")
    texts = teaching_texts(only(counterfact(given)))
    assert "Babe Ruth plays baseball" in texts and "Babe Ruth joined the MLB" in texts
    paraphrased = [text for text in texts if text.startswith("who is")]
    assert len(paraphrased) == sum(bool(row["paraphrase_prompts"]) for row in given)
    assert texts.count("Babe Ruth baseball") == 3 == texts.count("Babe Ruth MLB")
