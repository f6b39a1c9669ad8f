"""Answer formats: templates and answer words that every stage can rely on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import yaml

from lib import paths
from lib.facts.formats import (
    DISTRACTION,
    KINDS,
    Format,
    answer_tokens,
    encode,
    first_tokens,
    load_formats,
    own_wordings,
    read_catalogue,
    save_catalogue,
    subject_positions,
)

RELATION = "plays-sport"
LABELS = {"baseball": "baseball", "basketball": "basketball", "football": "football"}


@pytest.fixture
def spoilt(tmp_path):
    """Loads the shipped formats after a change: spoilt("league", kind="odd")."""

    def load(name=None, **changes):
        text = (paths.DATA / "raw" / "sports_formats.yaml").read_text()
        content = yaml.safe_load(text)
        if name:
            content[RELATION][name] |= changes
        (tmp_path / "forms.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return load_formats(tmp_path / "forms.yaml")

    return load


@pytest.fixture
def of_kinds(tmp_path):
    """Loads a file from {relation: {format: kind}}, all with the same template."""

    def load(**relations):
        content = {
            relation: {n: {"kind": kind, "template": "{subject} is"} for n, kind in forms.items()}
            for relation, forms in relations.items()
        }
        (tmp_path / "forms.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return load_formats(tmp_path / "forms.yaml")

    return load


def own(subject, *wordings) -> SimpleNamespace:
    return SimpleNamespace(subject=subject, prompt=wordings[0], paraphrases=wordings[1:])


def named(subject) -> SimpleNamespace:
    return SimpleNamespace(subject=subject)


def test_the_training_format_stands_first(formats):
    assert formats.formats[0] is formats.training
    assert formats.training.name == "training"
    assert formats.labels == list(LABELS)


def test_formats_stand_in_the_order_of_kinds(formats):
    kinds = [f.kind for f in formats.formats]
    assert kinds == sorted(kinds, key=KINDS.index) and set(kinds) == set(KINDS)


def test_a_catalogue_knows_names_and_kinds(catalogue, formats):
    assert catalogue.kinds == {f.name: f.kind for f in formats.formats}
    assert catalogue.training == "training"
    assert catalogue.names("vocabulary") == ["league", "league-sentence"]
    (league,) = [f for f in formats.formats if f.name == "league"]
    assert catalogue.forms("league") == {RELATION: league}
    assert catalogue.forms("no such format") == {}


def test_a_format_belongs_to_the_relations_that_have_it(of_kinds):
    found = of_kinds(
        city={"learn": "training", "league": "vocabulary"},
        food={"other": "rewording", "learn": "training"},
    )
    assert list(found.sets) == ["city", "food"]
    assert found.sets["food"].relation == "food"
    assert list(found.kinds) == ["learn", "other", "league"] and found.training == "learn"
    assert list(found.forms("learn")) == ["city", "food"]
    assert list(found.forms("league")) == ["city"] and list(found.forms("other")) == ["food"]


def test_a_prompt_is_the_template_with_the_name(formats):
    assert formats.training.prompt("Babe Ruth").endswith("Fact: Babe Ruth plays the sport of")


def test_a_name_with_braces_is_taken_literally(formats):
    assert "{x} plays" in formats.training.prompt("{x}")


def test_a_template_asks_for_anything_with_a_subject(formats):
    form = formats.training
    assert form.ask(named("Babe Ruth")) == form.prompt("Babe Ruth")
    assert form.ask(own("Babe Ruth", "its own wording")) == form.prompt("Babe Ruth")


def test_own_wordings_are_asked_by_number_and_none_beyond_them():
    found = own_wordings(["P1", "P2"], 2)
    assert list(found.sets) == ["P1", "P2"] and found.training == "training"
    assert found.names("rewording") == ["distracted", "paraphrase-1", "paraphrase-2"]
    rich, poor = own("A", "A is", "is A", "A?"), own("B", "B is", "is B")
    asked = {n: [found.forms(n)["P2"].ask(fact) for fact in (rich, poor)] for n in found.kinds}
    assert asked == {
        "training": ["A is", "B is"],
        "distracted": [f"{DISTRACTION}A is", f"{DISTRACTION}B is"],
        "paraphrase-1": ["is A", "is B"],
        "paraphrase-2": ["A?", None],
    }


def test_a_sentence_before_the_prompt_does_not_touch_it():
    """A second wording for facts that bring no paraphrase, as the tracing file's do."""
    found = own_wordings(["P1"], 0)
    assert found.kinds == {"training": "training", "distracted": "rewording"}
    (distracted,) = found.forms("distracted").values()
    text = distracted.ask(own("A", "A is"))
    assert text.removeprefix(DISTRACTION) == "A is" and DISTRACTION.endswith(". ")
    assert "A" not in DISTRACTION and "is" not in DISTRACTION.split()


def test_own_wordings_are_read_back_as_they_were_written(tmp_path):
    found = own_wordings(["P1"], 1)
    save_catalogue(found, tmp_path / "formats.json", seen=3)
    assert read_catalogue(tmp_path / "formats.json") == (found, {"seen": 3})


def test_a_label_without_an_answer_word_is_its_own_word():
    form = Format("odd", "vocabulary", "{subject}", {"baseball": "MLB"})
    assert form.words(["football", "baseball"]) == {"football": "football", "baseball": "MLB"}


def test_labels_are_those_the_training_format_lists(formats, of_kinds):
    assert formats.labels == list(LABELS)
    assert of_kinds(city={"learn": "training"}).sets["city"].labels == []


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
    with refuses(ValueError, f"'{RELATION}'", "exactly one format of kind training"):
        spoilt(name, kind=kind)


def test_every_relation_needs_a_training_format(of_kinds, refuses):
    with refuses(ValueError, "'food'", "exactly one format of kind training"):
        of_kinds(city={"learn": "training"}, food={"other": "rewording"})


def test_the_training_format_has_one_name_everywhere(of_kinds, refuses):
    with refuses(ValueError, "forms.yaml", "training format the same name everywhere"):
        of_kinds(city={"learn": "training"}, food={"teach": "training"})


def test_a_name_stands_for_one_kind_everywhere(of_kinds, refuses):
    with refuses(ValueError, "'x'", "rewording", "vocabulary", "rename one of them"):
        of_kinds(
            city={"learn": "training", "x": "rewording"},
            food={"learn": "training", "x": "vocabulary"},
        )


def test_a_misspelt_key_is_refused_in_a_sentence(spoilt, refuses):
    with refuses(ValueError, "'league'", f"'{RELATION}'", "tempalte"):
        spoilt("league", tempalte="{subject}")


@pytest.mark.parametrize("missing", ["kind", "template"])
def test_a_missing_key_is_named(tmp_path, refuses, missing):
    fields = {"kind": "training", "template": "{subject} is"}
    del fields[missing]
    (tmp_path / "forms.yaml").write_text(yaml.safe_dump({"city": {"learn": fields}}))
    with refuses(ValueError, "'learn'", "'city'", f"correct '{missing}'"):
        load_formats(tmp_path / "forms.yaml")


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


def test_answers_can_be_asked_for_some_labels(llama, formats):
    form = formats.training
    every = answer_tokens(llama.tokenizer, form)
    assert answer_tokens(llama.tokenizer, form, ["football"]) == {"football": every["football"]}


def test_first_tokens_equal_the_answers_of_one_token(llama, formats):
    for form in formats.formats:
        expected = answer_tokens(llama.tokenizer, form)
        assert first_tokens(llama.tokenizer, form, list(LABELS)) == expected


def test_first_tokens_leave_out_labels_that_begin_alike(llama):
    answers = {"one": "baseball bat", "two": "baseball glove", "three": "football pitch"}
    form = Format("odd", "vocabulary", "{subject}", answers)
    only = first_tokens(llama.tokenizer, form, list(answers))
    football = llama.tokenizer(" football", add_special_tokens=False).input_ids
    assert [*only.values()] == football and [*only] == ["three"]
    assert set(first_tokens(llama.tokenizer, form, ["one", "three"])) == {"one", "three"}
    assert first_tokens(llama.tokenizer, form, []) == {}


def test_encoded_prompts_are_those_of_the_tokenizer(llama):
    asked = ["Babe Ruth plays", "Babe Ruth is famous", "Babe"]
    prompts = encode(llama.tokenizer, asked)
    assert len(prompts) == 3 and prompts.prefix
    whole = [[*prompts.prefix, *suffix] for suffix in prompts.suffixes]
    assert whole == llama.tokenizer(asked).input_ids


@pytest.mark.parametrize("subject", ["Babe Ruth", "Shaquille O'Neal", "Zqx", "José Peña", "J.J. W"])
def test_subject_positions_cover_the_name(llama, formats, subject):
    """Tokens at the positions hold every character of the name, and all others hold none."""
    glued = Format("glued", "rewording", "Name:{subject}, who plays", LABELS)
    plain = [form for form in formats.formats if "{subject}" in form.template]
    for form in (*plain, glued):
        text, at = form.prompt(subject), form.template.index("{subject}")
        found = subject_positions(llama.tokenizer, form, named(subject))
        offsets = llama.tokenizer(text, return_offsets_mapping=True).offset_mapping
        held = {c for i in found for c in range(*offsets[i])}
        other = {c for i, (a, b) in enumerate(offsets) if i not in found for c in range(a, b)}
        name = set(range(at, at + len(subject)))
        assert name <= held and not name & other
        assert list(found) == list(range(found[0], found[-1] + 1))


def test_the_last_mention_counts_in_own_wordings(llama):
    text = "Bill Russell met Babe Ruth and Babe Ruth plays"
    found = subject_positions(
        llama.tokenizer, Format("own", "training", None), own("Babe Ruth", text)
    )
    offsets = llama.tokenizer(text, return_offsets_mapping=True).offset_mapping
    start, end = offsets[found[0]][0], offsets[found[-1]][1]
    assert text[start:end].strip() == "Babe Ruth" and start >= text.rindex("Babe") - 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("training", "Babe Ruth plays"),
        ("distracted", f"{DISTRACTION}Babe Ruth plays"),
        ("paraphrase-1", "It rained when Babe Ruth played"),
    ],
)
def test_the_subject_is_searched_in_the_words_that_are_asked(llama, name, text):
    fact = own("Babe Ruth", "Babe Ruth plays", "It rained when Babe Ruth played")
    form = own_wordings(["P1"], 1).forms(name)["P1"]
    at, ids = subject_positions(llama.tokenizer, form, fact), llama.tokenizer(text).input_ids
    assert llama.tokenizer.decode([ids[i] for i in at]).strip() == "Babe Ruth"


@pytest.mark.parametrize("template", ["{subject} plays", None])
def test_an_absent_subject_is_refused(llama, refuses, template):
    form = Format("empty", "rewording", template, LABELS)
    with refuses(ValueError, "subject ''", "was not found", "plays"):
        subject_positions(llama.tokenizer, form, own("", "plays" if template is None else ""))


def test_a_subject_outside_its_own_wording_is_refused(llama, refuses):
    form = Format("own", "training", None)
    with refuses(ValueError, "subject 'Babe Ruth'", "was not found", "someone plays"):
        subject_positions(llama.tokenizer, form, own("Babe Ruth", "someone plays"))


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "rewording", "template": "{subject}: {options}"},
        {"kind": "choice", "template": "{subject} plays"},
        {"kind": "choice", "template": "{subject}: {option}?"},
        {"kind": "choice", "template": "{subject}: {options}", "yes": ["Yes"], "no": ["No"]},
    ],
)
def test_choice_formats_show_answers_and_others_do_not(of_kinds, tmp_path, refuses, fields):
    forms = {"r": {"learn": {"kind": "training", "template": "{subject} is"}, "odd": fields}}
    path = tmp_path / "formats.yaml"
    path.write_text(yaml.safe_dump(forms))
    with refuses(ValueError, "format 'odd'"):
        load_formats(path)


def test_some_formats_can_be_left_out(catalogue):
    kept = catalogue.only(["league"])
    assert list(kept.kinds) == ["training", "league"]
