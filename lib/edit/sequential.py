"""Edits that follow one another: batches of facts, no replay, and what is left of earlier ones.

Before every batch the localization is chosen anew on the model as it then is (the published way,
section 5.2); earlier batches are neither trained on again nor protected. After every batch all
batches are asked, so that what was lost shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pandas

from lib.config.blocks import Edit, Settings
from lib.edit.train import EditData, train
from lib.facts.formats import Format
from lib.facts.records import FactRecord, FactSplit
from lib.localize.lookup import lookup_layers
from lib.model.components import Component, Localization, sizes


def batches(split: FactSplit, count: int) -> list[tuple[str, ...]]:
    """The forget facts in `count` batches of nearly equal size and mix; ValueError if one would
    be empty."""
    if count < 1 or count > len(split.forget):
        raise ValueError(
            f"{len(split.forget)} facts cannot be edited in {count} batches: lower "
            "sequential.batches, or raise `forget` of the task"
        )
    both = zip(split.forget_train, split.forget_heldout, strict=True)
    mixed = [i for pair in both for i in pair]
    return [tuple(mixed[k::count]) for k in range(count)]


def localizer(
    loaded,
    fixed: Localization,
    settings: Settings,
    task: str,
    forms: dict[str, Format],
    others: list[FactRecord],
    seed: int,
) -> Callable[[list[FactRecord]], Localization]:
    """A function that returns the components to train for a batch. `fact-lookup` is found anew on
    the model as it then is; any other localization stays as it was `fixed` on the unedited model,
    and so does fact lookup if its rule finds no layer. The returned note says which. others: known
    facts that are not edited."""
    fixed = replace(fixed, note="as on the unedited model")
    if settings.localization(fixed.name).method != "fact-lookup":
        return lambda changed: fixed

    def find(changed: list[FactRecord]) -> Localization:
        rule = settings.fact_lookup
        layers = lookup_layers(loaded, settings.task(task), rule, forms, changed, others, seed)
        if not layers:
            return fixed
        found = tuple(Component("mlp", layer) for layer in layers)
        weights = sum(sizes(loaded.model)[c] for c in found)
        return Localization(fixed.name, found, weights, weights, "found anew")

    return find


def edit_in_batches(
    loaded,
    parts: list[list[FactRecord]],
    kept: list[FactRecord],
    passages: list[tuple[int, ...]],
    localize: Callable[[list[FactRecord]], Localization],
    read: Callable[[], pandas.DataFrame],
    settings: Edit,
    seed: int,
) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """(answers, edits): what `read` returns after every batch, with column `after` (0: before the
    first), and one row per batch: batch, layers, note, steps, strength, reached. The model stays
    edited.
    """
    answers, edits = [read().assign(after=0)], []
    for number, changed in enumerate(parts, start=1):
        chosen = localize(changed)
        data = EditData.of(loaded.tokenizer, changed, kept, passages)
        result = train(loaded.model, chosen, data, settings, seed + number)
        answers.append(read().assign(after=number))
        layers = " ".join(map(str, chosen.layers("mlp")))
        edits.append(
            {"batch": number, "layers": layers, "note": chosen.note, "steps": result.steps}
            | {"strength": result.strength, "reached": result.reached}
        )
    return pandas.concat(answers, ignore_index=True), pandas.DataFrame(edits)
