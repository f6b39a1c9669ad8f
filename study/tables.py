"""The rows of the study as one table: a row per cell, with what the decisions look at."""

from __future__ import annotations

from pathlib import Path

import numpy
import pandas

from lib.config.blocks import Settings
from lib.facts.formats import Catalogue
from study import cells, design

OUTCOMES = ("back", "new_wording", "old_wording", "new_vocabulary", "old_vocabulary")


def load(task: str, settings: Settings, catalogue: Catalogue, rows: Path = cells.ROWS):
    """Every cell of a task: columns experiment, fold, cell, mlp, attention, reached, steps,
    gates (did both attacks pass theirs?), kept (mean accuracy on retained facts over formats), and
    the OUTCOMES, shares of the fold's facts.

    A format enters only where the edited model keeps enough of its accuracy on retained facts
    (attack_formats.keep); not a number where none is left.
    """
    found = []
    for experiment in design.experiments(task):
        for number in design.folds(task):
            for made in cells.read(cells.path_of(experiment, task, number, rows)):
                found.append({"experiment": experiment, "fold": number} | made)
    before = {r["fold"]: r["retained"] for r in found if r["cell"] == design.UNEDITED}
    table = [row(made, before, settings, catalogue) for made in found if "back" in made]
    return pandas.DataFrame(table)


def row(made: dict, before: dict, settings: Settings, catalogue: Catalogue) -> dict:
    """One cell of `load`; before: {fold: accuracy of the unedited model by format}."""
    gates = settings.attacks
    passed = [
        end["taught"] >= gates.gate_train and end["retained"] >= gates.gate_retain
        for end in made["attacks"]
    ]
    keep, had = settings.attack_formats.keep, before[made["fold"]]
    count = {f: value >= keep * had[f] for f, value in made["retained"].items()}
    key = {name: made[name] for name in ("experiment", "fold", "cell")}
    key |= {name: tuple(made[name]) for name in ("mlp", "attention")}
    key |= {"reached": made["edit"]["reached"], "steps": made["edit"]["steps"]}
    key |= {"kept": float(numpy.mean(list(made["retained"].values())))}
    key |= {"gates": all(passed), "back": float(numpy.mean(list(made["back"].values())))}
    for kind, names in (("wording", "rewording"), ("vocabulary", "vocabulary")):
        mine = [f in catalogue.names(names) and count[f] for f in made["retained"]]
        for says in ("new", "old"):
            key[f"{says}_{kind}"] = _share(made["said"], mine, cells.CODE[says])
    return key


def _share(said: dict[str, str], mine: list[bool], letter: str) -> float:
    """Mean over facts of the share of formats that were answered with `letter`."""
    each = []
    for text in said.values():
        asked = [c for c, ok in zip(text, mine) if ok and c != cells.CODE["not asked"]]
        each += [asked.count(letter) / len(asked)] if asked else []
    return float(numpy.mean(each)) if each else float("nan")
