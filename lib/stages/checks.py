"""Everything that can be refused before a long computation is refused here, in one sentence each.

`check_all` takes a few seconds and loads no model; the `code` stage, which every other stage waits
for, begins with it. `check_facts` looks at what only the facts that a model knows can show.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator

from lib import config, paths
from lib.attacks import battery
from lib.attacks.jailbreak import load_wordings
from lib.attacks.probes import learnable
from lib.config.blocks import GROUPS, Settings, Task
from lib.config.errors import closest, on_the_command_line, read_text
from lib.edit.sequential import batches
from lib.facts import text
from lib.facts.records import FactRecord, FactSplit, answer_pairs, make_split
from lib.facts.tasks import load_task
from lib.localize.probes import most_frequent, probeable
from lib.model.loading import pick_device
from lib.model.names import check_name
from lib.plant.planting import Plants, table_of

FREE_GIB = 8  # model 1.1 GiB, edits 2 GiB at default scale; twice where DVC's cache must copy
PROBED = 5  # known facts that a label needs for a probe to learn it, as in notebook 12


def check_all() -> Settings:
    """Check settings, attacks, model name, device, fact tables, formats, texts and free disk;
    returns the settings. ValueError or OSError in one sentence."""
    settings = config.load(paths.PARAMS)
    attacks = [battery.chosen(settings, group).values() for group in GROUPS]
    check_name(settings.model.name)
    pick_device(settings.model.device)
    for name, task in settings.tasks.items():
        _check_table(name, task)
    for method, block in (attack for group in attacks for attack in group):
        if method == "jailbreak":
            load_wordings(block.wordings)
    for name in Plants.of(settings).tasks:
        table_of(settings, name)
    _check_text(settings)
    free = shutil.disk_usage(paths.ROOT).free / 2**30
    if free < FREE_GIB and not paths.model(settings.model.name).exists():
        raise OSError(
            f"only {free:.1f} GiB of disk are free, a full run needs about {FREE_GIB}: make "
            "room first"
        )
    return settings


def _check_table(name: str, task: Task) -> None:
    """ValueError unless a task's table holds what its settings name, and enough facts even if the
    model knew all of them."""
    data = load_task(task)
    labels = {*data.table.label, *(label for s in data.formats.sets.values() for label in s.labels)}
    there = {"probed_relation": {*data.table.relation}, "forget_label": {*data.table.label}}
    for parameter, known in (there | {"edit_to": labels}).items():
        wanted = getattr(task, parameter)
        if wanted is not None and wanted not in known:
            raise ValueError(
                f"`{parameter}` of task '{name}' is {wanted!r}, which {task.table} does not have"
                f"{closest(wanted, known)}: correct it"
            )
    named = task.forget_label is not None
    able = sum(data.table.label == task.forget_label) if named else len(data.table)
    edited = task.forget or 2
    others = len(data.table) - (able if named else min(edited, able))
    if able < edited or others < task.fewshot + 3:
        raise ValueError(
            f"{task.table} has too few facts for task '{name}' (forget {edited}, few-shot "
            f"{task.fewshot}, retained): lower `forget` or `fewshot`, or add facts"
        )


def _check_text(settings: Settings) -> None:
    wanted, validation = settings.text, settings.edit.validation_passages
    if wanted.source is not None:
        found = read_text(paths.ROOT / wanted.source, "text", "correct text.source in params.yaml")
        least = wanted.passages * (wanted.tokens - 1)
        if len(found.encode()) < least:  # no token is shorter than a byte
            raise ValueError(
                f"{wanted.source} is too short for {least} tokens: lower text.passages or add text"
            )
    parts = text.split([()] * wanted.passages, wanted.train)
    if not parts["heldout"] or len(parts["train"]) <= validation:
        raise ValueError(
            f"text.train leaves {len(parts['train'])} passages to train on and "
            f"{len(parts['heldout'])} to hold out, but more than edit.validation_passages "
            f"({validation}) and 1 are needed: correct it, or raise text.passages"
        )


def check_facts(
    settings: Settings, task_name: str, facts: dict[str, FactRecord], split: FactSplit
) -> None:
    """Check what only the known facts of a task can show, for all later stages at once; ValueError
    in one sentence."""
    for find in (_too_few, _not_probed, _not_scaled, _not_attacked):
        for problem in find(settings, task_name, facts, split):
            raise ValueError(f"task '{task_name}' has {problem}")
    if task_name in settings.sequential.tasks:
        batches(split, settings.sequential.batches)


def _too_few(settings: Settings, task_name: str, facts: dict, split: FactSplit) -> Iterator[str]:
    task, needed = settings.task(task_name), settings.edit.validation_facts + 2
    if task.forget_label is not None and task.forget_label not in {f.true for f in facts.values()}:
        yield f"no known fact with the answer {task.forget_label!r}: correct `forget_label`"
    if len(split.forget) < 2:
        yield f"{len(split.forget)} facts to edit where each localization needs 2: raise `forget`"
    for role in ("retain_train", "retain_val", "retain_test"):
        if not getattr(split, role):
            yield f"no facts in {role}: correct `retain_train` and `retain_val`, or add facts"
    if settings.edit.choose == "grid" and len(split.retain_val) < needed:
        yield (
            f"{len(split.retain_val)} validation facts where {needed} are needed: lower "
            "edit.validation_facts, or raise `retain_val`"
        )
    rest = [facts[i] for i in split.retain_val + split.retain_train]
    if task_name in settings.engines.tasks and not answer_pairs(rest, 1):
        yield (
            "no two retained facts that ask the same with different answers: delete it from "
            "engines.tasks, or add facts"
        )


def _not_probed(settings: Settings, task_name: str, facts: dict, split: FactSplit) -> Iterator[str]:
    task, share = settings.task(task_name), settings.fact_lookup.test_share
    if task.lookup != "probes":
        return
    relation = task.probed_relation or most_frequent(facts.values())
    others = [f for i, f in facts.items() if i not in split.forget]
    probed = probeable(others, relation, PROBED)
    tested, labels = math.ceil(share * len(probed)), len({f.true for f in probed})
    if not probed:
        yield (
            f"no two labels of relation {relation!r} with {PROBED} known facts each for a probe to "
            "learn: set `probed_relation` to another one, or add facts"
        )
    elif not labels <= tested <= len(probed) - labels:
        yield (
            f"{len(probed)} facts to probe, too few for a share of {share} to hold out and for the "
            f"rest to have all {labels} labels: correct fact_lookup.test_share, or add facts"
        )


def _not_scaled(settings: Settings, task_name: str, facts: dict, split: FactSplit) -> Iterator[str]:
    task = settings.task(task_name)
    for size in settings.scaling.sizes if task_name in settings.scaling.tasks else ():
        try:
            make_split([*facts.values()], size, 0, (task.retain_train, task.retain_val), 0)
        except ValueError as error:
            yield f"too few facts for {size} in scaling.sizes, delete it there ({error})"


def _not_attacked(
    settings: Settings, task_name: str, facts: dict, split: FactSplit
) -> Iterator[str]:
    if task_name not in settings.attacks.tasks:
        return
    for group in GROUPS:
        for name, (method, block) in battery.chosen(settings, group).items():
            where = f"attack_{group}.{name}"
            if method == "token_search" and block.facts > len(split.forget_train):
                yield (
                    f"{len(split.forget_train)} facts in its taught half, fewer than {where}.facts "
                    f"({block.facts}): lower it, or raise `forget`"
                )
            if method == "probes":
                found = learnable([facts[i] for i in split.retain_train], block.least)
                if not any(facts[i].relation in found for i in split.forget_heldout):
                    yield (
                        f"no relation with two answers of {block.least} retained facts each for a "
                        f"probe to learn: lower {where}.least, or add facts"
                    )


if __name__ == "__main__":
    with on_the_command_line():
        found = check_all()
    count = len(found.localizations)
    print(f"settings and tables are sound: {count} localizations, seeds {found.seeds}")
