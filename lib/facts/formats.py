"""Answer formats: the same fact asked in other words, with other answer words, as data in a yaml
file.

A format is a template with `{subject}` and, for each label, the word that answers it. The
`training` format is the prompt that edits are trained on; `rewording` formats ask for the same
words differently; a `vocabulary` format has different answer words (NBA instead of basketball),
so a changed fact shows there and a masked answer does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from lib import paths
from lib.packing import Prompts

KINDS = ("training", "rewording", "vocabulary")


@dataclass(frozen=True)
class Format:
    """One way to ask for a fact; answers: {label: word}; kind: one of KINDS."""

    name: str
    kind: str
    template: str
    answers: dict[str, str]

    def prompt(self, subject: str) -> str:
        """The text put to the model; it ends where the answer begins."""
        return self.template.replace("{subject}", subject)


@dataclass(frozen=True)
class FormatSet:
    """The formats of one relation; the training format first."""

    relation: str
    formats: tuple[Format, ...]

    @property
    def training(self) -> Format:
        """The format that edits are trained on."""
        return next(f for f in self.formats if f.kind == "training")

    @property
    def labels(self) -> list[str]:
        """All labels of the relation, in the order of the file."""
        return list(self.training.answers)

    def names(self, kind: str) -> list[str]:
        """Names of the formats of one kind."""
        return [f.name for f in self.formats if f.kind == kind]


def load_formats(path: Path) -> FormatSet:
    """Read and check a formats file; ValueError names the format and the cure."""
    if not path.exists():
        raise FileNotFoundError(
            f"no formats file at {path}: correct `formats` of the task in params.yaml"
        )
    raw = yaml.safe_load(path.read_text())
    formats = [_format(name, fields) for name, fields in raw["formats"].items()]
    labels = None
    for form in formats:
        if form.kind not in KINDS:
            raise ValueError(
                f"format '{form.name}' has unknown kind '{form.kind}': use {', '.join(KINDS)}"
            )
        if form.template.count("{subject}") != 1:
            raise ValueError(
                f"the template of format '{form.name}' must contain {{subject}} exactly once"
            )
        if form.template != form.template.rstrip(" "):
            raise ValueError(f"the template of format '{form.name}' ends in a space: delete it")
        labels = labels or set(form.answers)
        if set(form.answers) != labels:
            raise ValueError(
                f"format '{form.name}' must answer exactly the labels {', '.join(sorted(labels))}"
            )
    if [f.kind for f in formats].count("training") != 1:
        raise ValueError(f"{path.name} must have exactly one format of kind training")
    return FormatSet(raw["relation"], tuple(sorted(formats, key=lambda f: KINDS.index(f.kind))))


def _format(name: str, fields: dict) -> Format:
    wanted = {"kind", "template", "answers"}
    wrong = sorted(wanted ^ set(fields))
    if wrong:
        raise ValueError(
            f"format '{name}' must have exactly kind, template and answers: correct '{wrong[-1]}'"
        )
    return Format(name=name, **fields)


def answer_tokens(tokenizer, form: Format) -> dict[str, int]:
    """{label: token id of its word with a leading space}; ValueError if a word is not one token."""
    tokens = {}
    for label, word in form.answers.items():
        ids = tokenizer(" " + word, add_special_tokens=False).input_ids
        if len(ids) != 1:
            raise ValueError(
                f"the answer '{word}' of format '{form.name}' is {len(ids)} tokens for this "
                "model: choose a word "
                "that is one token, or remove the format"
            )
        tokens[label] = ids[0]
    if len(set(tokens.values())) != len(tokens):
        raise ValueError(
            f"two answers of format '{form.name}' are the same token: choose distinct words"
        )
    return tokens


def encode(tokenizer, form: Format, subjects: list[str]) -> Prompts:
    """Tokenized prompts of one format for the packed forward pass."""
    return Prompts.of(tokenizer([form.prompt(s) for s in subjects]).input_ids)


def subject_positions(tokenizer, form: Format, subject: str) -> tuple[int, ...]:
    """Tokens of the prompt whose characters overlap the subject; ValueError if there are none."""
    text = form.prompt(subject)
    start = form.template.index("{subject}")
    offsets = tokenizer(text, return_offsets_mapping=True).offset_mapping
    end = start + len(subject)
    found = tuple(i for i, (a, b) in enumerate(offsets) if a < end and b > start and b > a)
    if not found:
        raise ValueError(
            f"subject '{subject}' was not found among the tokens of its prompt: {text!r}"
        )
    return found


def teaching_texts(settings) -> list[str]:
    """What a tiny model is taught: every fact in every format, and to say the label after the name.

    The latter stands three times, so that the label can be read at the name's last token, as in a
    model that looks facts up.
    """
    from lib.facts.tables import load_table

    texts = []
    for task in settings.tasks.values():
        forms = load_formats(paths.ROOT / task.formats)
        columns = task.subject_column, task.label_column
        table = load_table(paths.ROOT / task.table, *columns, per_label=task.per_label)
        before_name = forms.training.template.split("{subject}")[0]
        for row in table.itertuples():
            texts += [
                f"{form.prompt(row.subject)} {form.answers[row.label]}" for form in forms.formats
            ]
            texts += 3 * [f"{before_name}{row.subject} {row.label}"]
    return texts
