"""All attacks on one model: rows of answers, and a ledger of what each attack spent.

A block of params.yaml names attacks and their settings; `method` is the module of `lib.attacks`
that runs it (default: the name itself). Apart from its module and its block, a new attack needs
only a place in `lib.figures.attacks.USES`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pandas
from tqdm.auto import tqdm

import lib.attacks
from lib.attacks.target import MASK, Target
from lib.config.blocks import Settings
from lib.config.errors import Block, checked
from lib.config.rules import check_reads
from lib.edit import delta
from lib.tables import UNEDITED

CHOOSING = "choosing"  # the part of the taught half by which an attacker chooses
LEDGER = ["attack", "variant", "budget", "taught", "trained", "steps", "gflop"]


def methods() -> list[str]:
    """Names of all attacks there are."""
    names = [m.name for m in iter_modules(lib.attacks.__path__)]
    return [n for n in names if hasattr(import_module(f"lib.attacks.{n}"), "attack")]


def module(method: str):
    """The module of an attack; ValueError names those there are."""
    if method not in methods():
        raise ValueError(f"unknown attack '{method}': use one of {', '.join(methods())}")
    return import_module(f"lib.attacks.{method}")


def oracle(method: str, variant: str) -> bool:
    """Does a variant of an attack need the unedited model, which no attacker has?"""
    needs = module(method).ORACLE
    return needs if isinstance(needs, bool) else variant in needs


def chosen(settings: Settings, group: str) -> dict[str, tuple[str, Block]]:
    """{attack: (method, its settings)} of one group (prompts, weights or inside); ValueError in one
    sentence for what params.yaml has wrong."""
    blocks = getattr(settings, f"attack_{group}")
    return {n: _checked(f"attack_{group}.{n}", n, raw) for n, raw in blocks.items()}


def _checked(where: str, name: str, raw: dict) -> tuple[str, Block]:
    method = raw.get("method", name.replace("-", "_"))
    try:
        kind = module(method).Settings
    except ValueError as error:
        raise ValueError(f"{error}, at '{where}' in params.yaml") from None
    settings = checked(kind, {k: v for k, v in raw.items() if k != "method"}, where)
    check_reads(where, settings)
    return method, settings


def run(target: Target, attacks: dict) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """(rows, ledger) of some attacks, {name: (method, settings)}, on one model.

    rows: columns attack, variant, budget, split and those of `answers.score_facts`; ledger: one row
    per read-out (`LEDGER`), with the arithmetic spent until then, read-outs not counted.
    """
    rows, ledger = [], []
    attacking = tqdm(attacks.items(), desc="attacks", leave=False)
    for name, (method, settings) in attacking:
        attacking.set_postfix_str(name)
        target.work.restart()
        with target.work:
            for level in module(method).attack(target, settings):
                key = {"attack": name, "variant": level.variant, "budget": level.budget}
                rows.append(level.rows.assign(**key))
                spent = {n: getattr(level, n) for n in ("taught", "trained", "steps")}
                spent |= {"gflop": target.work.total / 1e9}
                ledger.append(key | spent)
    first = ["attack", "variant", "budget"]
    table = pandas.concat(rows, ignore_index=True) if rows else pandas.DataFrame(columns=first)
    return table[first + [c for c in table if c not in first]], pandas.DataFrame(
        ledger, None, LEDGER
    )


def rehearsed(target: Target, attacks: dict) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """`run`, and before it, for attacks that are taught facts, a rehearsal: the attacker teaches
    one half of what it was told and sees what comes back of the other (rows of split CHOOSING). It
    chooses variant and budget by that, and then teaches all it was told."""
    rows, ledger = run(target, attacks)
    taught = set(ledger.attack[ledger.taught.astype(bool)])
    inner, _ = run(target.rehearsal(), {n: attacks[n] for n in attacks if n in taught})
    if len(inner):
        inner = inner[inner.split == "forget_heldout"].assign(split=CHOOSING)
    return pandas.concat([rows, inner], ignore_index=True), ledger


def on_all(
    target: Target, names: list[str], attacks: dict, thorough: list[str] = ()
) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """`run` on the unedited model and on the edits `names`, with column localization.

    thorough: edits on which attackers rehearse (see `rehearsed`); if there are any, the known mask
    is attacked in the same way. Localizations that train the same weights share one edit, which is
    attacked once.
    """
    found, by_edit = {}, {}
    models = tqdm([UNEDITED, *([MASK] if thorough else []), *names], desc="models", unit="model")
    for name in models:
        models.set_postfix_str(name)
        way = rehearsed if name == MASK or name in thorough else run
        edit = name if name in (UNEDITED, MASK) else _edit(target, name)
        if (edit, way) not in by_edit:
            with _attacked(target, edit) as attacked:
                by_edit[edit, way] = way(attacked, attacks)
        found[name] = by_edit[edit, way]
    parts = [[t.assign(localization=name) for t in tables] for name, tables in found.items()]
    rows, ledger = (pandas.concat(tables, ignore_index=True) for tables in zip(*parts))
    return rows, ledger


def _attacked(target: Target, edit) -> AbstractContextManager[Target]:
    if edit == MASK:
        return target.masked()
    return nullcontext(target) if edit == UNEDITED else target.edited(edit)


def _edit(target: Target, name: str) -> Path:
    return delta.stored(target.store, target.task, name, target.seed)
