"""The shipped tables: many facts, balanced, plain, and invented names that are nobody's."""

from __future__ import annotations

import re

import pandas
import pytest

from lib import paths
from lib.facts.formats import SUBJECT, load_formats
from lib.facts.tables import load_table
from lib.facts.tasks import load_task

RAW = paths.DATA / "raw"
SPORTS = ["baseball", "basketball", "football"]
KNOWN = {"plays-sport": SPORTS}


@pytest.fixture(scope="module")
def athletes():
    return load_table(RAW / "sports.csv", "athlete", "sport", labels=KNOWN)


@pytest.fixture(scope="module")
def nobody():
    return load_table(RAW / "invented_athletes.csv", "athlete", "sport", labels=KNOWN)


def test_there_are_many_athletes(athletes):
    assert len(athletes) >= 900


def test_the_sports_are_balanced(athletes):
    counts = athletes.label.value_counts()
    assert set(counts.index) == set(SPORTS)
    assert counts.max() - counts.min() <= 0.1 * counts.mean()


def test_invented_athletes_are_balanced_and_enough(nobody):
    counts = nobody.label.value_counts()
    assert set(counts.index) == set(SPORTS) and counts.min() >= 20
    assert counts.max() - counts.min() <= 0.1 * counts.mean()


@pytest.mark.parametrize(
    "file",
    [
        "sports.csv",
        "invented_athletes.csv",
        "sports_formats.yaml",
        "invented_things.csv",
        "world_formats.yaml",
    ],
)
def test_files_are_plain_ascii_with_unix_line_ends(file):
    content = (RAW / file).read_bytes()
    assert content.isascii() and b"\r" not in content and content.endswith(b"\n")


def test_world_facts_have_unix_line_ends_and_no_odd_characters():
    content = (RAW / "world.csv").read_bytes().decode("utf-8")
    assert "\r" not in content and content.endswith("\n")
    assert all(c.isprintable() for c in content.replace("\n", ""))


def test_names_are_unique_whatever_their_case(athletes, nobody):
    for table in (athletes, nobody):
        assert not table.subject.str.casefold().duplicated().any()


def test_cells_carry_no_stray_spaces():
    for line in (RAW / "sports.csv").read_text().splitlines():
        assert all(cell == " ".join(cell.split()) for cell in line.split(","))


def test_no_invented_name_is_an_athletes(athletes, nobody):
    assert not set(nobody.subject.str.casefold()) & set(athletes.subject.str.casefold())


def test_no_invented_surname_is_an_athletes(athletes, nobody):
    surnames, invented = (
        set(table.subject.str.casefold().str.split().str[-1]) for table in (athletes, nobody)
    )
    assert not surnames & invented


def test_no_athlete_stands_in_the_examples_of_a_format(athletes, nobody, formats):
    for form in formats.formats:
        for name in [*athletes.subject, *nobody.subject]:
            assert name not in form.template


def test_no_example_gives_an_answer_away(formats):
    for form in formats.formats:
        words = form.template.casefold().replace("\n", " ").split()
        assert not {word.casefold() for word in form.answers.values()} & set(words)


def test_every_task_has_its_tables(settings):
    for task in settings.tasks.values():
        data = load_task(task)
        assert set(data.table.relation) == set(data.never_known.relation) == set(data.formats.sets)
        assert data.rejected.empty
        for relation, forms in data.formats.sets.items():
            told, made_up = (
                set(t.label[t.relation == relation]) for t in (data.table, data.never_known)
            )
            assert made_up <= told
            assert not forms.labels or told <= set(forms.labels)


@pytest.fixture(scope="module")
def world():
    return pandas.read_csv(RAW / "world.csv", dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def things():
    return pandas.read_csv(RAW / "invented_things.csv", dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def wordings():
    return load_formats(RAW / "world_formats.yaml")


def of_relation(table, relation):
    return table[table.relation == relation]


def test_there_are_many_world_facts(world):
    assert len(world) >= 1500 and world.relation.nunique() >= 12
    assert world.relation.value_counts().min() >= 60


def test_world_facts_are_stated_once_and_give_nothing_away(world):
    assert not world.duplicated(["relation", "subject"]).any()
    assert world.eq(world.apply(lambda column: column.str.strip())).all(axis=None)
    assert world.ne("").all(axis=None)
    leaks = [r for r in world.itertuples() if r.object.lower() in r.subject.lower().split()]
    assert not leaks


def test_every_relation_has_another_answer_for_an_edit(world):
    assert world.groupby("relation").object.nunique().min() >= 2


def test_the_formats_ask_for_exactly_the_relations_of_the_table(world, wordings):
    assert set(wordings.sets) == set(world.relation)


def test_every_relation_can_be_asked_in_many_ways(wordings):
    for forms in wordings.sets.values():
        assert sum(f.kind == "rewording" for f in forms.formats) >= 3
        templates = [f.template for f in forms.formats]
        assert len(set(templates)) == len(templates)
        for template in templates:
            assert len(SUBJECT.findall(template)) == 1
            assert template == template.strip() and "  " not in template


def test_vocabulary_probes_answer_every_object_with_a_word_of_its_own(world, wordings):
    probes = [
        (relation, form)
        for relation, forms in wordings.sets.items()
        for form in forms.formats
        if form.kind == "vocabulary"
    ]
    assert len(probes) >= 5 and len({relation for relation, _ in probes}) >= 5
    for relation, form in probes:
        objects = set(of_relation(world, relation).object)
        words = [form.answers[label] for label in sorted(objects)]
        assert len({word.casefold() for word in words}) == len(words)
        assert all(word.casefold() != label.casefold() for label, word in form.answers.items())
        assert all(word == word.strip() and word for word in words)


def test_no_answer_word_is_kept_for_an_object_that_is_not_there(world, wordings):
    for relation, forms in wordings.sets.items():
        objects = set(of_relation(world, relation).object)
        for form in forms.formats:
            assert set(form.answers) <= objects


def test_the_example_of_a_vocabulary_probe_is_about_nobody_in_the_table(world, things, wordings):
    for relation, forms in wordings.sets.items():
        subjects = [*of_relation(world, relation).subject, *of_relation(things, relation).subject]
        for form in forms.formats:
            *example, question = form.template.split("\n")
            if form.kind != "vocabulary":
                continue
            assert len(example) == 1 and "{subject}" in question
            about = example[0].rsplit(" ", 1)[0]  # without its answer, which may be a subject too
            held = [s for s in subjects if re.search(rf"\b{re.escape(s)}\b", about, re.I)]
            assert not held, (relation, form.name)
            assert example[0].split()[-1] in {w.split()[-1] for w in form.answers.values()}


def test_every_relation_has_invented_subjects(world, things):
    counts = things.relation.value_counts()
    assert set(counts.index) == set(world.relation) and counts.min() >= 5


def test_invented_subjects_are_unique_and_nobodys(world, things):
    names = things.subject.str.casefold()
    assert not names.duplicated().any()
    assert not set(names) & set(world.subject.str.casefold())
    assert not set(names) & set(world.object.str.casefold())
    assert things.eq(things.apply(lambda column: column.str.strip())).all(axis=None)
    assert things.ne("").all(axis=None)


def test_invented_subjects_have_objects_of_their_relation(world, things):
    for relation in things.relation.unique():
        objects = set(of_relation(world, relation).object)
        given = of_relation(things, relation).object
        assert set(given) <= objects and given.nunique() >= 2
