"""Experiment 8: facts planted in known MLPs, found or not, edited there and elsewhere.

One file of rows a place and seed, `rows/planted-PLACE/TASK/SEED.jsonl`: a line that verifies the
plant, one with the scores of the localization methods, then the cells, named `PLACE>EDITED`; edits
in single MLPs are in `rows/planted-singles-PLACE`. The planted
weights stay in study/plants (not in git), so that an interrupted run goes on without planting anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas
import torch
from safetensors.torch import load_file, save_file

from lib.attacks import battery, cell
from lib.attacks.target import Target
from lib.config.blocks import GROUPS, Edit, Settings
from lib.facts.records import FactRecord
from lib.measure.formats import Formats
from lib.model.components import Component, Localization
from lib.model.weights import kept, put, trainable
from lib.plant import locating, planting
from lib.stats import paired_difference
from study import cells, design, tables

KEPT = design.HERE / "plants"


def place_of(name: str) -> Localization:
    """A set of whole MLPs named by its layers."""
    layers = design.layers_of(name)
    return Localization(name, tuple(Component("mlp", layer) for layer in layers), 0, 0)


def facts_of(target: Target, settings: Settings, seed: int) -> list[FactRecord]:
    """The facts to plant: labels and new answers depend on the seed, the names do not."""
    about = design.params()[design.PLANTED]
    blocks = settings.plants | {"facts": about["facts"], "edit": design.params()["size"]}
    table = planting.table_of(settings.model_copy(update={"plants": blocks}), target.task)
    return planting.records(target, table, seed)


@contextmanager
def planted(
    target: Target, place: str, facts: list[FactRecord], settings: Settings, seed: int
) -> Iterator[tuple[dict, pandas.DataFrame | None]]:
    """Inside, the facts are planted; gives the weights before, and the log of planting (None where
    the plant was made earlier). Nothing is planted NOWHERE."""
    if place == design.NOWHERE:
        yield {}, None
        return
    about = design.params()[design.PLANTED]
    file, model, log = KEPT / f"{place}-{seed}.safetensors", target.loaded.model, None
    weights = trainable(model, place_of(place))
    with kept(weights) as old:
        if file.exists():
            put(weights, load_file(file))
        else:
            how = planting.settings_of(settings).but(**about["train"])
            log = planting.plant(target, place_of(place), facts, about["wordings"], how)
            KEPT.mkdir(exist_ok=True)
            new = file.with_suffix(".new")  # a kill while writing leaves no half plant
            save_file({n: p.detach().contiguous() for n, p in weights.items()}, new)
            new.replace(file)
        yield old, log


def make(
    names: list[str], target: Target, settings: Settings, pair: dict, formats: list[str], place: str
) -> Iterator[dict]:
    """The lines `names` of one place, one after the other, under one plant; target.seed is the
    seed."""
    facts, seed = facts_of(target, settings, target.seed), target.seed
    aimed = planting.planted_target(target, facts, design.params()["size"])
    only, run = target.formats.only(formats), settings.edit.run(pair["lr"], pair["weight_edit"])
    with planted(target, place, facts, settings, seed) as (old, log):
        for name in names:
            if name == design.VERIFIED:
                yield verified(target, aimed, place, facts, old, log, only)
            elif name == design.LOCATED:
                yield located(target, place, facts, settings, seed)
            elif name == design.BATTERY:
                yield attacked(aimed, run, settings)
            else:
                edited = place_of(design.split_name(name)[1])
                made = cell.measure(aimed, edited, run, settings, only, swapped=True)
                yield cells.line(name, edited, made)


def verified(target, aimed, place, facts, old, log, only) -> dict:
    """How often planted facts are answered, by format; what is left with old weights back and with
    outputs taken away; accuracy on the facts that edits are to keep."""
    counted = Formats.load(target.store.find("unedited", target.task, 0))
    asked = planting.known(target, facts, counted.catalogue.only(counted.counted))
    made = {"cell": design.VERIFIED, "known": _as_dict(asked, "format")}
    asked = pandas.concat(aimed.read(form=n, roles=("retain_test",)) for n in only.kinds)
    right = (asked.answer == asked.true).groupby(asked.format, sort=False).mean()
    made["retained"] = right.round(4).to_dict()
    if place != design.NOWHERE:
        windows = {n: design.layers_of(n) for n in design.params()[design.PLANTED]["windows"]}
        windows |= {place: design.layers_of(place)}
        back = planting.restored(target, place_of(place), facts, old)
        gone = planting.patched(target, facts, old, windows)
        made |= {"restored": _as_dict(back, "restored"), "patched": _as_dict(gone, "patched")}
        made["steps"] = len(log) if log is not None else None
    return made


def _as_dict(rows: pandas.DataFrame, key: str) -> dict:
    return rows.set_index(key).right.round(4).to_dict()


def located(target: Target, place: str, facts: list[FactRecord], settings: Settings, seed: int):
    """Every method's score of every MLP, on planted facts that no edit touches."""
    others = facts[design.params()["size"] :]
    rows = locating.mlp_scores(target, others, settings, seed)
    wide = rows.pivot(index="method", columns="layer", values="score").round(5)
    return {"cell": design.LOCATED, "scores": {m: list(s) for m, s in wide.iterrows()}}


def attacked(aimed: Target, trainer: Edit, settings: Settings) -> dict:
    """Facts edited in the last window, and every attack on them: back, {attack: {variant: {id: 1 if
    the old answer came back, else 0}}} of the half that is held out, after all that the attack may
    spend. Planted in the first window, the old answers are masked for certain; planted nowhere,
    there are none."""
    model, found = aimed.loaded.model, {}
    place = place_of(design.params()[design.PLANTED]["windows"][-1])
    with kept(trainable(model, place)) as old:
        cell.make(aimed, place, trainer, settings)
        edited = replace(aimed, unedited=old)
        every = {n: how for group in GROUPS for n, how in battery.chosen(settings, group).items()}
        rows, _ = battery.run(edited, every)
    rows = rows[rows.split == "forget_heldout"].fillna({"variant": ""})
    last = rows.groupby(["attack", "variant"]).budget.transform("max")
    for (attack, variant), mine in rows[rows.budget == last].groupby(["attack", "variant"]):
        came = dict(zip(mine.id, (mine.answer == mine.true).astype(int).tolist()))
        found.setdefault(attack, {})[str(variant)] = came
    return {"cell": design.BATTERY, "back": found}


def run(experiment: str, task: str, seed: int) -> None:
    """Make every line of a place and seed that is not there yet."""
    path, names = cells.path_of(experiment, task, seed), design.todo(experiment, task, seed)
    if {made["cell"] for made in cells.read(path)} >= set(names):
        print(f"{experiment} {seed}: all {len(names)} lines are there")
        return
    settings, _, target, pair, formats = cells.start(task, seed)
    place, target = design.place_of(experiment), replace(target, seed=seed)
    how = {"threads": torch.get_num_threads(), "pair": pair, "model": settings.model.model_dump()}

    def some(missing: list[str]) -> Iterator[dict]:
        for made in make(missing, target, settings, pair, formats, place):
            yield made | {"made_with": how}

    cells.fill(path, names, some, f"{experiment}, seed {seed}")


# What the rows say


def lines(task: str, rows: Path = cells.ROWS) -> pandas.DataFrame:
    """Every line of planted facts: columns place, seed, and what the line holds."""
    found, seeds = [], range(1, design.params()[design.PLANTED]["seeds"] + 1)
    every = design.plants("windows") + design.plants(design.SINGLES)
    for experiment, seed in product(every, seeds):
        key = {"place": design.place_of(experiment), "seed": seed}
        made = cells.read(cells.path_of(experiment, task, seed, rows))
        found += [key | line for line in made]
    return pandas.DataFrame(found, columns=None if found else ["place", "seed", "cell"])


def untrained(made: dict) -> float:
    """Share of a plant that is answered in formats that were not trained."""
    trained = ("training", *design.params()[design.PLANTED]["wordings"])
    shares = [share for name, share in made["known"].items() if name not in trained]
    return sum(shares) / len(shares)


def _elsewhere(made: dict) -> list[float]:
    """What is left of a plant without the outputs of each window that holds none of it."""
    own = {*design.layers_of(made["place"])}
    return [s for name, s in made["patched"].items() if not own & {*design.layers_of(name)}]


def sound(made: dict) -> bool:
    """Is a plant known in formats that were not trained, gone without its own outputs, and left
    without those of windows that hold none of it?"""
    about = design.params()[design.PLANTED]
    gone = made["patched"][made["place"]] < about["gone"]
    left = all(share >= about["left"] for share in _elsewhere(made))
    return untrained(made) >= about["known"] and gone and left


def table(task: str, settings: Settings, catalogue, rows: Path = cells.ROWS) -> pandas.DataFrame:
    """Every cell as `tables.load` gives them, experiment `planted`, fold the seed; cells of a plant
    that is not sound count as not reached."""
    every = lines(task, rows)
    plants = [made for made in every.to_dict("records") if made["cell"] == design.VERIFIED]
    before = {(made["place"], made["seed"]): made["retained"] for made in plants}
    bad = {(m["place"], m["seed"]) for m in plants if m["place"] != design.NOWHERE and not sound(m)}
    found = []
    for made in every.to_dict("records"):
        key = made["place"], made["seed"]
        if ">" in made["cell"] and key in before:
            line = made | {"experiment": design.PLANTED, "fold": made["seed"]}
            row = tables.row(line, {made["seed"]: before[key]}, settings, catalogue)
            found.append(row | {"reached": row["reached"] and key not in bad})
    return pandas.DataFrame(found)


def plants_table(every: pandas.DataFrame) -> pandas.DataFrame:
    """A row per plant of `lines`: steps of planting; known: share answered in formats that were not
    trained; own, others: what is left with its own outputs taken away, and at least with those of a
    window that holds none of it; retained: accuracy on facts that edits are to keep; sound."""
    found = []
    for made in every[every.cell == design.VERIFIED].to_dict("records"):
        row = {key: made[key] for key in ("place", "seed")} | {"known": untrained(made)}
        row["retained"] = sum(made["retained"].values()) / len(made["retained"])
        if made["place"] != design.NOWHERE:
            row |= {"steps": made["steps"], "own": made["patched"][made["place"]]}
            row |= {"others": min(_elsewhere(made)), "sound": sound(made)}
        found.append(row)
    return pandas.DataFrame(found)


def marked(every: pandas.DataFrame) -> pandas.DataFrame:
    """Rows (place, seed, method, precision, rank, first, on): marks of every method for every plant
    (`on` planted), of a random order, and of the same method on the unplanted model."""
    scores = {(m["place"], m["seed"]): _long(m["scores"])
              for m in every[every.cell == design.LOCATED].to_dict("records")}  # fmt: skip
    found = []
    for (place, seed), rows in scores.items():
        if place == design.NOWHERE:
            continue
        models = {"planted": rows, "unplanted": scores.get((design.NOWHERE, seed))}
        for on, mine in models.items():
            if mine is not None:
                marks = locating.marks(mine, list(design.layers_of(place)))
                found.append(marks.assign(place=place, seed=seed, on=on))
    return pandas.concat(found, ignore_index=True) if found else pandas.DataFrame()


def calibrated(every: pandas.DataFrame) -> pandas.DataFrame:
    """Rows (attack, variant, seeds, nothing, masked, value, low, high, tells): what each attack
    recovers of held-out facts that were never there, and of masked ones; value: the difference,
    with an interval over facts of all seeds; tells: does that leave out zero?"""
    nothing, masked = ({} for _ in range(2))
    for made in every[every.cell == design.BATTERY].to_dict("records"):
        side = nothing if made["place"] == design.NOWHERE else masked
        for attack, variants in made["back"].items():
            for variant, came in variants.items():
                kept = {f"{made['seed']} {i}": value for i, value in came.items()}
                side.setdefault((attack, variant), {}).update(kept)
    found = []
    for key in [k for k in masked if k in nothing]:
        a, b = pandas.Series(masked[key], dtype=float), pandas.Series(nothing[key], dtype=float)
        gap = paired_difference(a, b)
        row = {"attack": key[0], "variant": key[1], "nothing": b.mean(), "masked": a.mean()}
        row |= vars(gap) | {"tells": gap.low > 0}
        found.append(row)
    return pandas.DataFrame(found)


def _long(scores: dict[str, list[float]]) -> pandas.DataFrame:
    rows = [(m, layer, score) for m, every in scores.items() for layer, score in enumerate(every)]
    return pandas.DataFrame(rows, columns=["method", "layer", "score"])


def mapped(cells_table: pandas.DataFrame) -> pandas.DataFrame:
    """Rows (planted, edited, back, new_vocabulary, seeds, holds, upstream): means over seeds of all
    cells that reached the strength, with the share of the plant that the edited set holds, and the
    share at its first layer or behind it."""
    mine = cells_table[cells_table.reached.astype(bool)]
    names = [design.split_name(name) for name in mine.cell]
    mine = mine.assign(planted=[n[0] for n in names], edited=[n[1] for n in names])
    means = mine.groupby(["planted", "edited"], sort=False)[["back", "new_vocabulary"]].mean()
    means = means.assign(seeds=mine.groupby(["planted", "edited"], sort=False).fold.nunique())
    rows = []
    for row in means.reset_index().to_dict("records"):
        if row["planted"] != design.NOWHERE:
            where, layers = (design.layers_of(row[key]) for key in ("planted", "edited"))
            found = design.measures(design.params()[design.PLANTED]["task"], layers, where)
            row |= {"holds": found.lookup, "upstream": found.upstream}
        rows.append(row)
    return pandas.DataFrame(rows)
