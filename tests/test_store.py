"""Results by name: what is missing is named, what is made by hand stays apart."""

from __future__ import annotations

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
