"""Runs the cells of one experiment, task and fold: `python -m study.cells EXPERIMENT TASK FOLD`.

A cell is one edit of a fold's 32 facts, asked in other wordings and with other answer words, and
attacked by relearning twice, with the halves exchanged (in experiment `attacker` by one who adapts,
see `study.attacker`). It becomes one line of
study/rows/EXPERIMENT/TASK/FOLD.jsonl. Lines that are there are never made again, so that an
interrupted run loses at most one cell; weights are not kept.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas
import torch
from tqdm import tqdm

from lib import config, paths
from lib.attacks import cell
from lib.attacks.target import Target
from lib.config.blocks import Edit, LocalizationSettings, Settings
from lib.edit import tune
from lib.facts.formats import Catalogue
from lib.facts.records import FORGET, READ
from lib.localize.select import select
from lib.measure.formats import Formats
from lib.model.components import Component, Localization, load_set, unit_sizes
from lib.model.loading import seed_everything
from lib.model.names import PACKAGED
from lib.model.prepare import prepare
from lib.model.weights import kept, trainable
from lib.store import Store
from study import attacker, design

ROWS = design.HERE / "rows"
CODE = {"new": "n", "old": "o", "other": "x", "not asked": "-"}


def path_of(experiment: str, task: str, fold: int, rows: Path = ROWS) -> Path:
    """The file of an experiment's cells in one fold."""
    return rows / experiment / task / f"{fold}.jsonl"


def read(path: Path) -> list[dict]:
    """The cells of a file; a last line that was cut off is left out."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def begun(task: str) -> bool:
    """Is there any cell of a task?"""
    return any(ROWS.glob(f"*/{task}/*.jsonl"))


def append(path: Path, made: dict) -> None:
    """Add a cell, in place of a line that was cut off."""
    whole = [json.dumps(line) + "\n" for line in (*read(path), made)]
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")  # a kill while writing leaves the old file
    new.write_text("".join(whole))
    new.replace(path)


def source(task: str) -> tuple[Settings, Store, str]:
    """(settings with what the study changes, results of the default facts, the task's name there):
    the project's, or for a task with a `copy` in study/params.yaml, those of that folder."""
    ours = design.params()
    about = ours["tasks"][task]
    home = Path(about.get("copy", "."))
    if not (paths.ROOT / home / "data" / "settings").is_dir():
        raise FileNotFoundError(f"there are no results of {task} in {home} yet: run `make study`")
    base = config.load(paths.ROOT / home / "params.yaml")
    relearn = base.attack_relearn.but(read_at=ours["read_at"])
    attacks = base.attacks.but(control=ours["control"])
    settings = base.model_copy(update={"attack_relearn": relearn, "attacks": attacks})
    return settings, Store(str(home / "data")), about.get("task", task)


def catalogue_of(task: str) -> tuple[Settings, Catalogue]:
    """(settings, formats) of a task, which tell what its rows say."""
    settings, store, name = source(task)
    return settings, Formats.load(store.find("unedited", name, 0)).catalogue


def target_of(store: Store, task: str, number: int, settings: Settings) -> Target:
    """The unedited model with the facts of a fold; no invented subjects are asked."""
    target = Target.of(store, task, 0, settings)
    catalogue = Formats.load(store.find("unedited", task, 0)).catalogue
    split = design.fold(target.split, number)
    return replace(target, split=split, formats=catalogue, seed=number, invented=[])


def place_of(name: str, store: Store, task: str, settings: Settings, sizes: dict) -> Localization:
    """The set of weights that a name of `design.sets` stands for; `NAME:i` is draw i."""
    layers = design.layers_of(name)
    if layers is not None:
        chosen = tuple(Component("mlp", layer) for layer in layers)
        return Localization(name, chosen, sum(sizes[c] for c in chosen), 0)
    method, _, draw = name.partition(":")
    if not draw:
        return load_set(store, task, name, 0)
    lookup = store.load_json("fact_lookup/lookup", task, 0)["layers"]
    block = LocalizationSettings(method=method, draw=int(draw))
    return select(name, block, sizes, lookup, 0)


def line(name: str, place: Localization, tables: dict[str, pandas.DataFrame]) -> dict:
    """A cell as it is stored: what `answered` gives, and

    edit: steps, strength, what was kept; back: {id: 1 if the old answer came back, else 0};
    attacks: how each of the two ended.
    """
    edit, asked, attacked = (tables[t] for t in ("edits", "asked", "relearned"))
    ends = attacked[attacked.budget == attacked.groupby("variant").budget.transform("max")]
    row = edit.drop(columns=["localization", "trained_on"]).iloc[0].to_dict()
    return {
        "cell": name,
        "mlp": place.layers("mlp"),
        "attention": place.layers("attention"),
        "edit": {key: _plain(value) for key, value in row.items()},
        **answered(asked),
        "back": came_back(ends),
        "attacks": [how_it_ended(rows) for _, rows in ends.groupby("variant", sort=True)],
    }


def unedited(target: Target, formats: Catalogue) -> dict:
    """The model before any edit, asked like an edited one; it is not attacked."""
    asked = pandas.concat(target.read(form=name, roles=READ) for name in formats.kinds)
    return {"cell": design.UNEDITED, **answered(asked)}


def answered(asked: pandas.DataFrame) -> dict:
    """retained: {format: accuracy on retained facts}; said: {id of an edited fact: one letter for
    each of these formats, see CODE}."""
    kept = asked[asked.split == "retain_test"]
    right = (kept.answer == kept.true).groupby(kept.format, sort=False).mean().round(4)
    return {"retained": right.to_dict(), "said": letters(asked, list(right.index))}


def letters(asked: pandas.DataFrame, formats: list[str]) -> dict[str, str]:
    """{id of an edited fact: what it was answered with, a letter for each format}."""
    rows = asked[asked.split.isin(FORGET)]
    code = pandas.Series(CODE["other"], rows.index)
    code = code.mask(rows.answer == rows.edit, CODE["new"])
    code = code.mask(rows.answer == rows.true, CODE["old"])
    table = rows.assign(code=code).pivot(index="id", columns="format", values="code")
    table = table.reindex(columns=formats).fillna(CODE["not asked"])
    return table.agg("".join, axis=1).to_dict()


def came_back(ends: pandas.DataFrame) -> dict[str, int]:
    """{id: 1 if it is answered correctly after the attack in which it was held out}."""
    rows = ends[ends.split == "forget_heldout"]
    return dict(zip(rows.id, (rows.answer == rows.true).astype(int).tolist()))


def how_it_ended(rows: pandas.DataFrame) -> dict:
    """Variant and steps of one attack, and what its two gates look at."""
    right = (rows.answer == rows.true).groupby(rows.split).mean().round(4)
    key = {"variant": str(rows.variant.iloc[0]), "steps": int(rows.budget.iloc[0])}
    return key | {"taught": right["forget_train"], "retained": right["retain_test"]}


def _plain(value):
    number = value.item() if hasattr(value, "item") else value
    return round(number, 6) if isinstance(number, float) else number


def make(
    name: str,
    target: Target,
    settings: Settings,
    pair: dict,
    formats: list[str],
    adapts: bool = False,
) -> dict:
    """One cell; formats: names of those that are asked beside the training format; adapts: does the
    attacker?"""
    only = target.formats.only(formats)
    if name == design.UNEDITED:
        return unedited(target, only)
    sizes = unit_sizes(target.loaded.model)
    place = place_of(name, target.store, target.task, settings, sizes)
    how = settings.localizations.get(name, LocalizationSettings(method="literal"))
    chosen = tune.pair_for(how, settings.task(target.task), settings.edit, pair)
    trainer = settings.edit.run(chosen["lr"], chosen["weight_edit"]) if chosen else None
    if adapts:
        return line(name, place, adapted(replace(target, formats=only), place, trainer, settings))
    return line(name, place, cell.measure(target, place, trainer, settings, only, swapped=True))


def adapted(target: Target, place: Localization, trainer: Edit | None, settings: Settings) -> dict:
    """Tables like those of `cell.measure`, the attacker being the one of `study.attacker`."""
    model, every = target.loaded.model, attacker.variants(settings.attack_relearn)
    with kept(trainable(model, place)) as old:
        result = cell.make(target, place, trainer, settings)
        edited, ends = replace(target, unedited=old), []
        asked = [edited.read(form=name, roles=READ) for name in target.formats.kinds]
        for number, split in enumerate((target.split, design.exchanged(target.split))):
            halves = replace(edited, split=split)
            least = settings.attacks.gate_retain
            choice, rows = attacker.adapted(halves, place, every, least)
            ends.append(rows.assign(variant=f"{number} {choice.variant}"))
    key = {"localization": place.name, "trained_on": 1, "weights": place.weights}
    row = {name: getattr(result, name) for name in ("steps", "strength", "reached")}
    edits = pandas.DataFrame([key | row])
    return {"edits": edits, "asked": pandas.concat(asked), "relearned": pandas.concat(ends)}


def fill(
    path: Path, names: list[str], make: Callable[[list[str]], Iterable[dict]], what: str
) -> None:
    """Make the lines that a file lacks, one after the other; a bar says what is done and how long
    the rest takes. make: gives the lines of some names, in their order."""
    there = {made["cell"] for made in read(path)}
    missing = [name for name in names if name not in there]
    made = iter(make(missing))
    bar = tqdm(missing, desc=what, initial=len(names) - len(missing), total=len(names))
    for name in bar:
        bar.set_postfix_str(name)
        append(path, next(made))


def start(task: str, number: int) -> tuple[Settings, Store, Target, dict, list[str]]:
    """(settings, store, the unedited model with fold `number`, pair of edit settings, formats)."""
    seed_everything(number)
    settings, store, name = source(task)
    if settings.model.name in PACKAGED and not paths.model(settings.model.name).exists():
        prepare(settings.model.name, home=paths.PLAY)
    target, pair = (
        target_of(store, name, number, settings),
        store.load_json("settings/pair", name, 0),
    )
    return settings, store, target, pair, design.params()["tasks"][task]["formats"]


def run(experiment: str, task: str, number: int) -> None:
    """Make every cell of an experiment in a fold that is not there yet."""
    path, names = path_of(experiment, task, number), design.todo(experiment, task, number)
    if {made["cell"] for made in read(path)} >= set(names):
        print(f"{path.relative_to(ROWS)}: all {len(names)} cells are there")
        return
    settings, _, target, pair, formats = start(task, number)
    how = {"threads": torch.get_num_threads(), "pair": pair, "model": settings.model.model_dump()}
    adapts = experiment == design.ATTACKER
    check(path, target.split.forget, how)

    def lines(missing: list[str]) -> Iterator[dict]:
        for name in missing:
            yield make(name, target, settings, pair, formats, adapts) | {"made_with": how}

    fill(path, names, lines, f"{experiment}, {task}, fold {number}")


def check(path: Path, forget: tuple[str, ...], how: dict) -> None:
    """ValueError where the cells of a file were made of other facts or with other settings."""
    for made in read(path):
        same = made["made_with"]["pair"] == how["pair"] and set(made["said"]) == set(forget)
        if not same:
            raise ValueError(
                f"{path.relative_to(design.HERE)} has cells made of other facts or with another "
                "learning rate than those of data/: restore the version of the project that made "
                "them, or move the file away to make all of them anew"
            )


def main(arguments: list[str]) -> None:
    """EXPERIMENT TASK FOLD; ValueError or OSError in one sentence for what is wrong."""
    named = len(arguments) == 3 and re.fullmatch(r"\d+", arguments[2])
    if not named or arguments[1] not in design.params()["tasks"]:
        tasks = "|".join(design.params()["tasks"])
        raise ValueError(
            f"usage: python -m study.cells {'|'.join(design.EXPERIMENTS)} {tasks} FOLD"
        )
    if arguments[0].startswith(design.PLANTED):
        from study import planted  # it needs this module

        planted.run(arguments[0], arguments[1], int(arguments[2]))
    else:
        run(arguments[0], arguments[1], int(arguments[2]))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as problem:
        sys.exit(f"error: {problem}")
