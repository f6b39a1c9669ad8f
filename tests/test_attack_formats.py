"""The format attack asks everything; a format counts only where retained facts hold."""

from __future__ import annotations

from dataclasses import replace

import pandas
import pytest
from pandas.api.types import is_float_dtype

from lib.facts.formats import Catalogue, Format, FormatSet
from lib.facts.records import READ
from lib.measure.answers import score_facts
from lib.measure.formats import Formats, OnTheWay, answerable, ask_all, ask_unedited
from lib.model.runner import Runner

LEAGUES = {"baseball": "MLB", "basketball": "NBA", "football": "NFL"}


@pytest.fixture(scope="module")
def asked(taught, short_catalogue, known, known_split):
    return ask_all(Runner(taught.model), taught.tokenizer, short_catalogue, known, known_split)


@pytest.fixture(scope="module")
def two_relations(short_formats, known):
    """(formats, facts): every other fact says the league; that relation has two formats."""
    forms = (
        Format("short", "training", "{subject} joined the"),
        Format("short-league", "vocabulary", "{subject} plays", {v: k for k, v in LEAGUES.items()}),
    )
    sets = {short_formats.relation: short_formats, "league": FormatSet("league", forms)}
    facts = dict(known)
    for i, fact in list(facts.items())[::2]:
        true, edit = LEAGUES[fact.true], LEAGUES[fact.edit]
        facts[i] = replace(
            fact, relation="league", true=true, edit=edit, options=tuple(LEAGUES.values())
        )
    return Catalogue(sets), facts


@pytest.fixture(scope="module")
def asked_twice(taught, two_relations, known_split):
    formats, facts = two_relations
    return ask_all(Runner(taught.model), taught.tokenizer, formats, facts, known_split)


def rows(right: dict[tuple[str, str], int], n: int = 10) -> pandas.DataFrame:
    """n rows per (format, split), the first `right` of them correct."""
    return pandas.DataFrame(
        {"format": form, "split": split, "true": "a", "answer": "a" if i < hits else "b"}
        for (form, split), hits in right.items()
        for i in range(n)
    )


def test_every_fact_is_asked_once_in_every_format(asked, short_formats, known_split):
    role = known_split.role_of()
    expected = {(i, f.name) for i, r in role.items() if r in READ for f in short_formats.formats}
    assert set(zip(asked.id, asked["format"])) == expected
    assert len(asked) == len(expected)
    assert list(asked.split) == [role[i] for i in asked.id]


def test_every_relation_is_asked_in_the_formats_it_has(asked_twice, two_relations, known_split):
    formats, facts = two_relations
    read = [i for name in READ for i in getattr(known_split, name)]
    expected = {(i, form.name) for i in read for form in formats.sets[facts[i].relation].formats}
    assert {f.name for f in formats.sets["league"].formats} == {"short", "short-league"}
    assert set(zip(asked_twice.id, asked_twice["format"])) == expected
    assert len(asked_twice) == len(expected)
    assert set(asked_twice[asked_twice.relation == "league"].answer) == set(LEAGUES.values())


def test_rows_equal_those_of_each_format_alone(asked_twice, two_relations, taught, known_split):
    formats, facts = two_relations
    heldout = [facts[i] for i in known_split.forget_heldout]
    mine = asked_twice[asked_twice.split == "forget_heldout"].drop(columns="split")
    for name in formats.kinds:
        runner = Runner(taught.model)
        expected = score_facts(runner, taught.tokenizer, formats.forms(name), heldout)
        found = mine[mine["format"] == name].reset_index(drop=True)
        pandas.testing.assert_frame_equal(found, expected, atol=1e-5, rtol=1e-4)


def test_a_gate_is_one_share_over_all_relations(asked_twice):
    assert answerable(asked_twice, 0.8) == {"short": True, "short-league": True, "untaught": False}


@pytest.fixture(scope="module")
def with_odd(taught, short_formats, known, known_split):
    """(formats, rows): one format in which no fact can be asked, all its answers being one word."""
    odd = Format("odd", "vocabulary", "{subject} likes", dict.fromkeys(LEAGUES, "golf"))
    forms = FormatSet(short_formats.relation, (short_formats.training, odd))
    formats = Catalogue({short_formats.relation: forms})
    return formats, ask_all(Runner(taught.model), taught.tokenizer, formats, known, known_split)


def test_a_format_that_no_fact_can_be_asked_in_leaves_no_row(with_odd, known):
    formats, rows = with_odd
    assert set(rows["format"]) == {"short"}
    assert answerable(rows, 0.8) == {"short": True}
    with pytest.raises(ValueError, match="no format but the one that edits are trained on"):
        Formats.of(formats, rows, 0.8, list(known.values()))


def test_probabilities_stay_numbers_beside_an_empty_format(with_odd):
    _, rows = with_odd
    assert is_float_dtype(rows.p_true) and is_float_dtype(rows.p_edit)


def test_roles_can_be_chosen(taught, short_catalogue, known, known_split):
    runner = Runner(taught.model)
    found = ask_all(
        runner, taught.tokenizer, short_catalogue, known, known_split, roles=("retain_val",)
    )
    assert set(found.id) == set(known_split.retain_val)


def test_formats_the_model_was_taught_are_answerable(asked):
    assert answerable(asked, 0.8) == {"short": True, "short-league": True, "untaught": False}


def test_the_gate_looks_at_retained_facts_only():
    table = rows(
        {("a", "retain_test"): 9, ("a", "forget_train"): 0}
        | {("b", "retain_test"): 1, ("b", "forget_train"): 10}
    )
    assert answerable(table, 0.8) == {"a": True, "b": False}


def test_the_gate_itself_is_enough():
    table = rows({("at", "retain_test"): 8, ("below", "retain_test"): 7})
    assert answerable(table, 0.8) == {"at": True, "below": False}


def test_transfer_is_measured_by_answerable_vocabulary_formats(catalogue):
    passes = {name: name != "league" for name in catalogue.kinds}
    assert Formats(catalogue, passes, 1 / 3).vocabulary == ["league-sentence"]


def test_what_was_decided_is_read_back(catalogue, tmp_path):
    passes = {name: kind != "choice" for name, kind in catalogue.kinds.items()}
    Formats(catalogue, passes, 1 / 3).save(tmp_path)
    found = Formats.load(tmp_path)
    assert found.catalogue == catalogue and found.answerable == passes
    assert found.counted == [name for name, ok in passes.items() if ok]
    assert found.chance == pytest.approx(1 / 3, abs=1e-6)


def test_a_model_without_such_a_format_is_refused_with_the_cure(with_odd, known, refuses):
    formats, rows = with_odd
    with refuses(ValueError, "no format but the one", "add one", "lower attack_formats.gate"):
        Formats.of(formats, rows, 0.8, list(known.values()))


def test_another_wording_alone_is_enough_to_see_whether_an_edit_carries_over(catalogue, known):
    counted = [catalogue.training, *catalogue.names("rewording")[:1]]
    table = rows({(name, "retain_test"): 10 for name in counted})
    found = Formats.of(catalogue, table, 0.8, list(known.values()))
    assert found.vocabulary == [] and found.rewordings == counted[1:]
    assert found.chance == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="answers no format but the one"):
        Formats.of(catalogue, table[table.format == counted[0]], 0.8, list(known.values()))


# Formats that show the answers


@pytest.fixture(scope="module")
def with_choices(short_formats):
    """The short formats with one that goes through the answers one by one."""
    words = {label: label for label in LEAGUES}
    turns = Format("turns", "choice", "{subject} plays {option} ?", words, yes=("yes",), no=("no",))
    forms = (*short_formats.formats, turns)
    return Catalogue({short_formats.relation: FormatSet(short_formats.relation, forms)})


@pytest.fixture
def ask(taught, with_choices, known, known_split):
    def unedited(gate: float):
        arguments = taught.tokenizer, with_choices, known, known_split
        return ask_unedited(Runner(taught.model), *arguments, gate, few=3)

    return unedited


def test_choices_that_few_facts_fail_are_asked_of_no_others(ask, asked, known_split):
    found = ask(gate=1.1)
    turns = found[found.format == "turns"]
    assert list(turns.id) == list(known_split.retain_test[:3])
    others = found[found.format != "turns"].reset_index(drop=True)
    pandas.testing.assert_frame_equal(others, asked, rtol=1e-4)


def test_choices_that_few_facts_pass_are_asked_of_all(ask, asked, known_split):
    found = ask(gate=0.0)
    turns = found[found.format == "turns"]
    assert set(turns.id) == {i for r in READ for i in getattr(known_split, r)}
    assert not found.duplicated(["id", "format"]).any() and len(found) == len(asked) + len(turns)


# On the way to an edit


@pytest.fixture
def watch(taught, short_catalogue, known, known_split):
    passes = {name: name != "untaught" for name in short_catalogue.kinds}
    formats = Formats(short_catalogue, passes, 1 / 3)
    watching = OnTheWay(formats, taught.tokenizer, known, known_split, [0.8, 0.5], 99)

    def at(*strengths):
        for step, strength in enumerate(strengths):
            watching(Runner(taught.model), step, strength)
        return watching.table()

    return at


def test_formats_are_asked_once_at_each_strength_on_the_way(watch, asked):
    table = watch(0.1, 0.55, 0.7, 0.85, 0.9)
    assert table.groupby(["at", "step", "strength"], sort=False).ngroups == 2
    assert dict(zip(table["at"], table.step)) == {0.5: 1, 0.8: 3}
    assert dict(zip(table["at"], table.strength)) == {0.5: 0.55, 0.8: 0.85}
    for _, part in table.groupby("at"):
        mine = asked[asked.format != "untaught"].reset_index(drop=True)
        found = part[mine.columns].reset_index(drop=True)
        pandas.testing.assert_frame_equal(found, mine, rtol=1e-4, check_dtype=False)


def test_strengths_that_one_step_jumps_over_are_asked_once(watch):
    table = watch(0.1, 0.9, 0.95)
    assert set(zip(table["at"], table.step)) == {(0.8, 1)}


def test_a_strength_that_is_never_reached_leaves_no_row(watch):
    table = watch(0.1, 0.3)
    assert table.empty and {"at", "step", "strength", "id", "split", "answer"} <= set(table)
