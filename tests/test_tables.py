"""Fact tables: whatever a csv file can get wrong is one sentence with the cure."""

from __future__ import annotations

import pytest

from lib.facts.tables import load_table

RELATION = "plays-sport"
LABELS = ["baseball", "basketball", "football"]
KNOWN = {RELATION: LABELS}
WORLD = (
    "about,name,what\ncity,Lyon,France\ncity,Osaka,Japan\nfood,Lyon,sausage\n"
    "city,Nice,France\nfood,Nice,salad\ncity,Paris,France\n"
)
GOOD = "athlete,sport\nBabe Ruth,baseball\nBill Russell,basketball\nJim Brown,football\n"
PUBLISHED = (
    "Unnamed: 0,athlete,sport,log_prob_one_shot,num_athlete_tokens,sport_index,sport_token,"
    "prompt,inject_sport_with_golf,inject_sport_without_golf\n"
    '0,DeForest Buckner,football,-0.25,5,0,5842,"Fact: Tiger Woods plays the sport of golf\n'
    'Fact: DeForest Buckner plays the sport of",golf,basketball\n'
    '1,Walter Payton,football,-0.1,4,0,5842,"Fact: Tiger Woods plays the sport of golf\n'
    'Fact: Walter Payton plays the sport of",baseball,baseball\n'
)


@pytest.fixture
def read(tmp_path):
    def load(text: str, subject="athlete", label="sport", **more):
        (tmp_path / "facts.csv").write_text(text, encoding="utf-8")
        return load_table(tmp_path / "facts.csv", subject, label, **more)

    return load


def test_a_good_table_keeps_the_order_of_the_file(read):
    table = read(GOOD, labels=KNOWN)
    assert set(table.columns) == {"relation", "subject", "label"}
    assert set(table.relation) == {RELATION}
    assert list(table.subject) == ["Babe Ruth", "Bill Russell", "Jim Brown"]
    assert list(table.label) == LABELS


def test_the_published_table_loads_as_it_is(read):
    table = read(PUBLISHED, edit="inject_sport_without_golf", labels=KNOWN)
    assert table.to_dict("list") == {
        "relation": [RELATION, RELATION],
        "subject": ["DeForest Buckner", "Walter Payton"],
        "label": ["football", "football"],
        "edit": ["basketball", "baseball"],
    }


def test_spaces_around_a_cell_do_not_count(read):
    table = read("athlete,sport\n Babe Ruth ,baseball \n", labels=KNOWN)
    assert table[["subject", "label"]].values.tolist() == [["Babe Ruth", "baseball"]]


def test_a_name_that_looks_like_a_missing_value_stays_a_name(read):
    assert list(read("athlete,sport\nNA,baseball\nNone,football\n").subject) == ["NA", "None"]


def test_a_quoted_comma_belongs_to_the_name(read):
    table = read('athlete,sport\n"Ken Griffey, Jr.",baseball\n')
    assert list(table.subject) == ["Ken Griffey, Jr."]


def test_a_missing_file_names_the_parameter(tmp_path, refuses):
    with refuses(FileNotFoundError, "none.csv", "`table`", "params.yaml"):
        load_table(tmp_path / "none.csv", "athlete", "sport")


def test_a_renamed_column_names_the_close_one(read, refuses):
    with refuses(ValueError, "facts.csv", "no column 'athlete'", "rename column 'athletes'"):
        read(GOOD.replace("athlete", "athletes"))


def test_a_missing_column_says_what_there_is(read, refuses):
    cure = "add it, or name another in params.yaml"
    with refuses(ValueError, "no column 'sport'", "it has athlete", cure):
        read("athlete\nBabe Ruth\n")


def test_a_missing_edit_column_is_refused(read, refuses):
    with refuses(ValueError, "facts.csv", "no column 'new'", "name another in params.yaml"):
        read(GOOD, edit="new")


def test_the_hint_never_renames_a_column_that_is_in_use(read, refuses):
    # "target" resembles "athlete", which already holds the subjects.
    with refuses(ValueError, "facts.csv", "no column 'target'", "name another in params.yaml"):
        read(GOOD, edit="target")


@pytest.mark.parametrize("name", ["Babe Ruth", " Babe Ruth"])
def test_a_subject_listed_twice_is_refused(read, refuses, name):
    with refuses(ValueError, "facts.csv", "'Babe Ruth' twice", "delete one of the two lines"):
        read(GOOD + f"{name},football\n")


def test_an_unknown_label_names_the_known(read, refuses):
    with refuses(ValueError, "'Tiger Woods'", "label that no answer format knows", *LABELS):
        read(GOOD + "Tiger Woods,golf\n", labels=KNOWN)


def test_an_unknown_edit_target_names_the_known(read, refuses):
    with refuses(ValueError, "'A'", "edit that no answer format knows", "use one of", *LABELS):
        read("athlete,sport,to\nA,football,golf\n", edit="to", labels=KNOWN)


@pytest.mark.parametrize("line", ["Tiger Woods,", "Tiger Woods,  ", "Tiger Woods"])
def test_an_empty_cell_is_refused(read, refuses, line):
    with refuses(ValueError, "facts.csv", "empty cell", "'Tiger Woods'", "fill it"):
        read(GOOD + line + "\n")


def test_an_edit_target_equal_to_the_truth_is_refused(read, refuses):
    with refuses(ValueError, "'B'", "equal to the truth", "choose another label"):
        read("athlete,sport,to\nA,football,baseball\nB,football,football\n", edit="to")


@pytest.mark.parametrize(
    "text",
    [
        GOOD + "Ken Griffey, Jr.,baseball\n",  # in a later line
        "athlete,sport\nKen Griffey, Jr.,baseball\nHank Aaron, Sr.,baseball\n",  # in all lines
    ],
)
def test_an_unquoted_comma_is_refused_with_the_cure(read, refuses, text):
    with refuses(ValueError, "facts.csv", "quote"):
        read(text)


def test_a_quote_that_is_never_closed_is_refused(read, refuses):
    with refuses(ValueError, "facts.csv", "an open quote", "quote the names"):
        read(GOOD + '"Ken Griffey,baseball\n')


def test_a_column_that_stands_twice_is_refused(read, refuses):
    with refuses(ValueError, "facts.csv has two columns 'sport'", "rename one"):
        read("athlete,sport,sport\nBabe Ruth,baseball,football\n")


def test_a_table_that_is_no_text_names_itself(tmp_path, refuses):
    (tmp_path / "facts.csv").write_bytes("athlete,sport\nJosé,baseball\n".encode("latin-1"))
    with refuses(ValueError, "facts.csv is no utf-8 text", "save it as utf-8"):
        load_table(tmp_path / "facts.csv", "athlete", "sport")


def test_a_mark_of_byte_order_is_no_part_of_the_first_column(read):
    assert list(read("\ufeff" + GOOD).label) == LABELS


def test_a_label_with_braces_is_named_as_it_is(read, refuses):
    with refuses(ValueError, "'Tiger Woods'", "use one of {golf}, {}"):
        read("athlete,sport\nTiger Woods,chess\n", labels={RELATION: ["{golf}", "{}"]})


@pytest.mark.parametrize("text", ["", "athlete,sport\n"])
def test_a_table_without_facts_is_refused(read, refuses, text):
    with refuses(ValueError, "facts.csv"):
        read(text)


def test_only_the_first_subjects_of_each_label_are_kept(read):
    text = "athlete,sport\na,x\nb,y\nc,x\nd,x\ne,y\n"
    assert list(read(text, per_label=2).subject) == ["a", "b", "c", "e"]
    assert list(read(text, per_label=1).index) == [0, 1]


def test_lines_that_are_not_kept_are_checked_too(read, refuses):
    with refuses(ValueError, "lists 'c' twice"):
        read("athlete,sport\na,x\nc,x\nc,x\n", per_label=1)


@pytest.fixture
def world(read):
    def load(text=WORLD, **more):
        return read(text, "name", "what", relation="about", **more)

    return load


def test_one_file_holds_many_relations(world):
    table = world(labels={"city": [], "food": ["sausage", "salad"]})
    assert list(table.relation) == ["city", "city", "food", "city", "food", "city"]
    assert list(table.subject) == ["Lyon", "Osaka", "Lyon", "Nice", "Nice", "Paris"]
    assert list(table.label) == ["France", "Japan", "sausage", "France", "salad", "France"]


def test_a_relation_that_no_format_asks_for_is_refused(world, refuses):
    cure = "add it to the formats file"
    with refuses(ValueError, "facts.csv", "relation 'food'", "there are city, drink", cure):
        world(labels={"city": [], "drink": []})


def test_a_missing_relation_column_is_refused(read, refuses):
    with refuses(ValueError, "facts.csv", "no column 'kind'", "name another in params.yaml"):
        read(GOOD, relation="kind", labels=KNOWN)


def test_an_empty_relation_is_refused(world, refuses):
    with refuses(ValueError, "facts.csv", "empty cell", "'Rome'", "fill it"):
        world(WORLD + ",Rome,Italy\n")


def test_a_subject_may_stand_once_in_every_relation(world, refuses):
    assert list(world().subject).count("Lyon") == 2
    with refuses(ValueError, "facts.csv", "lists 'Lyon' twice", "delete one of the two lines"):
        world(WORLD + "food,Lyon,salad\n")


def test_every_relation_has_labels_of_its_own(world, refuses):
    with refuses(ValueError, "'Osaka'", "label that no answer format knows", "use one of France"):
        world(labels={"city": ["France"], "food": []})
    with refuses(ValueError, "'Nice'", "label that no answer format knows", "use one of sausage"):
        world(labels={"city": [], "food": ["sausage"]})


def test_any_label_will_do_where_the_formats_list_none(read):
    table = read(GOOD, labels={RELATION: []})
    assert list(table.label) == LABELS


def test_the_first_subjects_are_counted_in_each_relation(world):
    text = "about,name,what\na,1,x\na,2,x\nb,1,x\na,3,y\nb,2,x\nb,3,x\n"
    table = world(text, per_label=1)
    assert list(zip(table.relation, table.subject)) == [("a", "1"), ("b", "1"), ("a", "3")]
    assert list(table.index) == [0, 1, 2]
