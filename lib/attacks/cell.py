"""One edit from start to end: made, asked in every format, attacked by relearning, taken off again.

What a sweep over many localizations repeats, and the unit of a study: nothing is stored but rows.
"""

from __future__ import annotations

from dataclasses import replace

import pandas

from lib.attacks import relearn
from lib.attacks.target import Target
from lib.config.blocks import Edit, Settings
from lib.edit import rome
from lib.edit.train import EditData, EditResult, train
from lib.edit.tune import ToKeep
from lib.facts.formats import Catalogue
from lib.facts.records import READ
from lib.model.components import Localization
from lib.model.runner import Runner
from lib.model.weights import kept, trainable


def measure(
    target: Target,
    chosen: Localization,
    pair: Edit | None,
    settings: Settings,
    counted: Catalogue,
    wordings: tuple[str, ...] = (),
    swapped: bool = False,
) -> dict[str, pandas.DataFrame]:
    """{"edits": one row, "asked": rows in every format of `counted`, "relearned": rows of the
    attack}; the model is as before afterwards.

    target: the unedited model; pair: settings of the training, None for an edit in closed form;
    wordings: formats that are trained on beside the training format; swapped: attack a second time
    with the two halves exchanged (variant "swapped"), so that every fact is held out once.
    """
    model = target.loaded.model
    with kept(trainable(model, chosen)) as old:
        if "kept" not in target.seen:  # the same for every edit
            target.seen["kept"] = to_keep(target).read(Runner(model))
        before = target.seen["kept"]
        result = make(target, chosen, pair, settings, wordings)
        edited = replace(target, unedited=old)
        after = to_keep(target).read(Runner(model))
        asked = [edited.read(form=name, roles=READ) for name in counted.kinds]
        attacked = {"": edited} | ({"swapped": _exchanged(edited)} if swapped else {})
        read = [
            out.rows.assign(attack="relearn", variant=variant, budget=out.budget)
            for variant, halves in attacked.items()
            for out in relearn.attack(halves, settings.attack_relearn)
        ]
    row = {"weights": chosen.weights, "steps": result.steps}
    row |= {"strength": result.strength, "reached": result.reached} | after
    row |= {f"{name}_before": value for name, value in before.items()}
    tables = {"edits": pandas.DataFrame([row]), "relearned": pandas.concat(read, ignore_index=True)}
    tables["asked"] = pandas.concat([part for part in asked if len(part)], ignore_index=True)
    key = {"localization": chosen.name, "trained_on": 1 + len(wordings)}
    return {name: table.assign(**key) for name, table in tables.items()}


def _exchanged(target: Target) -> Target:
    """The same with the taught half held out and the other one taught."""
    halves = {"forget_train": target.split.forget_heldout}
    halves["forget_heldout"] = target.split.forget_train
    return replace(target, split=replace(target.split, **halves))


def make(
    target: Target,
    chosen: Localization,
    pair: Edit | None,
    settings: Settings,
    wordings: tuple[str, ...] = (),
) -> EditResult:
    """Edit the target's model in place; arguments as of `measure`."""
    task, model = settings.task(target.task), target.loaded.model
    forget = task.change == "forget"
    ids = target.split.forget_train if task.edit_half else target.split.forget
    changed = [target.facts[i] for i in ids]
    others = [target.facts[i] for i in target.split.retain_train]
    forms = tuple(target.formats.forms(name) for name in wordings)
    tokenizer = target.loaded.tokenizer
    data = EditData.of(tokenizer, changed, others, target.passages, forget, forms)
    if pair is None:
        subjects = [f.subject_positions[-1] for f in changed + others]
        return rome.edit(model, chosen, data, subjects, settings.rome)
    return train(model, chosen, data, pair, target.seed)


def to_keep(target: Target) -> ToKeep:
    """Retained facts and held-out text, on which the settings' conditions are looked at again."""
    facts = [target.facts[i] for i in target.split.retain_test]
    return ToKeep.of(target.loaded.tokenizer, facts, target.heldout)
