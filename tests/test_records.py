"""Facts and their roles: checked records, stratified halves, a split that is a pure function."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import asdict, replace

import pandas
import pytest

from lib.facts import build
from lib.facts.build import ask_all_relations, ask_table, label_tokens, make_records, never_known
from lib.facts.formats import Catalogue, Format, FormatSet, answer_tokens, load_training
from lib.facts.records import (
    FactRecord,
    FactSplit,
    load_facts,
    load_never_known,
    make_split,
    save_facts,
    strata,
)
from lib.model.runner import Runner

RELATION, LEAGUE = "plays-sport", "joined-league"
LEAGUES = {"baseball": "MLB", "basketball": "NBA", "football": "NFL"}
LABELS = ("baseball", "basketball", "football")
SHARES = (0.5, 0.15)


def fact(i: int, label: int, **changes) -> FactRecord:
    edit = (label + 1) % 3
    values = dict(
        id=f"plays-sport/name {i:03}",
        relation="plays-sport",
        subject=f"name {i:03}",
        true=LABELS[label],
        edit=LABELS[edit],
        options=LABELS,
        prompt=f"name {i:03} plays",
        subject_positions=(1, 2),
        true_token=label,
        edit_token=edit,
        probability=0.9,
    )
    return FactRecord(**values | changes)


def facts(*counts: int) -> list[FactRecord]:
    labels = [label for label, n in enumerate(counts) for _ in range(n)]
    return [fact(i, label) for i, label in enumerate(labels)]


# --- records ---------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"edit": "football"}, {"edit_token": 2}])
def test_an_edit_target_equal_to_the_truth_is_refused(changes, refuses):
    with refuses(ValueError, "'name 007'", "equals the truth", "give it another answer"):
        fact(7, 2, **changes)


@pytest.mark.parametrize(
    "options",
    [
        ("baseball", "football"),  # the truth is missing
        ("basketball", "football"),  # the edit target is missing
        ("baseball", "basketball", "basketball"),  # the truth stands there twice
    ],
)
def test_options_hold_truth_and_edit_target_once(options, refuses):
    with refuses(ValueError, "'name 007'", "must hold truth and edit target exactly once"):
        fact(7, 1, edit="baseball", edit_token=0, options=options[::-1])


def test_options_are_distinct(refuses):
    with refuses(ValueError, "'name 007'", "not distinct", "football, football"):
        fact(7, 0, options=(*LABELS, "football"))


def test_a_record_needs_its_subject_in_the_prompt(refuses):
    with refuses(ValueError, "'name 007'", "not found in its prompt", "name 007 plays"):
        fact(7, 0, subject_positions=())


def test_records_cannot_be_changed():
    with pytest.raises(AttributeError):
        fact(0, 0).true = "football"


def test_facts_split_and_invented_read_back_equal(tmp_path, short_catalogue):
    made = facts(12, 11, 10)
    made[0] = replace(made[0], subject="José Peña", paraphrases=("a", "b"), neighbors=("c",))
    split = make_split(made, 8, 3, SHARES, seed=0)
    strangers = [fact(i, i % 3, subject=f"nobody {i}") for i in range(200, 205)]
    save_facts(made, split, strangers, short_catalogue, tmp_path)
    assert load_training(tmp_path) == short_catalogue.forms(short_catalogue.training)
    read, roles = load_facts(tmp_path)
    assert load_never_known(tmp_path) == strangers
    assert list(read.values()) == made and list(read) == [f.id for f in made]
    assert roles == split and roles.majority == split.majority


def test_no_invented_subjects_read_back_as_none(tmp_path, short_catalogue):
    made = facts(12, 11, 10)
    split = make_split(made, 8, 3, SHARES, seed=0)
    save_facts(made, split, [], short_catalogue, tmp_path)
    assert load_never_known(tmp_path) == []


# --- from a table to records -----------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(taught, short_formats, known_table):
    """(the asked table, {relation: tokens}) of the one relation."""
    tokens = label_tokens(taught.tokenizer, known_table, short_formats)
    runner = Runner(taught.model)
    rows = ask_table(runner, taught.tokenizer, short_formats, known_table, tokens)
    return rows, {RELATION: tokens}


@pytest.fixture(scope="module")
def two(short_formats):
    """Formats of two relations: the sport, and the league with any answers."""
    joined = Format("short", "training", "{subject} joined the")
    return Catalogue({RELATION: short_formats, LEAGUE: FormatSet(LEAGUE, (joined,))})


@pytest.fixture(scope="module")
def two_table(known_table):
    """Facts of both relations, in turns, with the same subjects."""
    leagues = known_table.assign(relation=LEAGUE, label=known_table.label.map(LEAGUES))
    return pandas.concat([known_table, leagues]).sort_index(kind="stable").reset_index(drop=True)


@pytest.fixture(scope="module")
def asked_both(taught, two, two_table):
    runner = Runner(taught.model)
    return ask_all_relations(runner, taught.tokenizer, two, two_table, first_token=False)


@pytest.fixture
def make(taught, short_catalogue, asked):
    def records(rows=asked[0], min_probability=0.0, seed=0):
        args = short_catalogue, taught.tokenizer, asked[1], min_probability, seed
        return make_records(rows, *args)

    return records


def test_only_known_facts_become_records(asked, make):
    rows = asked[0]
    threshold = rows.probability.median()
    kept = make(min_probability=threshold)
    assert [f.subject for f in kept] == list(rows[rows.probability >= threshold].subject)
    assert 0 < len(kept) < len(rows)


def test_probability_is_that_of_the_true_word_in_the_whole_vocabulary(asked, taught, short_formats):
    rows, tokens = asked
    for row in rows.iloc[::7].itertuples():
        prompt = short_formats.training.prompt(row.subject)
        ids = taught.tokenizer(prompt, return_tensors="pt").input_ids
        logits = taught.model(ids).logits[0, -1]
        plain = logits.softmax(-1)[tokens[RELATION][row.label]]
        assert row.probability == pytest.approx(plain.item(), abs=1e-4)
        among = {label: logits[token] for label, token in tokens[RELATION].items()}
        assert row.answer == max(among, key=among.get)


def test_asking_in_pieces_changes_nothing(asked, taught, short_formats, known_table, monkeypatch):
    monkeypatch.setattr(build, "CHUNK", 7)
    rows, tokens = asked
    runner = Runner(taught.model)
    args = taught.tokenizer, short_formats, known_table, tokens[RELATION]
    pandas.testing.assert_frame_equal(ask_table(runner, *args), rows, atol=1e-5, rtol=1e-4)


def test_edit_targets_are_drawn_from_the_seed(make):
    first, again, other = ([f.edit for f in make(seed=seed)] for seed in (0, 0, 1))
    assert first == again != other
    assert set(first) == set(LABELS)


def test_an_edit_column_decides_the_target(asked, make):
    following = dict(zip(LABELS, LABELS[1:] + LABELS[:1]))
    rows = asked[0].assign(edit=asked[0].label.map(following))
    made = make(rows)
    assert len(made) == len(rows) and all(f.edit == following[f.true] for f in made)


def test_a_fact_without_a_usable_edit_target_is_left_out(asked, make):
    rows = asked[0].head(3)
    assert set(rows.label) == {"baseball"}
    rows = rows.assign(edit=["golf", "football", "baseball"])
    assert [(f.subject, f.edit) for f in make(rows)] == [(rows.subject[1], "football")]


def test_a_relation_with_a_single_label_has_nothing_to_be_edited_to(asked, taught, short_catalogue):
    rows, tokens = asked
    only = {RELATION: {"baseball": tokens[RELATION]["baseball"]}}
    assert set(rows.label) >= {"baseball"}
    alone = rows[rows.label == "baseball"]
    assert make_records(alone, short_catalogue, taught.tokenizer, only, 0.0, seed=0) == []


def test_relations_asked_together_are_asked_as_if_alone(asked, asked_both):
    (rows, tokens), (both, every) = asked, asked_both
    assert list(every) == [RELATION, LEAGUE] and every[RELATION] == tokens[RELATION]
    mine = both[both.relation == RELATION].reset_index(drop=True)
    pandas.testing.assert_frame_equal(mine, rows, atol=1e-5, rtol=1e-4)
    assert (both.answer == both.label).groupby(both.relation).mean().min() > 0.9


def test_every_relation_has_options_of_its_own(asked_both, two, taught):
    both, tokens = asked_both
    made = make_records(both, two, taught.tokenizer, tokens, 0.0, seed=0)
    assert len(made) == len(both) and len({f.id for f in made}) == len(made)
    options = {RELATION: set(LABELS), LEAGUE: set(LEAGUES.values())}
    for fact in made:
        assert set(fact.options) == options[fact.relation] and fact.edit in fact.options
        assert fact.prompt == two.sets[fact.relation].training.prompt(fact.subject)
        assert fact.id == f"{fact.relation}/{fact.subject}"
        assert fact.true_token == tokens[fact.relation][fact.true]


def test_labels_without_a_list_are_those_of_the_table(taught, two, two_table):
    rows = two_table[two_table.relation == LEAGUE]
    assert set(label_tokens(taught.tokenizer, rows, two.sets[LEAGUE])) == set(LEAGUES.values())
    few = rows[rows.label != "NFL"]
    assert set(label_tokens(taught.tokenizer, few, two.sets[LEAGUE])) == {"MLB", "NBA"}
    wanted = few.assign(edit="NFL")
    assert set(label_tokens(taught.tokenizer, wanted, two.sets[LEAGUE])) == set(LEAGUES.values())


def test_an_answer_of_several_tokens_needs_the_first_token_rule(taught, two, two_table, refuses):
    rows = two_table[two_table.relation == LEAGUE]
    rows = rows.assign(label=rows.label + " of the season")
    with refuses(ValueError, "MLB of the season", "tokens for this model", "choose a word"):
        label_tokens(taught.tokenizer, rows, two.sets[LEAGUE])
    found = label_tokens(taught.tokenizer, rows, two.sets[LEAGUE], first_token=True)
    assert taught.tokenizer.decode(list(found.values())).split() == [
        label.split()[0] for label in found
    ]


def test_facts_whose_answers_begin_alike_are_not_asked(taught, two, two_table):
    rows = two_table[two_table.relation == LEAGUE].reset_index(drop=True)
    rows.loc[rows.index[:2], "label"] = ["MLB one", "MLB two"]
    rows = rows[rows.label != "MLB"]
    tokens = label_tokens(taught.tokenizer, rows, two.sets[LEAGUE], first_token=True)
    assert set(tokens) == {"NBA", "NFL"}
    found = ask_table(Runner(taught.model), taught.tokenizer, two.sets[LEAGUE], rows, tokens)
    assert set(found.label) == {"NBA", "NFL"} and len(found) == rows.label.isin(tokens).sum()
    empty = ask_table(
        Runner(taught.model), taught.tokenizer, two.sets[LEAGUE], rows.head(2), tokens
    )
    assert empty.empty and {"answer", "probability"} <= set(empty.columns)


def test_records_point_at_their_own_tokens(known, taught, short_formats):
    tokens = answer_tokens(taught.tokenizer, short_formats.training)
    for record in list(known.values())[::5]:
        assert record.true_token == tokens[record.true]
        assert record.edit_token == tokens[record.edit]
        ids = taught.tokenizer(record.prompt).input_ids
        text = taught.tokenizer.decode([ids[i] for i in record.subject_positions])
        assert text.strip() == record.subject


# --- invented subjects -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def strangers():
    names = [f"Zeb Quandrel {letter}" for letter in "ABCD"]
    return pandas.DataFrame(
        {
            "relation": [RELATION, LEAGUE, RELATION, LEAGUE],
            "subject": names,
            "label": ["football", "MLB", "baseball", "NFL"],
        }
    )


def test_invented_subjects_become_records_however_little_is_known_of_them(
    taught, two, asked_both, strangers
):
    args = Runner(taught.model), taught.tokenizer, two, strangers, asked_both[1]
    found, again, other = (never_known(*args, seed=seed) for seed in (0, 0, 1))
    assert {f.subject: f.true for f in found} == dict(zip(strangers.subject, strangers.label))
    assert {f.subject: f.relation for f in found} == dict(
        zip(strangers.subject, strangers.relation)
    )
    assert min(f.probability for f in found) < 0.5
    assert found == again and [f.edit for f in found] != [f.edit for f in other]
    leagues = [f.options for f in found if f.relation == LEAGUE]
    assert all(set(options) == set(LEAGUES.values()) for options in leagues)


def test_labels_that_cannot_be_told_apart_make_no_invented_fact(taught, two, asked_both, strangers):
    odd = strangers.assign(label=["football", "golf", "baseball", "NFL"])
    found = never_known(Runner(taught.model), taught.tokenizer, two, odd, asked_both[1], seed=0)
    assert {f.subject for f in found} == set(odd.subject) - {odd.subject[1]}


def test_no_invented_subjects_give_no_records(taught, two, asked_both, strangers):
    none = strangers.head(0)
    args = Runner(taught.model), taught.tokenizer, two, none, asked_both[1]
    assert never_known(*args, seed=0) == []


# --- splits ----------------------------------------------------------------------------------


def relations(*counts: int) -> list[FactRecord]:
    """Facts of as many relations as there are counts, with all labels in each."""
    each = [name for name, n in zip("abcdefgh", counts) for _ in range(n)]
    return [fact(i, i % 3, id=f"{name}/{i:03}", relation=name) for i, name in enumerate(each)]


def test_roles_are_balanced_over_labels_or_over_relations():
    one, many = facts(2, 2), relations(2, 1)
    assert strata(one) == {f.id: f.true for f in one}
    assert strata(many) == {f.id: f.relation for f in many}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("counts", [(30, 30, 30), (61, 22, 37), (80, 9, 8), (20,) * 8])
@pytest.mark.parametrize("many", [False, True], ids=["labels", "relations"])
def test_halves_are_stratified(counts, seed, many):
    if not many:
        counts = counts[:3]  # there are three labels
    made = relations(*counts) if many else facts(*counts)
    stratum = strata(made)
    split = make_split(made, 32, 6, SHARES, seed)
    first, second = (
        Counter(stratum[i] for i in ids) for ids in (split.forget_train, split.forget_heldout)
    )
    assert len(split.forget_train) == len(split.forget_heldout) == 16
    assert all(abs(first[name] - second[name]) <= 1 for name in set(stratum.values()))


def test_every_role_has_the_relation_shares_of_the_whole():
    made = relations(120, 60, 60)
    relation = {f.id: f.relation for f in made}
    split = make_split(made, 32, 12, SHARES, seed=0)
    for role in FactSplit.ROLES:
        ids = getattr(split, role)
        share = Counter(relation[i] for i in ids)["a"] / len(ids)
        assert share == pytest.approx(0.5, abs=0.15)


def test_facts_of_many_relations_need_some_for_each(refuses):
    made = relations(*(5,) * 8)
    assert make_split(made, 10, 6, SHARES, seed=0)
    with refuses(ValueError, "knows 40 facts", "42 are needed", "lower `forget`"):
        make_split(made, 12, 6, SHARES, seed=0)


@pytest.mark.parametrize("role", FactSplit.ROLES)
def test_every_role_has_the_label_shares_of_the_whole(role):
    made = facts(60, 30, 30)
    label = {f.id: f.true for f in made}
    ids = getattr(make_split(made, 32, 12, SHARES, seed=0), role)
    share = Counter(label[i] for i in ids)["baseball"] / len(ids)
    assert share == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("seed", range(3))
def test_roles_are_disjoint_and_complete(seed):
    made = facts(30, 25, 20)
    split = make_split(made, 20, 5, SHARES, seed)
    ids = [i for role in FactSplit.ROLES for i in getattr(split, role)]
    assert sorted(ids) == sorted(f.id for f in made)
    assert split.role_of()[split.fewshot[0]] == "fewshot"
    assert split.forget == split.forget_train + split.forget_heldout


def test_role_sizes_follow_the_settings():
    split = make_split(facts(40, 40, 40), 32, 8, SHARES, seed=0)
    sizes = {role: len(getattr(split, role)) for role in FactSplit.ROLES}
    assert sizes["fewshot"] == 8
    assert (sizes["retain_train"], sizes["retain_val"], sizes["retain_test"]) == (40, 12, 28)


def test_a_split_is_a_pure_function_of_facts_and_seed():
    made = facts(30, 25, 20)
    first = make_split(made, 20, 5, SHARES, seed=3)
    random.seed(99)
    shuffled = random.sample(made, len(made))
    assert asdict(make_split(shuffled, 20, 5, SHARES, seed=3)) == asdict(first)


def test_another_seed_draws_other_facts():
    made = facts(30, 25, 20)
    drawn = {frozenset(make_split(made, 20, 5, SHARES, seed).forget) for seed in range(5)}
    assert len(drawn) == 5


def test_majority_is_the_share_of_the_commonest_label():
    made = facts(60, 20, 20)
    label = {f.id: f.true for f in made}
    split = make_split(made, 20, 5, SHARES, seed=0)
    for role in FactSplit.ROLES:
        counts = Counter(label[i] for i in getattr(split, role))
        assert split.majority[role] == max(counts.values()) / sum(counts.values())


@pytest.mark.parametrize("seed", range(3))
def test_a_whole_sport_is_edited_and_nothing_of_it_retained(seed):
    made = facts(31, 20, 25)
    label = {f.id: f.true for f in made}
    gone = made[0].true
    split = make_split(made, None, 6, SHARES, seed, gone)
    assert len(split.forget) == sum(t == gone for t in label.values()) // 2 * 2
    assert len(split.forget_train) == len(split.forget_heldout)
    assert {label[i] for i in split.forget} == {gone}
    for role in ("retain_train", "retain_val", "retain_test"):
        assert {label[i] for i in getattr(split, role)} == set(label.values()) - {gone}
    some = make_split(made, 10, 6, SHARES, seed, gone)
    assert len(some.forget) == 10 and {label[i] for i in some.forget} == {gone}
    kept = {i for i in label if label[i] == gone} - set(some.forget)
    assert not kept & set(some.role_of())


def test_a_label_nobody_has_cannot_be_forgotten(refuses):
    with refuses(ValueError, "knows 60 facts", "(0 of them with the answer 'curling')"):
        make_split(facts(20, 20, 20), None, 6, SHARES, 0, "curling")


def test_too_few_facts_say_how_many_are_needed(refuses):
    cure = "lower `forget` or `min_probability` in params.yaml, or add facts"
    with refuses(ValueError, "knows 20 facts", "35 are needed", cure):
        make_split(facts(10, 5, 5), 20, 6, SHARES, seed=0)


def test_just_enough_facts_are_split():
    split = make_split(facts(15, 10, 10), 20, 6, SHARES, seed=0)
    assert min(len(getattr(split, role)) for role in FactSplit.ROLES) > 0


@pytest.mark.parametrize("forget", [7, 0, 1])
def test_a_forget_set_without_two_halves_is_refused(forget, refuses):
    with refuses(ValueError, f"forget is {forget}", "set it to an even number of at least 2"):
        make_split(facts(10, 10, 10), forget, 2, SHARES, seed=0)


def test_a_fact_in_two_roles_is_refused(refuses):
    split = make_split(facts(12, 11, 10), 8, 3, SHARES, seed=0)
    twice = split.forget_train[0]
    with refuses(ValueError, twice, "roles must be disjoint"):
        replace(split, fewshot=(*split.fewshot, twice))
