"""CounterFact in two schemas becomes one table; what is malformed is named."""

from __future__ import annotations

import json

import counterfacts
import pandas
import pytest

from lib.facts.counterfact import COLUMNS, load_counterfact


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


def test_rome_records_may_come_as_parquet(write):
    facts, rejected = load_counterfact(write([rome(), rome(8, "Jean Gabin")], ".parquet"))
    assert rejected.empty and [len(texts) for texts in facts.paraphrases] == [2, 2]
    assert facts.subject.tolist() == ["Danielle Darrieux", "Jean Gabin"]


@pytest.mark.parametrize("texts", ["one text", [1, 2], [None]])
def test_paraphrases_that_are_no_list_of_texts_are_named(write, texts):
    facts, rejected = load_counterfact(write([rome(), rome(8) | {"paraphrase_prompts": texts}]))
    assert len(facts) == 1
    assert rejected.reason.tolist() == ["paraphrase_prompts is no list of texts"]


FLAT = tracing() | {
    "target_true": {"str": "French", "id": "Q150"},
    "target_new": {"str": "English", "id": "Q1860"},
    "paraphrase_prompts": ["At home Danielle Darrieux talked in"],
}
DOTTED = {
    "case_id": 7,
    "requested_rewrite.prompt": "The mother tongue of {} is",
    "requested_rewrite.subject": "Danielle Darrieux",
    "requested_rewrite.relation_id": "P103",
    "requested_rewrite.target_true.str": "French",
    "requested_rewrite.target_new.str": "English",
    "paraphrase_prompts": ["At home Danielle Darrieux talked in"],
}


@pytest.mark.parametrize("row", [rome(), FLAT, DOTTED], ids=["nested", "beside flat", "dotted"])
def test_a_csv_holds_lists_and_records_as_text(write, row):
    facts, rejected = load_counterfact(write([row, row], ".csv"))
    assert rejected.empty and len(facts) == 2
    fact = facts.iloc[0]
    assert (fact.subject, fact.true, fact.edit) == ("Danielle Darrieux", "French", "English")
    assert fact.prompt == "The mother tongue of Danielle Darrieux is"
    assert fact.paraphrases[-1] == "At home Danielle Darrieux talked in"


def test_a_cell_that_is_no_list_names_its_row(write):
    broken = rome() | {"paraphrase_prompts": "[not closed"}
    facts, rejected = load_counterfact(write([rome(), broken], ".csv"))
    assert len(facts) == 1
    assert rejected.reason.tolist() == ["paraphrase_prompts is no list of texts"]


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
    assert "nor 'Danielle Darrieux'" in rejected.reason[0]


def test_unreadable_sources_are_refused(write, tmp_path, refuses):
    with refuses(FileNotFoundError, "no CounterFact file", "correct the path"):
        load_counterfact(str(tmp_path / "missing.json"))
    with refuses(ValueError, "neither CounterFact schema", "requested_rewrite"):
        load_counterfact(write([{"athlete": "x"}]))
    with refuses(ValueError, "holds no facts"):
        load_counterfact(write([]))
    for name in ("broken.json", "broken.jsonl", "broken.parquet"):
        (tmp_path / name).write_text("[{")
        with refuses(ValueError, f"{name} is no valid", "get it anew"):
            load_counterfact(str(tmp_path / name))
    for rows in ({"rows": [rome()]}, [[1]], [rome(), 1], 3):
        with refuses(ValueError, "holds no facts", "make it a list of CounterFact records"):
            load_counterfact(write(rows))
    with refuses(FileNotFoundError, "no CounterFact file", "correct the path"):
        load_counterfact("data/none")  # no hub id: data is a folder here


def test_every_public_form_holds_the_same_facts(tmp_path):
    found = {}
    for form, file in counterfacts.write(tmp_path).items():
        facts, rejected = load_counterfact(str(file))
        assert rejected.empty and len(facts) >= 200, form
        found[form] = facts
    same = ["relation", "subject", "prompt", "true", "edit"]
    for facts in found.values():
        assert facts[same].equals(found["rome-json"][same])
    assert found["rome-csv"].paraphrases.tolist() == found["rome-json"].paraphrases.tolist()
    assert all(len(texts) == 2 for texts in found["rome-json"].neighbors)
