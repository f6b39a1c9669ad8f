"""The format attack asks everything; a format counts only where retained facts hold."""

from __future__ import annotations

import pandas
import pytest

from lib.attacks.formats import READ, answerable, ask_all, vocabulary_formats
from lib.packing import Runner


@pytest.fixture(scope="module")
def asked(taught, short_formats, known, known_split):
    return ask_all(Runner(taught.model), taught.tokenizer, short_formats, known, known_split)


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


def test_roles_can_be_chosen(taught, short_formats, known, known_split):
    runner = Runner(taught.model)
    found = ask_all(
        runner, taught.tokenizer, short_formats, known, known_split, roles=("retain_val",)
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


def test_transfer_is_measured_by_answerable_vocabulary_formats(formats):
    passes = {f.name: f.name != "league" for f in formats.formats}
    assert vocabulary_formats(formats, passes) == ["league-sentence"]


def test_a_model_without_such_a_format_is_refused_with_the_cure(formats, refuses):
    passes = {f.name: f.kind != "vocabulary" for f in formats.formats}
    with refuses(ValueError, "answer vocabulary", "add one", "lower attack_formats.gate"):
        vocabulary_formats(formats, passes)
