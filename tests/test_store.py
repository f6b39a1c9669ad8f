"""Results by name: what is missing is named, what is made by hand stays apart."""

from __future__ import annotations

import re
from pathlib import Path

import pandas
import pytest

from lib import paths
from lib.store import Store
from lib.tables import STAGES, TABLES

EFFECTS = pandas.DataFrame({c: [1.23456789] for c in TABLES["causal_tracing/effects"]})


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")
    monkeypatch.setattr(paths, "FIGURES", tmp_path / "figures")
    return tmp_path


def test_a_table_reads_back_with_six_decimals():
    store = Store("data")
    store.save("causal_tracing/effects", EFFECTS, "task", 0)
    assert store.load("causal_tracing/effects", "task", 0).effect.tolist() == [1.234568]


def test_by_hand_what_was_made_by_hand_comes_first_and_is_named(capsys):
    pipeline, mine = Store("data"), Store("data/play")
    pipeline.save("causal_tracing/effects", EFFECTS, "task", 0)
    assert mine.load("causal_tracing/effects", "task", 0).effect[0] > 1
    mine.save("causal_tracing/effects", EFFECTS * 0, "task", 0)
    assert mine.load("causal_tracing/effects", "task", 0).effect[0] == 0
    assert pipeline.load("causal_tracing/effects", "task", 0).effect[0] > 1
    said = capsys.readouterr().out
    assert "reading data/causal_tracing/task/0/effects.csv" in said
    assert "reading data/play/causal_tracing/task/0/effects.csv" in said


def test_the_pipeline_never_reads_what_was_made_by_hand(refuses):
    Store("data/play").save("causal_tracing/effects", EFFECTS, "task", 0)
    assert not Store("data").has("causal_tracing", "task", 0)
    with refuses(FileNotFoundError, "causal tracing of task/0", "10_causal_tracing", "dvc repro"):
        Store("data").load("causal_tracing/effects", "task", 0)


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_missing_names_the_notebook_and_the_command(stage, refuses):
    notebook, command = STAGES[stage]
    with refuses(FileNotFoundError, "task/0", notebook, f"dvc repro {command}"):
        Store("data/play").find(stage, "task", 0)


def test_a_missing_column_is_refused_when_written_and_when_read(refuses, root):
    with refuses(ValueError, "causal_tracing/effects", "'low'", "10_causal_tracing"):
        Store("data").save("causal_tracing/effects", EFFECTS.drop(columns="low"), "task", 0)
    folder = Store("data").folder("causal_tracing", "task", 0)
    EFFECTS.drop(columns="low").to_csv(folder / "effects.csv", index=False)
    with refuses(ValueError, "'low'", "make it anew"):
        Store("data").load("causal_tracing/effects", "task", 0)


def test_an_answer_called_none_is_no_missing_value():
    columns = TABLES["attack_formats/rows"]
    rows = pandas.DataFrame([{c: "None" if c in ("answer", "true") else "" for c in columns}])
    Store("data").save("attack_formats/rows", rows, "task", 0)
    read = Store("data").load("attack_formats/rows", "task", 0)
    assert read.answer.tolist() == ["None"] and read.variant.tolist() == [""]


def test_seeds_are_read_below_each_other_with_facts_of_their_own():
    store = Store("data")
    columns = TABLES["unedited/unedited"]
    for seed in (0, 3):
        rows = pandas.DataFrame([dict.fromkeys(columns, "a")])
        store.save("unedited/unedited", rows, "task", seed)
    both = store.load_seeds("unedited/unedited", "task", [0, 3])
    assert both.id.tolist() == ["0/a", "3/a"] and both.seed.tolist() == [0, 3]


def test_figures_of_stepping_by_hand_stay_apart(root):
    assert Store("data").figures("results", "task") == root / "figures/task/results"
    assert Store("data/play").figures("fact_lookup", "task", 0) == (
        root / "data/play/figures/task/fact_lookup/0"
    )


def test_an_unknown_stage_lists_those_there_are(refuses):
    with refuses(ValueError, "'edits'", "edit, "):
        Store("data").find("edits", "task")


# --- parts of a long stage -------------------------------------------------------------------


class Maker:
    """Counts how often it is asked; the tables hold the number of that time."""

    def __init__(self):
        self.times = 0

    def __call__(self) -> dict[str, pandas.DataFrame]:
        self.times += 1
        rows = {"id": ["a", "None"], "value": [self.times + 0.123456789, None], "variant": ["", ""]}
        return {"rows": pandas.DataFrame(rows), "none": pandas.DataFrame(columns=["id", "value"])}


def test_a_part_with_the_same_mark_is_not_made_again():
    make = Maker()
    first = Store("data").remembered("sweep/mlp-3", "abc", make, "task", 0)
    again = Store("data").remembered("sweep/mlp-3", "abc", make, "task", 0)
    assert make.times == 1 and first.keys() == again.keys() == {"rows", "none"}
    for name, table in first.items():
        pandas.testing.assert_frame_equal(table, again[name])
    assert first["rows"].id.tolist() == ["a", "None"]
    assert first["rows"].value[0] == 1.123457 and first["rows"].value.isna()[1]
    assert first["none"].empty and list(first["none"]) == ["id", "value"]


@pytest.mark.parametrize(
    ("part", "mark", "key"),
    [
        ("sweep/mlp-3", "other", ("task", 0)),
        ("sweep/mlp-4", "abc", ("task", 0)),
        ("sweep/mlp-3", "abc", ("task", 1)),
        ("sweep/mlp-3", "abc", ("else", 0)),
    ],
)
def test_a_part_with_another_mark_or_name_is_made(part, mark, key):
    store, make = Store("data"), Maker()
    store.remembered("sweep/mlp-3", "abc", make, "task", 0)
    found = store.remembered(part, mark, make, *key)
    assert make.times == 2 and found["rows"].value[0] == 2.123457
    assert store.remembered(part, mark, make, *key)["rows"].value[0] == 2.123457
    assert make.times == 2


def test_a_part_is_remembered_after_another_mark_came_in_between():
    """Not both: there is one file, and it holds what was asked for last."""
    store, make = Store("data"), Maker()
    for mark in ("abc", "other", "abc"):
        found = store.remembered("sweep/mlp-3", mark, make, "task", 0)
    assert make.times == 3 and found["rows"].value[0] == 3.123457


@pytest.mark.parametrize("moment", ["made", "written", "moved"])
def test_a_kill_leaves_no_half_part(monkeypatch, root, moment):
    """Killed while the part is made, written or put in its place, the next run makes it anew."""
    store, make = Store("data"), Maker()

    def killed(*args):
        if moment == "written":  # half of the text is on the disk already
            with open(args[0], "w") as file:
                file.write(args[1][: len(args[1]) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if moment == "written":
            patch.setattr(Path, "write_text", killed)
        if moment == "moved":
            patch.setattr(Path, "replace", killed)
        given = killed if moment == "made" else make
        store.remembered("sweep/mlp-3", "abc", given, "task", 0)
    assert not list(root.rglob("*.json"))
    store.remembered("sweep/mlp-3", "abc", make, "task", 0)
    store.remembered("sweep/mlp-3", "abc", make, "task", 0)
    assert make.times == (1 if moment == "made" else 2)
    assert [p.name for p in root.rglob("parts/*")] == ["mlp-3.json"]


def test_a_kill_while_an_old_part_is_replaced_leaves_the_old_one(monkeypatch):
    store, make = Store("data"), Maker()
    store.remembered("sweep/mlp-3", "abc", make, "task", 0)

    def killed(path, text):
        with path.open("w") as file:
            file.write(text[:9])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "write_text", killed)
        store.remembered("sweep/mlp-3", "other", make, "task", 0)
    assert store.remembered("sweep/mlp-3", "abc", make, "task", 0)["rows"].value[0] == 1.123457
    assert make.times == 2


@pytest.fixture
def listed(root):
    """The file in which the pipeline lists the code of the sweep."""
    path = root / "data/code/24_sweep.txt"
    path.parent.mkdir(parents=True)
    path.write_text("lib abc\n")
    (root / "lib").mkdir()
    (root / "lib/a.py").write_text("x = 1\n")
    return path


@pytest.mark.parametrize("home", ["data", "data/play"])
def test_a_mark_depends_on_its_values(listed, home):
    store = Store(home)
    marks = [store.mark_of("sweep", *values) for values in ((1, "a"), (1, "b"), ("a", 1), ())]
    assert len(set(marks)) == 4 and all(re.fullmatch("[0-9a-f]{16}", mark) for mark in marks)
    assert store.mark_of("sweep", {"a": 1, "b": [2]}) == store.mark_of("sweep", {"b": [2], "a": 1})


def test_in_the_pipeline_a_mark_depends_on_the_listed_code(listed, root):
    store = Store("data")
    before = store.mark_of("sweep")
    (root / "lib/a.py").write_text("x = 2\n")
    assert store.mark_of("sweep") == before
    listed.write_text("lib abd\n")
    assert store.mark_of("sweep") != before


@pytest.mark.parametrize("home", ["data", "data/play"])
def test_without_a_list_a_mark_depends_on_all_code(listed, root, home):
    """By hand too where there is one: the list may be of an older version."""
    if home == "data":
        listed.unlink()
    store = Store(home)
    before = store.mark_of("sweep")
    (root / "lib/a.py").write_text("x = 2\n")
    assert store.mark_of("sweep") != before
