"""All formats of a task, and what notebook 01 decided about them once for every later stage.

A format counts only where the unedited model scores at least `attack_formats.gate` on retained
facts: where it cannot answer, a changed answer means nothing (section 8.3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas

from lib.facts.formats import Catalogue, read_catalogue, save_catalogue
from lib.facts.records import READ, FactRecord, FactSplit
from lib.measure.answers import COLUMNS, score_in_formats
from lib.model.runner import Runner

FILE = "formats.json"


@dataclass(frozen=True)
class Formats:
    """catalogue: all formats; answerable: {name: can the unedited model answer it?}, in the
    catalogue's order; chance: of guessing the true answer, mean over known facts."""

    catalogue: Catalogue
    answerable: dict[str, bool]
    chance: float

    @staticmethod
    def of(catalogue: Catalogue, unedited: pandas.DataFrame, gate: float, facts) -> Formats:
        """Decide from the unedited model's answers; ValueError if the training format is the only
        one that it can answer, so that it cannot be seen whether an edit carries over."""
        decided = answerable(unedited, gate)
        order = {name: decided[name] for name in catalogue.kinds if name in decided}
        chance = sum(1 / len(f.options) for f in facts) / len(facts)
        found = Formats(catalogue, order, chance)
        if not found.vocabulary + found.rewordings:
            raise ValueError(
                "this model answers no format but the one that edits are trained on, so it cannot "
                "be seen whether an edit carries over: add one to the formats file, lower "
                "attack_formats.gate, or use a larger model"
            )
        return found

    @property
    def training(self) -> str:
        """Name of the format that edits are trained on."""
        return self.catalogue.training

    @property
    def counted(self) -> list[str]:
        """Names of the formats that count."""
        return [name for name, ok in self.answerable.items() if ok]

    @property
    def vocabulary(self) -> list[str]:
        """Names of the formats with other answer words that count."""
        return [name for name in self.catalogue.names("vocabulary") if self.answerable.get(name)]

    @property
    def rewordings(self) -> list[str]:
        """Names of the formats with the same answer words in another wording that count."""
        return [name for name in self.catalogue.names("rewording") if self.answerable.get(name)]

    def both(self, other: Formats) -> Formats:
        """The same for two draws of the facts: a format counts where it does for both."""
        counts = {n: ok and other.answerable.get(n, False) for n, ok in self.answerable.items()}
        return replace(self, answerable=counts)

    def forms(self, names: list[str]) -> dict[str, dict]:
        """{name: {relation: format}} of some formats."""
        return {name: self.catalogue.forms(name) for name in names}

    def save(self, folder: Path) -> None:
        """Write formats.json."""
        more = {"answerable": self.answerable, "chance": round(self.chance, 6)}
        save_catalogue(self.catalogue, folder / FILE, **more)

    @staticmethod
    def load(folder: Path) -> Formats:
        """Read what `save` wrote."""
        catalogue, more = read_catalogue(folder / FILE)
        return Formats(catalogue, more["answerable"], more["chance"])


def ask_all(
    runner: Runner,
    tokenizer,
    formats: Catalogue,
    facts: dict[str, FactRecord],
    split: FactSplit,
    roles: tuple[str, ...] = READ,
) -> pandas.DataFrame:
    """Per-fact rows (see `answers.score_facts`) in every format, with the fact's role in
    `split`."""
    role = split.role_of()
    asked = [facts[i] for r in roles for i in getattr(split, r)]
    forms = {name: formats.forms(name) for name in formats.kinds}
    rows = score_in_formats(runner, tokenizer, forms, asked)
    rows.insert(1, "split", rows.id.map(role))
    return rows


def ask_unedited(
    runner: Runner,
    tokenizer,
    formats: Catalogue,
    facts: dict[str, FactRecord],
    split: FactSplit,
    gate: float,
    few: int,
) -> pandas.DataFrame:
    """`ask_all` of the unedited model. Formats that show the answers take several prompts a fact:
    they are asked of `few` retained facts, and of all only where these reach the gate."""
    choices = formats.names("choice")
    rows = ask_all(runner, tokenizer, formats.only(set(formats.kinds) - set(choices)), facts, split)
    if not choices:
        return rows
    some = replace(split, retain_test=split.retain_test[:few])
    tried = ask_all(runner, tokenizer, formats.only(choices), facts, some, ("retain_test",))
    tried = tried[tried.format.isin(choices)]
    passed = [name for name, ok in answerable(tried, gate).items() if ok]
    more = ask_all(runner, tokenizer, formats.only(passed), facts, split) if passed else rows[:0]
    parts = [rows, tried[~tried.format.isin(passed)], more[more.format.isin(passed)]]
    return pandas.concat([part for part in parts if len(part)], ignore_index=True)


class OnTheWay:
    """Asks the formats that count while an edit is trained: at the first check at which it has
    reached each of `strengths`; called as the trainer's `watch`. few: retained facts that are
    asked; `rows`: what was answered, with columns at, step, strength."""

    def __init__(self, formats: Formats, tokenizer, facts, split: FactSplit, strengths, few: int):
        some = replace(split, retain_test=split.retain_test[:few])
        self.asked = tokenizer, formats.catalogue.only(formats.counted), facts, some
        self.left = sorted(strengths)
        self.rows: list[pandas.DataFrame] = []

    def __call__(self, runner: Runner, step: int, strength: float) -> None:
        reached = [s for s in self.left if strength >= s]
        if reached:
            self.left = self.left[len(reached) :]
            key = {"at": reached[-1], "step": step, "strength": strength}
            self.rows.append(ask_all(runner, *self.asked).assign(**key))

    def table(self) -> pandas.DataFrame:
        """All rows, with columns of `ask_all`; none where no strength was reached."""
        first = ["at", "step", "strength", "id", "split", *COLUMNS[1:]]
        return pandas.concat([pandas.DataFrame(columns=first), *self.rows], ignore_index=True)


def answerable(unedited: pandas.DataFrame, gate: float) -> dict[str, bool]:
    """{format: does the unedited model reach `gate` accuracy on retained facts?}."""
    retained = unedited[unedited.split == "retain_test"]
    accuracy = (retained.answer == retained.true).groupby(retained.format).mean()
    return {name: bool(value >= gate) for name, value in accuracy.items()}
