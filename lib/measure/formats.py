"""All formats of a task, and what notebook 01 decided about them once for every later stage.

A format counts only where the unedited model scores at least `attack_formats.gate` on retained
facts: where it cannot answer, a changed answer means nothing (section 8.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas

from lib.facts.formats import Catalogue, read_catalogue, save_catalogue
from lib.facts.records import READ, FactRecord, FactSplit
from lib.measure.answers import score_in_formats
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
        """Decide from the unedited model's answers; ValueError if there is no format by which
        transfer can be measured."""
        decided = answerable(unedited, gate)
        order = {name: decided[name] for name in catalogue.kinds if name in decided}
        chance = sum(1 / len(f.options) for f in facts) / len(facts)
        found = Formats(catalogue, order, chance)
        if not found.vocabulary:
            raise ValueError(
                "this model answers no format with another answer vocabulary, so transfer cannot "
                "be measured: add one to the formats file, lower attack_formats.gate, or use a "
                "larger model"
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


def answerable(unedited: pandas.DataFrame, gate: float) -> dict[str, bool]:
    """{format: does the unedited model reach `gate` accuracy on retained facts?}."""
    retained = unedited[unedited.split == "retain_test"]
    accuracy = (retained.answer == retained.true).groupby(retained.format).mean()
    return {name: bool(value >= gate) for name, value in accuracy.items()}
