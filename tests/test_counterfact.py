"""CounterFact in two schemas becomes one table; what is malformed is named."""

from __future__ import annotations

import json

import pandas
import pytest

from lib.facts.counterfact import COLUMNS, join, load_counterfact


def rome(case=7, subject="Danielle Darrieux", **changes) -> dict:
    asked = {
        "prompt": "The mother tongue of {} is",
        "subject": subject,
        "relation_id": "P103",
        "target_true": {"str": "French", "id": "Q150"},
        "target_new": {"str": "English", "id": "Q1860"},
    }
    return {
        "case_id": case,
        "requested_rewrite": asked | changes,
        "paraphrase_prompts": [f"It rained. {subject} spoke", f"At home {subject} talked in"],
        "neighborhood_prompts": ["The mother tongue of Jean Gabin is"],
    }


def tracing(subject="Danielle Darrieux", **changes) -> dict:
    return {
        "relation": "mother tongue",
        "relation_id": "P103",
        "prompt": f"The mother tongue of {subject} is",
        "subject": f" {subject}",
        "target_true": " French",
        "target_false": " English",
    } | changes


@pytest.fixture
def write(tmp_path):
    def file(rows, suffix=".json"):
        path = tmp_path / f"facts{suffix}"
        if suffix == ".json":
            path.write_text(json.dumps(rows))
        elif suffix == ".jsonl":
            path.write_text("\n".join(map(json.dumps, rows)))
        elif suffix == ".csv":
            pandas.DataFrame(rows).to_csv(path, index=False)
        else:
            pandas.DataFrame(rows).to_parquet(path)
        return str(path)

    return file


def test_rome_records_are_read(write):
    facts, rejected = load_counterfact(write([rome()]))
    assert list(facts.columns) == COLUMNS and rejected.empty
    fact = facts.iloc[0]
    assert fact.prompt == "The mother tongue of Danielle Darrieux is"
    assert (fact.true, fact.edit, fact.id) == ("French", "English", "counterfact/7")
    assert len(fact.paraphrases) == 2 and len(fact.neighbors) == 1


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_tracing_rows_are_read_and_stripped(write, suffix):
    facts, rejected = load_counterfact(write([tracing()], suffix))
    fact = facts.iloc[0]
    assert rejected.empty
    assert (fact.subject, fact.true, fact.edit) == ("Danielle Darrieux", "French", "English")
    assert list(fact.paraphrases) == []


def test_malformed_rows_are_named_and_the_others_kept(write):
    bad = [
        rome(prompt="no place for the subject"),
        rome(target_true={"id": "Q1"}),
        rome(target_new={"str": "French"}),
        rome(subject=" "),
        {"requested_rewrite": None},
    ]
    facts, rejected = load_counterfact(write([rome(), *bad]))
    assert len(facts) == 1
    assert rejected.row.tolist() == [1, 2, 3, 4, 5]
    words = ["no single place", "'str'", "equals the truth", "subject is empty", "wrong kind"]
    assert all(word in reason for word, reason in zip(words, rejected.reason))


def test_a_subject_outside_its_prompt_is_named(write):
    _, rejected = load_counterfact(write([tracing(prompt="The mother tongue of someone is")]))
    assert "'Danielle Darrieux' is not in its prompt" in rejected.reason[0]


def test_twins_are_joined_and_the_rest_named(write):
    flat, _ = load_counterfact(write([tracing(), tracing("Jean Gabin"), tracing("Twice")]))
    rich, _ = load_counterfact(write([rome(), rome(8, "Twice"), rome(9, "Twice")]))
    joined, rejected = join(flat, rich)
    assert joined.subject.tolist() == ["Danielle Darrieux"]
    assert len(joined.paraphrases[0]) == 2
    assert sorted(rejected.reason) == [
        "'Jean Gabin' has no single twin",
        "'Twice' has no single twin",
    ]


def test_unreadable_sources_are_refused(write, tmp_path, refuses):
    with refuses(FileNotFoundError, "no CounterFact file", "correct the path"):
        load_counterfact(str(tmp_path / "missing.json"))
    with refuses(ValueError, "neither CounterFact schema", "requested_rewrite"):
        load_counterfact(write([{"athlete": "x"}]))
    with refuses(ValueError, "holds no facts"):
        load_counterfact(write([]))
    broken = tmp_path / "broken.json"
    broken.write_text("[{")
    with refuses(ValueError, "no valid json", "get it anew"):
        load_counterfact(str(broken))
