"""Format attack: ask for the edited fact in other words, and with other answer words.

The attacker needs no training and no knowledge but another wording. A format counts only where
the unedited model scores at least `gate` on retained facts: where it cannot answer, a changed
answer means nothing (section 8.3).
"""

from __future__ import annotations

import pandas

from lib.facts.formats import Catalogue
from lib.facts.records import READ, FactRecord, FactSplit
from lib.measure import score_in_formats
from lib.packing import Runner


def ask_all(
    runner: Runner,
    tokenizer,
    formats: Catalogue,
    facts: dict[str, FactRecord],
    split: FactSplit,
    roles: tuple[str, ...] = READ,
) -> pandas.DataFrame:
    """Per-fact rows (see `measure.score_facts`) in every format, with the fact's role in
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


def vocabulary_formats(formats: Catalogue, passes: dict[str, bool]) -> list[str]:
    """Answerable formats with other answer words; ValueError if there are none to measure transfer
    by."""
    found = [name for name in formats.names("vocabulary") if passes.get(name)]
    if not found:
        raise ValueError(
            "this model answers no format with another answer vocabulary, so transfer cannot "
            "be measured: "
            "add one to the formats file, lower attack_formats.gate, or use a larger model"
        )
    return found
