"""The shipped tables: many facts, balanced, plain, and invented names that are nobody's."""

from __future__ import annotations

import pandas
import pytest
import yaml

from lib import paths
from lib.facts.tables import load_table

RAW = paths.DATA / "raw"
SPORTS = ["baseball", "basketball", "football"]


@pytest.fixture(scope="module")
def athletes():
    return load_table(RAW / "sports.csv", "athlete", "sport", labels=SPORTS)


@pytest.fixture(scope="module")
def nobody():
    return load_table(RAW / "invented_athletes.csv", "athlete", "sport", labels=SPORTS)


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


@pytest.mark.parametrize("file", ["sports.csv", "invented_athletes.csv", "sports_formats.yaml"])
def test_files_are_plain_ascii_with_unix_line_ends(file):
    content = (RAW / file).read_bytes()
    assert content.isascii() and b"\r" not in content and content.endswith(b"\n")


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


def test_every_task_has_its_tables(settings, formats):
    for task in settings.tasks.values():
        columns = task.subject_column, task.label_column
        for file in (task.table, task.never_known):
            assert set(load_table(paths.ROOT / file, *columns).label) <= set(formats.labels)


@pytest.fixture(scope="module")
def world():
    return pandas.read_csv(RAW / "world.csv", dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def wordings():
    return yaml.safe_load((RAW / "world_formats.yaml").read_text())


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


def test_every_relation_can_be_asked(world, wordings):
    assert set(wordings) == set(world.relation)
    for relation, form in wordings.items():
        subjects = set(world.subject[world.relation == relation])
        assert len(form["examples"]) == 3
        assert not subjects & {subject for subject, _ in form["examples"]}
        probes = form.get("vocabulary", {})
        asked = [form["training"], *form["rewordings"].values()]
        asked += [probe["wording"] for probe in probes.values()]
        assert len(form["rewordings"]) >= 3
        assert all(a.count("{subject}") == 1 and a == a.rstrip() for a in asked)


def test_vocabulary_probes_answer_every_object_with_a_word_of_its_own(world, wordings):
    probed = 0
    for relation, form in wordings.items():
        objects = set(world.object[world.relation == relation])
        objects |= {word for _, word in form["examples"]}
        for probe in form.get("vocabulary", {}).values():
            probed += 1
            assert objects == set(probe["answers"])
            assert len(set(probe["answers"].values())) == len(probe["answers"])
    assert probed >= 5
