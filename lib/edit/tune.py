"""One pair of learning rate and edit weight for all edits of a task, by one written rule.

Each pair of the grid edits *validation* facts, as many as the real edit and none of them edited or
scored later, in a few localizations of different kinds (`try_on`), to the same strength as the real
edit. The choice depends on what then happens to other validation facts and to text that the trial
is not trained on (section 5.4):

    the first pair of the grid with which every tried localization reaches the strength, keeps
    `keep_retained` of the probability of retained answers and adds at most `keep_text` nats to the
    text loss. A pair is given up at the first localization that fails. If all pairs fail, the one
    that got furthest is taken.

The grid lists the pairs that need the fewest steps first. No format, attack or fact of the forget
set enters. The conditions are looked at again on the real edit and reported there, never mended.
`published` gives the pairs that the paper's authors used for a family of methods instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas
import torch
import yaml
from tqdm.auto import tqdm

from lib import paths
from lib.config.blocks import Edit, EditGrid, LocalizationSettings, Task
from lib.edit.train import EditData, fit
from lib.facts.formats import encode
from lib.facts.records import FactRecord, FactSplit
from lib.model.components import Localization
from lib.model.packing import Pack, Prompts
from lib.model.runner import Runner
from lib.model.weights import kept, nothing_else_changes, trainable

COLUMNS = ["localization", "lr", "weight_edit", "step", "strength", "retained", "text"]


@dataclass(frozen=True)
class ToKeep:
    """What an edit should leave alone: facts with the tokens of their true answers, and text."""

    prompts: Prompts
    answers: torch.Tensor
    passages: list[tuple[int, ...]]

    @staticmethod
    def of(tokenizer, facts: list[FactRecord], passages: list[tuple[int, ...]]) -> ToKeep:
        """Known facts in the training format, and text as token ids."""
        prompts = encode(tokenizer, [f.prompt for f in facts])
        return ToKeep(prompts, torch.tensor([f.true_token for f in facts]), passages)

    @torch.no_grad()
    def read(self, runner: Runner) -> dict[str, float]:
        """retained: mean probability of the true answers over the whole vocabulary; text: loss in
        nats per token."""
        retained = (-runner.answer_nll(self.prompts, self.answers)).exp().mean()
        pack = Pack(None, tuple(self.passages))
        text = runner.nll(pack, pack.text_rows, pack.text_targets).mean()
        return {"retained": retained.item(), "text": text.item()}


@dataclass(frozen=True)
class Validation:
    """What a trial edits (data) and what it should leave alone (others)."""

    data: EditData
    others: ToKeep

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
        if len(split.retain_val) < n + 2 or len(passages) <= m:
            raise ValueError(
                f"{len(split.retain_val)} validation facts and {len(passages)} training passages "
                f"are too few for edit.validation_facts {n} (two more are needed) and "
                f"edit.validation_passages {m}: lower these, or raise `retain_val` of the task"
            )
        changed, others = ([facts[i] for i in ids] for ids in _parted(split.retain_val, n))
        taught = [facts[i] for i in split.retain_train]
        return Validation(
            EditData.of(tokenizer, changed, taught, passages[:-m], forget),
            ToKeep.of(tokenizer, others, passages[-m:]),
        )


def _parted(ids: tuple[str, ...], first: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return ids[:first], ids[first:]


def try_pair(
    model, places: list[Localization], validation: Validation, pair: Edit, grid: EditGrid, seed: int
) -> pandas.DataFrame:
    """Two rows per localization, before and after (COLUMNS, see `ToKeep.read`), up to the first one
    that fails a condition. The model is left as it was, bit for bit."""
    rows, before = [], validation.others.read(Runner(model))
    with nothing_else_changes(model, {}):
        for place in places:
            runner = Runner(model, place.first_layer)  # what lies below never changes
            with kept(trainable(model, place)):
                done = fit(model, place, validation.data, pair, seed, runner=runner)
                after = validation.others.read(runner)
            key = {"localization": place.name, "lr": pair.lr, "weight_edit": pair.weight_edit}
            rows.append(key | {"step": 0, "strength": 0.0} | before)
            rows.append(key | {"step": done.steps, "strength": done.strength} | after)
            if not ended(pandas.DataFrame(rows), grid).met.all():
                break
    return pandas.DataFrame(rows, columns=COLUMNS)


def try_pairs(
    model, places: list[Localization], validation: Validation, grid: EditGrid, seed: int
) -> pandas.DataFrame:
    """`try_pair` one pair of the grid after the other, until one meets all conditions."""
    parts = []
    for pair in tqdm(grid.pairs(), desc="pairs of settings"):
        parts.append(try_pair(model, places, validation, pair, grid, seed))
        if ended(parts[-1], grid).met.sum() == len(places):
            break
    return pandas.concat(parts, ignore_index=True)


def choose(trials: pandas.DataFrame, grid: EditGrid) -> dict:
    """The pair that the rule takes: lr, weight_edit, and `admissible`, false where no pair met all
    conditions."""
    ends = ended(trials, grid)
    met = ends.groupby(["lr", "weight_edit"], sort=False).met.sum()
    lr, weight = met.idxmax()
    admissible = bool(ends[(ends.lr == lr) & (ends.weight_edit == weight)].met.all())
    return {"lr": float(lr), "weight_edit": float(weight), "admissible": admissible}


def ended(trials: pandas.DataFrame, grid: EditGrid) -> pandas.DataFrame:
    """One row per tried localization and pair, where it ended; kept: share of the unedited model's
    probability of retained answers, added: nats added to the text loss, met: all conditions."""
    start, ends = (trials.iloc[i::2].reset_index(drop=True) for i in (0, 1))
    ends = ends.assign(kept=ends.retained / start.retained, added=ends.text - start.text)
    met = (ends.strength >= grid.strength) & (ends.kept >= grid.keep_retained)
    return ends.assign(met=met & (ends.added <= grid.keep_text))


def pair_for(how: LocalizationSettings, task: Task, settings: EditGrid, chosen: dict) -> dict:
    """lr and weight_edit of one edit: what `choose` took for the task, or as published for its
    family; none for a closed-form edit, which has no such settings."""
    if how.method == "rome":
        return {}
    return published(how, task, settings) if settings.choose == "published" else chosen


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
