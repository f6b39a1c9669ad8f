"""What is edited: folds, sets and experiments, as pure functions of study/params.yaml."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy
import yaml

from lib.facts.records import FactSplit

HERE = Path(__file__).parent
# One kind of cells, in the order in which they are made.
CLIFF, PAIRS, LAYERS, SETS, NINE = SHARED = ("cliff", "pairs", "layers", "sets", "nine")
ATTACKER = "attacker"  # the same edits under another attack
EXPERIMENTS = (*SHARED, ATTACKER)
UNEDITED = "unedited"
PLANTED, NOWHERE = "planted", "nowhere"  # experiment 8; its place where nothing was planted
VERIFIED, LOCATED = "verified", "located"  # its lines about a plant itself
SINGLES = "singles"
BATTERY = "battery"  # all attacks, where nothing is and where something is masked for certain


@cache
def params() -> dict:
    """study/params.yaml."""
    return yaml.safe_load((HERE / "params.yaml").read_text())


@dataclass(frozen=True)
class Measures:
    """The numbers of a set of MLPs that the accounts look at, each rising from 0 to 1.

    depth: mean layer, over the last; before: share of its layers before the extraction heads;
    lookup: share of the path-patching effect that its layers carry; upstream: share of that effect
    at its first layer or above, which an edit there can still reach; first: first layer, over the
    last.
    """

    depth: float
    before: float
    lookup: float
    upstream: float
    first: float


def measures(task: str, layers: tuple[int, ...], planted: tuple[int, ...] = ()) -> Measures:
    """`Measures` of a set of MLPs; lookup and upstream from facts that are in no fold, or where
    facts were planted, with equal shares of the planted layers."""
    about = params()["tasks"][task]
    last = about["n_layers"] - 1
    shares = about["lookup"]
    if planted:
        shares = [(layer in planted) / len(planted) for layer in range(last + 1)]
    return Measures(
        sum(layers) / len(layers) / last,
        sum(layer < about["extraction"] for layer in layers) / len(layers),
        sum(shares[layer] for layer in layers if layer < len(shares)),
        sum(shares[min(layers) :]),
        min(layers) / last,
    )


def experiments(task: str) -> tuple[str, ...]:
    """Those that a task takes part in; all, unless study/params.yaml lists some."""
    return tuple(params()["tasks"][task].get("experiments", EXPERIMENTS))


def lookup(task: str) -> int:
    """The MLP with the largest path-patching effect."""
    shares = params()["tasks"][task]["lookup"]
    return shares.index(max(shares))


# Folds


def fold(split: FactSplit, number: int) -> FactSplit:
    """Fold `number`, counted from 1: the next facts of those that the default run only trains to
    keep. The default's edited facts are kept in their place; validation facts, on which settings
    were chosen, and test facts stay what they are. ValueError if there are too few facts."""
    size = params()["size"]
    mine = split.retain_train[(number - 1) * size : number * size]
    if number < 1 or len(mine) < size:
        raise ValueError(
            f"there is no fold {number}: {len(split.retain_train)} facts give "
            f"{len(split.retain_train) // size} folds of {size}; lower `folds` in study/params.yaml"
        )
    rest = tuple(i for i in split.retain_train if i not in set(mine))
    return replace(
        split,
        forget_train=mine[0::2],
        forget_heldout=mine[1::2],
        retain_train=split.forget + rest,
    )


def exchanged(split: FactSplit) -> FactSplit:
    """The same with the taught half held out and the other one taught."""
    return replace(split, forget_train=split.forget_heldout, forget_heldout=split.forget_train)


def folds(task: str) -> range:
    """Numbers of a task's folds."""
    return range(1, params()["tasks"][task]["folds"] + 1)


def looks(task: str) -> list[int]:
    """After how many folds results are looked at: a third, two thirds, all."""
    number = params()["tasks"][task]["folds"]
    return [math.ceil(number * part / 3) for part in (1, 2, 3)]


# Sets of MLPs, named by their layers


def mlps(*layers: int) -> str:
    """The name of a set of whole MLPs."""
    return "mlp-" + "-".join(map(str, sorted(layers)))


def split_name(name: str) -> tuple[str, str]:
    """(where planted, or nothing; where edited) of a cell `PLANTED>EDITED` or `EDITED`."""
    planted, _, edited = name.rpartition(">")
    return planted, edited


def layers_of(name: str) -> tuple[int, ...] | None:
    """The layers of a set named by `mlps`; None for any other name."""
    parts = name.split("-")
    listed = parts[0] == "mlp" and all(part.isdigit() for part in parts[1:])
    return tuple(map(int, parts[1:])) if listed else None


def windows(task: str) -> list[str]:
    """Windows at every start."""
    width, about = params()["window"], params()["tasks"][task]
    starts = range(min(about["last_layer"], about["n_layers"] - width) + 1)
    return [mlps(*range(start, start + width)) for start in starts]


def around_the_lookup(task: str) -> tuple[str, str]:
    """The window that begins just behind the lookup MLP and the one that begins at it."""
    at, every = lookup(task), windows(task)
    return every[at + 1], every[at]


def singles(task: str) -> list[str]:
    """Every MLP alone."""
    return [mlps(layer) for layer in range(params()["tasks"][task]["last_layer"] + 1)]


def nine() -> list[str]:
    """The paper's localizations and their controls; draws are numbered."""
    drawn = [f"{name}:{i}" for name in params()["drawn"] for i in range(params()["draws"])]
    return params()["nine"] + drawn


def triples(task: str, number: int) -> list[tuple[int, ...]]:
    """The other layers of a fold's paired sets, all behind every MLP that looks up; no two folds
    share one."""
    about = params()["tasks"][task]
    shares = about["lookup"]
    last = max(i for i, share in enumerate(shares) if share >= max(shares) / 4)
    start = max(last, lookup(task) + 1) + 1
    every = list(combinations(range(start, about["n_layers"]), params()["window"] - 1))
    random.Random(f"pairs {task}").shuffle(every)
    size = params()["pairs"]
    return every[(number - 1) * size : number * size]


def paired(task: str, number: int) -> list[dict[str, str]]:
    """A fold's paired sets: {at, above, below}, which hold the lookup MLP, or the one above or
    below it, beside the same three other layers."""
    at = lookup(task)
    places = {"at": at, "above": at + 1, "below": at - 1}
    return [
        {n: mlps(place, *three) for n, place in places.items()} for three in triples(task, number)
    ]


@cache
def spread(task: str) -> tuple[tuple[int, ...], ...]:
    """`sets` sets of four MLPs, exchanged among all there are until depth, first layer, share
    before extraction and lookup effect correlate by at most `correlation`."""
    every = list(combinations(range(params()["tasks"][task]["n_layers"]), params()["window"]))
    about = [measures(task, layers) for layers in every]
    table = numpy.array([[m.depth, m.first, m.before, m.lookup] for m in about])
    rng, number = numpy.random.default_rng(0), params()["sets"]
    chosen = rng.choice(len(every), number, replace=False)
    worst = _worst(table[chosen])
    while worst > params()["correlation"]:
        place, other = rng.integers(number), rng.integers(len(every))
        if other in chosen:
            continue
        tried = chosen.copy()
        tried[place] = other
        if (now := _worst(table[tried])) < worst:
            chosen, worst = tried, now
    return tuple(every[i] for i in chosen)


def _worst(table: numpy.ndarray) -> float:
    """The largest correlation between columns, without its sign."""
    return float(abs(numpy.corrcoef(table.T) - numpy.eye(table.shape[1])).max())


def sets(experiment: str, task: str, number: int) -> list[str]:
    """Names of the sets that an experiment edits in a fold; ValueError for another experiment."""
    if experiment == CLIFF:
        return [UNEDITED, *around_the_lookup(task)]
    if experiment == LAYERS:
        return [*singles(task), *windows(task)]
    if experiment == NINE:
        return nine()
    if experiment == PAIRS:
        return [name for three in paired(task, number) for name in three.values()]
    if experiment == SETS:
        count = params()["tasks"][task]["folds"]
        return [mlps(*layers) for layers in spread(task)[number - 1 :: count]]
    if experiment.startswith(PLANTED):
        return planted(experiment, task, number)
    if experiment == ATTACKER:
        about = params()["attacker"]
        return about["sets"] if number <= about["folds"] else []
    raise ValueError(f"unknown experiment '{experiment}': use one of {', '.join(EXPERIMENTS)}")


def plants(edited: str) -> list[str]:
    """Experiments of planted facts: one a place, and one where nothing was planted; edited: in the
    windows, or in the singles of study/params.yaml."""
    about = params()[PLANTED]
    first = f"{PLANTED}-{SINGLES}-" if edited == SINGLES else f"{PLANTED}-"
    return [first + place for place in (NOWHERE, *about["windows"], *about["others"])]


def place_of(experiment: str) -> str:
    """Where the facts of an experiment of `plants` are planted."""
    return experiment.removeprefix(f"{PLANTED}-").removeprefix(f"{SINGLES}-")


def planted(experiment: str, task: str, seed: int) -> list[str]:
    """What is made of facts planted in a place: two lines about the plant (see `study.planted`) and
    edits in every window, or edits in single MLPs. Windows have all seeds, other places the first;
    other tasks have none."""
    about, place = params()[PLANTED], place_of(experiment)
    if seed > (1 if place in about["others"] else about["seeds"]) or task != about["task"]:
        return []
    if SINGLES in experiment:
        return [f"{place}>{name}" for name in about[SINGLES]]
    more = [BATTERY] if place in (NOWHERE, about["windows"][0]) else []
    return [VERIFIED, LOCATED, *(f"{place}>{name}" for name in about["windows"]), *more]


def todo(experiment: str, task: str, number: int) -> list[str]:
    """The same without what an earlier experiment edits and attacks alike in the same fold."""
    earlier = SHARED[: SHARED.index(experiment)] if experiment in SHARED else ()
    earlier = set(earlier) & set(experiments(task))
    done = {name for other in earlier for name in sets(other, task, number)}
    return [name for name in dict.fromkeys(sets(experiment, task, number)) if name not in done]
