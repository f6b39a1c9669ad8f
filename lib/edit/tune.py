"""One grid of learning rate and edit weight for every localization, and one written rule.

Each pair edits a few *validation* facts, on which no result is reported, to the same strength as
the real edit. The choice depends on what then happens to other validation facts and to text that
the trial is not trained on (section 5.4):

    of the pairs that reach the strength, keep `keep_retained` of the probability of retained
    answers and add at most `keep_text` nats to the text loss, those that keep most of the retained
    answers, to within `tolerance`, and of these the one with the fewest steps; if no pair meets
    all that, the same among those that reach the strength; if none does, the one that gets
    furthest.

No format, attack or fact of the forget set enters. `published` gives the pairs that the paper's
authors used for a family of methods instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas
import torch
import yaml

from lib import paths
from lib.config.blocks import Edit, EditGrid, LocalizationSettings, Task
from lib.edit.train import EditData, fit
from lib.facts.formats import encode
from lib.facts.records import FactRecord, FactSplit
from lib.model.components import Localization
from lib.model.packing import Pack, Prompts
from lib.model.runner import Runner
from lib.model.weights import kept, nothing_else_changes, trainable

COLUMNS = ["lr", "weight_edit", "step", "strength", "retained", "text"]


@dataclass(frozen=True)
class Validation:
    """What a trial edits and what it must not harm.

    data: validation facts to change and training facts to keep; kept, answers: validation facts
    to keep and their true answer tokens; passages: text that the trial does not train on.
    """

    data: EditData
    kept: Prompts
    answers: torch.Tensor
    passages: list[tuple[int, ...]]

    @staticmethod
    def of(
        tokenizer,
        facts: dict[str, FactRecord],
        split: FactSplit,
        passages: list[tuple[int, ...]],
        settings: EditGrid,
        forget: bool = False,
    ) -> Validation:
        """Draw both from validation facts and training text; ValueError if there are too few."""
        n, m = settings.validation_facts, settings.validation_passages
        if len(split.retain_val) < 2 * n or len(passages) <= m:
            raise ValueError(
                f"{len(split.retain_val)} validation facts and {len(passages)} training passages "
                f"are too few for edit.validation_facts {n} (twice as many are needed) and "
                f"edit.validation_passages {m}: lower these, or raise `retain_val` of the task"
            )
        changed, kept = (
            [facts[i] for i in ids]
            for ids in (split.retain_val[:n], split.retain_val[n : n + settings.validation_kept])
        )
        taught = [facts[i] for i in split.retain_train]
        return Validation(
            EditData.of(tokenizer, changed, taught, passages[:-m], forget),
            encode(tokenizer, [f.prompt for f in kept]),
            torch.tensor([f.true_token for f in kept]),
            passages[-m:],
        )


def try_pairs(
    model, localization: Localization, validation: Validation, settings: EditGrid, seed: int
) -> pandas.DataFrame:
    """Two rows per pair, before and after: COLUMNS; retained: mean probability of the true answers
    kept, text: loss in nats per token. The model is left as it was, bit for bit."""
    weights = trainable(model, localization)
    runner = Runner(model, localization.first_layer)  # what lies below is the same in all trials
    rows = []
    share = validation.data.n_changed / settings.batch_facts  # smaller batches, mixed as the edit's
    batches = {"batch_retain": max(round(share * settings.batch_retain), 1)} if share < 1 else {}
    with nothing_else_changes(model, {}):
        for pair in settings.pairs():
            wanted = pair.but(**batches)
            watch = _watcher(validation, wanted, rows)
            with kept(weights):
                fit(model, localization, validation.data, wanted, seed, watch, runner)
    return pandas.DataFrame(rows, columns=COLUMNS)


def _watcher(validation: Validation, wanted: Edit, rows: list[dict]):
    pack = Pack(None, tuple(validation.passages))

    def watch(runner: Runner, step: int, strength: float) -> None:
        pair = {"lr": wanted.lr, "weight_edit": wanted.weight_edit, "step": step}
        if rows and not step:  # every trial begins with the same weights
            rows.append(rows[0] | pair)
        elif not step or strength >= wanted.strength or step == wanted.max_steps:
            retained = (-runner.answer_nll(validation.kept, validation.answers)).exp().mean()
            with torch.no_grad():
                text = runner.nll(pack, pack.text_rows, pack.text_targets).mean()
            found = {"strength": strength, "retained": retained.item(), "text": text.item()}
            rows.append(pair | found)

    return watch


def choose(trials: pandas.DataFrame, settings: EditGrid) -> dict:
    """The pair that the rule takes: lr, weight_edit, and `admissible`, false where no pair met all
    its conditions."""
    groups = trials.groupby(["lr", "weight_edit"], sort=False)
    start, end = groups.first(), groups.last()
    reached = end.strength >= settings.strength
    keeps = end.retained >= settings.keep_retained * start.retained
    keeps &= end.text - start.text <= settings.keep_text
    pool = next(part for part in (end[reached & keeps], end[reached], end) if len(part))
    if reached.any():
        share = pool.retained / start.retained[pool.index]
        pool = pool[share >= share.max() - settings.tolerance]
        lr, weight = pool.sort_values(["step", "retained"], ascending=[True, False]).index[0]
    else:
        lr, weight = pool.strength.idxmax()
    met = bool((reached & keeps)[lr, weight])
    return {"lr": float(lr), "weight_edit": float(weight), "admissible": met}


def settle(
    loaded,
    localization: Localization,
    how: LocalizationSettings,
    task: Task,
    facts: dict[str, FactRecord],
    split: FactSplit,
    passages: list[tuple[int, ...]],
    settings: EditGrid,
    seed: int,
) -> tuple[pandas.DataFrame, dict]:
    """(trials, what was chosen: lr, weight_edit, admissible) for one localization, by the grid or
    as published; without trials or choice for a closed-form edit, which has no such settings."""
    none = pandas.DataFrame(columns=COLUMNS)
    if how.method == "rome":
        return none, {}
    if settings.choose == "published":
        return none, published(how, task, settings)
    forget = task.change == "forget"
    validation = Validation.of(loaded.tokenizer, facts, split, passages, settings, forget)
    trials = try_pairs(loaded.model, localization, validation, settings, seed)
    return trials, choose(trials, settings)


def published(localization: LocalizationSettings, task: Task, settings: EditGrid) -> dict:
    """The authors' pair for the family of a localization, in the form of `choose` (section 5.3)."""
    table = yaml.safe_load((paths.DATA / "reference" / "settings.yaml").read_text())
    lr, weight = table[task.published][settings.published_model][family(localization)]
    return {"lr": lr, "weight_edit": weight, "admissible": True}


def family(localization: LocalizationSettings) -> str:
    """Which of the three published families shares its settings with a localization."""
    if localization.method in ("all-mlps", "nonlocalized"):
        return "nonlocalized"
    ranked = localization.method in ("causal-tracing", "attribution-patching")
    with_attention = ranked and not localization.mlps_only
    if with_attention or localization.method == "random" or localization.attention:
        return "output"
    return "lookup"
