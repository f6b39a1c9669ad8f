"""Answer formats, read from a yaml file: the same fact asked in another wording or with other
answer words.

A format is a template with `{subject}` (or `{SUBJECT}` in capitals, or `{surname}`, its last word)
and, where the label itself is not the answer, the word for each label. The `training` format is the
prompt that edits are trained on; `rewording` formats ask for the same words differently; a
`vocabulary` format has different answer words (NBA instead of basketball), so a changed fact shows
there and a masked answer does not; a `choice` format shows the answers and asks to choose (see
`lib.measure.choices`). A task asks for one relation (sports) or for many (world facts): formats of
the same name belong together.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lib.config.errors import read_yaml, short
from lib.model.packing import Prompts

KINDS = ("training", "rewording", "vocabulary", "choice")
DISTRACTION = "It had rained all morning, and nobody was in a hurry. "
SUBJECT = re.compile(r"\{subject\}|\{SUBJECT\}|\{surname\}")


@dataclass(frozen=True)
class Format:
    """One way to ask for the facts of a relation; kind: one of KINDS.

    template: text with `{subject}`, or None where every fact brings its own wordings (CounterFact:
    number `wording` of its prompt and paraphrases, after the text `lead`). answers: {label: word};
    labels it does not list are their own word. yes, no: of a choice format that goes through the
    answers one by one, words that affirm and deny.
    """

    name: str
    kind: str
    template: str | None
    answers: dict[str, str] = field(default_factory=dict)
    wording: int = 0
    lead: str = ""
    yes: tuple[str, ...] = ()
    no: tuple[str, ...] = ()

    def prompt(self, subject: str) -> str:
        """The text put to the model; it ends where the answer begins."""
        return fill(self.template, subject)

    def ask(self, fact) -> str | None:
        """The prompt for anything with a subject (or wordings) of its own; None if it has none."""
        if self.template is not None:
            return self.prompt(fact.subject)
        own = (fact.prompt, *fact.paraphrases)
        return self.lead + own[self.wording] if self.wording < len(own) else None

    def words(self, labels) -> dict[str, str]:
        """{label: the word that answers it} for some labels."""
        return {label: self.answers.get(label, label) for label in labels}


def fill(text: str, subject: str) -> str:
    """`text` with the subject in place of its placeholders."""
    surname = subject.rsplit(" ", 1)[-1]
    words = {"{subject}": subject, "{SUBJECT}": subject.upper(), "{surname}": surname}
    return SUBJECT.sub(lambda found: words[found.group()], text)


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
        """The labels that the file lists, in its order; empty if any object of the table will
        do."""
        return list(self.training.answers)


@dataclass(frozen=True)
class Catalogue:
    """All formats of a task: {relation: FormatSet}."""

    sets: dict[str, FormatSet]

    @property
    def kinds(self) -> dict[str, str]:
        """{format name: kind} over all relations, in the order of KINDS and of the file."""
        found = {f.name: f.kind for s in self.sets.values() for f in s.formats}
        return dict(sorted(found.items(), key=lambda item: KINDS.index(item[1])))

    @property
    def training(self) -> str:
        """Name of the format that edits are trained on."""
        return next(iter(self.kinds))

    def names(self, kind: str) -> list[str]:
        """Names of the formats of one kind."""
        return [name for name, k in self.kinds.items() if k == kind]

    def forms(self, name: str) -> dict[str, Format]:
        """{relation: its format of that name}, for the relations that have one."""
        return {r: f for r, s in self.sets.items() for f in s.formats if f.name == name}

    def only(self, names) -> Catalogue:
        """The same with some formats only (the training format stays)."""
        kept = {
            r: FormatSet(r, tuple(f for f in s.formats if f.kind == "training" or f.name in names))
            for r, s in self.sets.items()
        }
        return Catalogue(kept)


def load_formats(path: Path) -> Catalogue:
    """Read and check a formats file, {relation: {format: fields}}; FileNotFoundError or ValueError
    in one sentence names the format and the cure."""
    raw = read_yaml(path, "formats file", "correct `formats` of the task in params.yaml")
    if not raw or not isinstance(raw, dict) or not all(map(_is_named, (raw, *raw.values()))):
        raise ValueError(
            f"{path.name} must map relations to formats: quote names like 1, yes or no"
        )
    try:
        sets = {relation: _format_set(relation, forms) for relation, forms in raw.items()}
    except ValueError as error:
        raise ValueError(short(f"{path.name}: {error}", 390)) from None
    kinds = {}
    for form in (f for s in sets.values() for f in s.formats):
        if kinds.setdefault(form.name, form.kind) != form.kind:
            raise ValueError(
                f"format '{form.name}' is {kinds[form.name]} for one relation and {form.kind} for "
                "another: rename one of them"
            )
    if len([k for k in kinds.values() if k == "training"]) != 1:
        raise ValueError(f"{path.name} must give the training format the same name everywhere")
    return Catalogue(sets)


def _is_named(value) -> bool:
    """Is it a mapping from texts?"""
    return isinstance(value, dict) and all(isinstance(key, str) and key.strip() for key in value)


def save_catalogue(catalogue: Catalogue, path: Path, **more) -> None:
    """Write formats as json; more: what else is to stand in the file."""
    sets = {r: [asdict(f) for f in s.formats] for r, s in catalogue.sets.items()}
    text = json.dumps({"formats": sets} | more, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_catalogue(path: Path) -> tuple[Catalogue, dict]:
    """(formats, what else stands in the file), as `save_catalogue` wrote them."""
    more = json.loads(path.read_text(encoding="utf-8"))
    sets = {
        r: FormatSet(r, tuple(Format(**f | {w: tuple(f[w]) for w in ("yes", "no")}) for f in forms))
        for r, forms in more.pop("formats").items()
    }
    return Catalogue(sets), more


def load_training(folder: Path) -> dict[str, Format]:
    """{relation: training format} as notebook 01 wrote them beside the facts."""
    catalogue, _ = read_catalogue(folder / "training.json")
    return catalogue.forms(catalogue.training)


def own_wordings(relations: list[str], paraphrases: int) -> Catalogue:
    """Formats of facts that bring their own wordings, as CounterFact does: a prompt, the same
    after a sentence that has nothing to do with it, and paraphrases."""
    forms = [Format("training", "training", None)]
    forms += [Format("distracted", "rewording", None, lead=DISTRACTION)]
    forms += [
        Format(f"paraphrase-{i}", "rewording", None, {}, i) for i in range(1, paraphrases + 1)
    ]
    return Catalogue({r: FormatSet(r, tuple(forms)) for r in relations})


def _format_set(relation: str, raw: dict) -> FormatSet:
    formats = [_format(relation, name, fields) for name, fields in raw.items()]
    if [f.kind for f in formats].count("training") != 1:
        raise ValueError(f"give relation '{relation}' exactly one format of kind training")
    formats.sort(key=lambda f: KINDS.index(f.kind))
    labels = set(formats[0].answers)
    for form in formats:
        if labels and form.answers and set(form.answers) != labels:
            listed = short(", ".join(sorted(labels)))
            raise ValueError(
                f"format '{form.name}' must answer exactly the labels {listed}: correct it"
            )
    return FormatSet(relation, tuple(formats))


def _format(relation: str, name: str, fields: dict) -> Format:
    fields = {"answers": {}} | (fields if _is_named(fields) else {})
    own = {"yes", "no"} & set(fields)
    wrong = sorted({"kind", "template", "answers"} ^ (set(fields) - own))
    if wrong:
        raise ValueError(
            f"format '{name}' of '{relation}' must have kind, template and, if wanted, answers: "
            f"correct '{wrong[-1]}'"
        )
    words = (
        [fields["template"], *fields["answers"].values()] if _is_named(fields["answers"]) else [0]
    )
    for side in own:
        words += fields[side] if isinstance(fields[side], list) else [0]
    if not all(isinstance(word, str) and word.strip() for word in words):
        raise ValueError(f"template and answers of '{name}' must be texts: quote words like yes")
    fields |= {side: tuple(fields[side]) for side in own}
    form = Format(name=name, **fields)
    if form.kind not in KINDS:
        raise ValueError(f"format '{name}' has unknown kind '{form.kind}': use {', '.join(KINDS)}")
    if len(SUBJECT.findall(form.template)) != 1:
        raise ValueError(
            f"the template of '{name}' must contain {{subject}} exactly once: correct it"
        )
    if form.kind == "training" and "{subject}" not in form.template:
        raise ValueError(
            f"the training format of '{relation}' must name the {{subject}}: correct it"
        )
    if form.template != form.template.rstrip(" "):
        raise ValueError(f"the template of format '{name}' ends in a space: delete it")
    _check_choice(form)
    return form


def _check_choice(form: Format) -> None:
    shown = [place for place in ("{option}", "{options}") if place in form.template]
    if form.kind != "choice":
        if shown or form.yes or form.no:
            raise ValueError(
                f"format '{form.name}' shows answers but is {form.kind}: make its kind choice"
            )
    elif len(shown) != 1 or ("{option}" in shown) != bool(form.yes and form.no):
        raise ValueError(
            f"format '{form.name}' must show all answers ({{options}}) or one at a time "
            "({option}, with words that affirm and deny it under `yes` and `no`): correct it"
        )


def answer_tokens(tokenizer, form: Format, labels=None) -> dict[str, int]:
    """{label: token id of its word with a leading space}; ValueError if a word is not one token.

    labels: default all that the format lists.
    """
    words = form.words(form.answers if labels is None else labels)
    encoded = _encoded(tokenizer, words)
    for label, ids in encoded.items():
        if len(ids) != 1:
            raise ValueError(
                f"the answer '{words[label]}' of format '{form.name}' is {len(ids)} tokens for "
                "this model: choose a word that is one token, or remove the format"
            )
    if len({ids[0] for ids in encoded.values()}) != len(encoded):
        raise ValueError(
            f"two answers of format '{form.name}' are the same token: choose distinct words"
        )
    return {label: ids[0] for label, ids in encoded.items()}


def first_tokens(tokenizer, form: Format, labels) -> dict[str, int]:
    """{label: first token of its word}, without the labels that share theirs with another one."""
    first = {label: ids[0] for label, ids in _encoded(tokenizer, form.words(labels)).items()}
    count = Counter(first.values())
    return {label: token for label, token in first.items() if count[token] == 1}


def _encoded(tokenizer, words: dict[str, str]) -> dict[str, list[int]]:
    if not words:
        return {}
    ids = tokenizer([" " + w for w in words.values()], add_special_tokens=False).input_ids
    return dict(zip(words, ids))


def encode(tokenizer, texts: list[str]) -> Prompts:
    """Tokenized prompts for the packed forward pass."""
    return Prompts.of(tokenizer(texts).input_ids)


def subject_positions(tokenizer, form: Format, fact) -> tuple[int, ...]:
    """Tokens of a fact's prompt whose characters overlap the subject; ValueError if there are
    none."""
    text = form.ask(fact)
    templated = form.template is not None
    start = form.template.index("{subject}") if templated else text.rfind(fact.subject)
    offsets = tokenizer(text, return_offsets_mapping=True).offset_mapping
    end = start + len(fact.subject)
    found = tuple(i for i, (a, b) in enumerate(offsets) if a < end and b > start and b > a)
    if start < 0 or not found:
        raise ValueError(
            f"subject '{fact.subject}' was not found among the tokens of its prompt: {text!r}"
        )
    return found
