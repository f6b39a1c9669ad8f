"""All attacks on one model: rows of answers, and a ledger of what each attack spent.

A block of params.yaml names attacks and their settings; `method` is the module of `lib.attacks`
that runs it (default: the name itself). Nothing else has to know an attack.
"""

from __future__ import annotations

import time
from importlib import import_module
from pkgutil import iter_modules

import pandas
from tqdm.auto import tqdm

import lib.attacks
from lib import models, paths
from lib.attacks.target import Target
from lib.edit import delta

UNEDITED = "unedited"
LEDGER = ["attack", "variant", "budget", "taught", "trained", "steps", "gflop", "seconds"]


def methods() -> list[str]:
    """Names of all attacks there are."""
    names = [m.name for m in iter_modules(lib.attacks.__path__)]
    return [n for n in names if hasattr(import_module(f"lib.attacks.{n}"), "attack")]


def module(method: str):
    """The module of an attack; ValueError names those there are."""
    if method not in methods():
        raise ValueError(f"unknown attack '{method}': use one of {', '.join(methods())}")
    return import_module(f"lib.attacks.{method}")


def run(target: Target, attacks: dict) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """(rows, ledger) of some attacks, {name: (method, settings)}, on one model.

    rows: columns attack, variant, budget, split and those of `measure.score_facts`; ledger: one row
    per read-out (`LEDGER`), with the arithmetic and the time spent until then, read-outs not
    counted in the arithmetic.
    """
    rows, ledger = [], []
    for name, (method, settings) in tqdm(attacks.items(), desc="attacks"):
        started = time.perf_counter()
        target.work.restart()
        with target.work:
            for level in module(method).attack(target, settings):
                key = {"attack": name, "variant": level.variant, "budget": level.budget}
                rows.append(level.rows.assign(**key))
                spent = {n: getattr(level, n) for n in ("taught", "trained", "steps")}
                spent |= {"gflop": target.work.total / 1e9}
                ledger.append(key | spent | {"seconds": time.perf_counter() - started})
    first = ["attack", "variant", "budget"]
    table = pandas.concat(rows, ignore_index=True) if rows else pandas.DataFrame(columns=first)
    return table[first + [c for c in table if c not in first]], pandas.DataFrame(
        ledger, None, LEDGER
    )


def on_all(
    target: Target, task: str, compare: list[str], attacks: dict
) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """`run` on the unedited model and on every edit of `compare`, with column localization.

    Edits of equal bytes (two localizations that chose the same layers) are attacked once.
    """
    found, same = {UNEDITED: run(target, attacks)}, {}
    for name in compare:
        folder = paths.edit(task, name, target.seed)
        twin = same.setdefault(models.sha256(folder / delta.DELTA), name)
        found[name] = found[twin] if twin in found else _on(target, folder, attacks)
    parts = [[t.assign(localization=name) for t in tables] for name, tables in found.items()]
    rows, ledger = (pandas.concat(tables, ignore_index=True) for tables in zip(*parts))
    return rows, ledger


def _on(target: Target, folder, attacks: dict):
    with target.edited(folder) as edited:
        return run(edited, attacks)
