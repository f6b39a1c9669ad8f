"""Facts and their roles: checked records, stratified halves, a split that is a pure function."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import asdict, replace

import pytest

from lib.facts.build import ask_table, make_records
from lib.facts.formats import answer_tokens
from lib.facts.records import FactRecord, FactSplit, load_facts, make_split, save_facts
from lib.packing import Runner

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


def test_facts_and_split_read_back_equal(tmp_path):
    made = facts(12, 11, 10)
    split = make_split(made, 8, 3, SHARES, seed=0)
    save_facts(made, split, tmp_path)
    read, roles = load_facts(tmp_path)
    assert list(read.values()) == made and list(read) == [f.id for f in made]
    assert roles == split and roles.majority == split.majority


def test_missing_facts_name_the_notebook(tmp_path, refuses):
    with refuses(FileNotFoundError, tmp_path.name, "notebook 01", "dvc repro"):
        load_facts(tmp_path)


# --- from a table to records -----------------------------------------------------------------


def test_only_known_facts_become_records(taught, short_formats, known_table):
    asked = ask_table(Runner(taught.model), taught.tokenizer, short_formats, known_table)
    threshold = asked.probability.median()
    kept = make_records(asked, short_formats, taught.tokenizer, threshold, seed=0)
    expected = asked[asked.probability >= threshold]
    assert [f.subject for f in kept] == list(expected.subject)
    assert 0 < len(kept) < len(asked)


def test_probability_is_that_of_the_true_word_in_the_whole_vocabulary(
    taught, short_formats, known_table
):
    asked = ask_table(Runner(taught.model), taught.tokenizer, short_formats, known_table)
    tokens = answer_tokens(taught.tokenizer, short_formats.training)
    for row in asked.iloc[::7].itertuples():
        prompt = short_formats.training.prompt(row.subject)
        ids = taught.tokenizer(prompt, return_tensors="pt").input_ids
        plain = taught.model(ids).logits[0, -1].softmax(-1)[tokens[row.label]]
        assert row.probability == pytest.approx(plain.item(), abs=1e-4)


def test_edit_targets_are_drawn_from_the_seed(taught, short_formats, known_table):
    asked = ask_table(Runner(taught.model), taught.tokenizer, short_formats, known_table)
    first, again, other = (
        [f.edit for f in make_records(asked, short_formats, taught.tokenizer, 0.0, seed)]
        for seed in (0, 0, 1)
    )
    assert first == again != other
    assert set(first) == set(LABELS)


def test_an_edit_column_decides_the_target(taught, short_formats, known_table):
    asked = ask_table(Runner(taught.model), taught.tokenizer, short_formats, known_table)
    following = dict(zip(LABELS, LABELS[1:] + LABELS[:1]))
    asked = asked.assign(edit=asked.label.map(following))
    made = make_records(asked, short_formats, taught.tokenizer, 0.0, seed=0)
    assert all(f.edit == following[f.true] for f in made)


def test_records_point_at_their_own_tokens(known, taught, short_formats):
    tokens = answer_tokens(taught.tokenizer, short_formats.training)
    for record in list(known.values())[::5]:
        assert record.true_token == tokens[record.true]
        assert record.edit_token == tokens[record.edit]
        ids = taught.tokenizer(record.prompt).input_ids
        text = taught.tokenizer.decode([ids[i] for i in record.subject_positions])
        assert text.strip() == record.subject


# --- splits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("counts", [(30, 30, 30), (61, 22, 37), (80, 9, 8)])
def test_halves_are_stratified_by_label(counts, seed):
    made = facts(*counts)
    label = {f.id: f.true for f in made}
    split = make_split(made, 32, 6, SHARES, seed)
    first, second = (
        Counter(label[i] for i in ids) for ids in (split.forget_train, split.forget_heldout)
    )
    assert len(split.forget_train) == len(split.forget_heldout) == 16
    assert all(abs(first[name] - second[name]) <= 1 for name in LABELS)


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
