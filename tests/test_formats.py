"""Answer formats: templates and answer words that every stage can rely on."""

from __future__ import annotations

import pytest
import yaml

from lib import paths
from lib.facts.formats import (
    Format,
    answer_tokens,
    load_formats,
    subject_positions,
    teaching_texts,
)

LABELS = {"baseball": "baseball", "basketball": "basketball", "football": "football"}


@pytest.fixture
def spoilt(tmp_path):
    """Loads the shipped formats after a change: spoilt("league", kind="odd")."""

    def load(name=None, **changes):
        text = (paths.DATA / "raw" / "sports_formats.yaml").read_text()
        content = yaml.safe_load(text)
        if name:
            content["formats"][name] |= changes
        (tmp_path / "forms.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return load_formats(tmp_path / "forms.yaml")

    return load


def test_the_training_format_stands_first(formats):
    assert formats.formats[0] is formats.training
    assert formats.training.name == "training"
    assert formats.labels == list(LABELS)


def test_formats_stand_in_the_order_of_kinds(formats):
    kinds = [f.kind for f in formats.formats]
    assert kinds == sorted(kinds, key=("training", "rewording", "vocabulary").index)
    assert formats.names("vocabulary") == ["league", "league-sentence"]


def test_a_prompt_is_the_template_with_the_name(formats):
    assert formats.training.prompt("Babe Ruth").endswith("Fact: Babe Ruth plays the sport of")


def test_a_name_with_braces_is_taken_literally(formats):
    assert "{x} plays" in formats.training.prompt("{x}")


def test_an_unknown_kind_names_the_known(spoilt, refuses):
    with refuses(ValueError, "'league'", "'odd'", "use training, rewording, vocabulary"):
        spoilt("league", kind="odd")


@pytest.mark.parametrize("template", ["plays in the", "{subject} and {subject} play in the"])
def test_a_template_holds_the_subject_once(spoilt, refuses, template):
    with refuses(ValueError, "'league'", "must contain {subject} exactly once"):
        spoilt("league", template=template)


def test_a_trailing_space_is_refused(spoilt, refuses):
    with refuses(ValueError, "'league'", "ends in a space", "delete it"):
        spoilt("league", template="{subject} plays in the ")


@pytest.mark.parametrize(
    "answers", [{"baseball": "MLB"}, LABELS | {"golf": "PGA"}, {"a": "b", "c": "d", "e": "f"}]
)
def test_every_format_answers_the_same_labels(spoilt, refuses, answers):
    with refuses(ValueError, "'league'", "exactly the labels baseball, basketball, football"):
        spoilt("league", answers=answers)


@pytest.mark.parametrize(("name", "kind"), [("training", "rewording"), ("league", "training")])
def test_there_is_exactly_one_training_format(spoilt, refuses, name, kind):
    with refuses(ValueError, "forms.yaml", "exactly one format of kind training"):
        spoilt(name, kind=kind)


def test_a_misspelt_key_is_refused_in_a_sentence(spoilt, refuses):
    with refuses(ValueError, "'league'", "tempalte"):
        spoilt("league", tempalte="{subject}")


def test_a_missing_file_names_the_parameter(tmp_path, refuses):
    with refuses(FileNotFoundError, "none.yaml", "`formats`", "params.yaml"):
        load_formats(tmp_path / "none.yaml")


def test_answers_are_the_tokens_of_their_words(llama, formats):
    for form in formats.formats:
        found = answer_tokens(llama.tokenizer, form)
        assert list(found) == list(LABELS)
        for label, token in found.items():
            assert llama.tokenizer.decode([token]) == " " + form.answers[label]


def test_an_answer_of_several_tokens_is_refused(llama, refuses):
    form = Format("odd", "vocabulary", "{subject}", LABELS | {"football": "xqzjw"})
    with refuses(ValueError, "'xqzjw'", "'odd'", "tokens", "choose a word", "remove the format"):
        answer_tokens(llama.tokenizer, form)


def test_two_answers_of_the_same_token_are_refused(llama, refuses):
    form = Format("odd", "vocabulary", "{subject}", LABELS | {"football": "baseball"})
    with refuses(ValueError, "'odd'", "same token", "choose distinct words"):
        answer_tokens(llama.tokenizer, form)


@pytest.mark.parametrize("subject", ["Babe Ruth", "Shaquille O'Neal", "Zqx", "José Peña", "J.J. W"])
def test_subject_positions_cover_the_name(llama, formats, subject):
    """Tokens at the positions hold every character of the name, and all others hold none."""
    glued = Format("glued", "rewording", "Name:{subject}, who plays", LABELS)
    for form in (*formats.formats, glued):
        text, at = form.prompt(subject), form.template.index("{subject}")
        found = subject_positions(llama.tokenizer, form, subject)
        offsets = llama.tokenizer(text, return_offsets_mapping=True).offset_mapping
        held = {c for i in found for c in range(*offsets[i])}
        other = {c for i, (a, b) in enumerate(offsets) if i not in found for c in range(a, b)}
        name = set(range(at, at + len(subject)))
        assert name <= held and not name & other
        assert list(found) == list(range(found[0], found[-1] + 1))


def test_an_absent_subject_is_refused(llama, refuses):
    form = Format("empty", "rewording", "{subject} plays", LABELS)
    with refuses(ValueError, "subject ''", "was not found", "plays"):
        subject_positions(llama.tokenizer, form, "")


def test_teaching_texts_hold_every_fact_in_every_format(settings, formats, table):
    texts = set(teaching_texts(settings))
    for row in table.itertuples():
        for form in formats.formats:
            assert f"{form.prompt(row.subject)} {form.answers[row.label]}" in texts


def test_teaching_texts_respect_the_number_per_label(settings):
    name, task = next(iter(settings.tasks.items()))
    few = settings.model_copy(update={"tasks": {name: task.model_copy(update={"per_label": 2})}})
    texts = teaching_texts(few)
    assert any("Babe Ruth" in text for text in texts)
    asked = {text for text in texts if "is famous for playing professional" in text}
    assert len(asked) == 2 * 3
