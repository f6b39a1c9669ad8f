"""From per-fact rows to the tables behind every figure and every sentence.

`collect` reads what the stages wrote; each `*_table` is pure and returns one row per estimate with
its interval. `lib.analysis.contrasts` compares them and joins them into the one results table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas

from lib.config.blocks import Settings
from lib.edit import delta
from lib.measure.formats import Formats
from lib.model.components import Localization, load_set, mean_depth
from lib.stats import (
    Estimate,
    area,
    estimate,
    guessing_rate,
    over_seeds,
    recovery,
    summarise,
)
from lib.store import Store
from lib.tables import UNEDITED

CARD_METRICS = ("strength", "steps", "weights", "lr", "weight_edit")


@dataclass(frozen=True)
class Measured:
    """Everything measured on one task, all seeds together; fact ids carry their seed.

    forget: were true answers to be forgotten, without new ones? asked: format attack, localization
    "unedited" included; relearned: relearning attack; kept: retained facts with their group (see
    `side_effects.neighbourhood`); texts: held-out text losses; cards: one row per edit; trials: of
    its settings on validation facts; sets: {localization: components} of the first seed; chance: of
    guessing the true answer.
    """

    task: str
    forget: bool
    asked: pandas.DataFrame
    relearned: pandas.DataFrame
    kept: pandas.DataFrame
    texts: pandas.DataFrame
    cards: pandas.DataFrame
    trials: pandas.DataFrame
    sets: dict[str, Localization]
    n_layers: int
    answerable: dict[str, bool]
    vocabulary: list[str]
    chance: float

    @property
    def chance_changed(self) -> float:
        """What guessing would score where a change of the answer is asked for."""
        return 1 - self.chance if self.forget else self.chance

    @property
    def changed_metric(self) -> str:
        """The metric that says whether the edit shows: a name of the published tables."""
        return "forget_error" if self.forget else "edit_accuracy"


def collect(store: Store, task: str, settings: Settings) -> Measured:
    """Read every stage's output for a task; FileNotFoundError names what is missing."""
    seeds, names = settings.seeds, settings.compare
    tables = {
        what: store.load_seeds(table, task, seeds)
        for what, table in {
            "unedited": "unedited/unedited",
            "asked": "attack_formats/rows",
            "relearned": "attack_relearn/rows",
            "kept": "side_effects/retained",
            "texts": "side_effects/text",
        }.items()
    }
    asked, relearned = (_edits_only(tables[what]) for what in ("asked", "relearned"))
    unedited = tables["unedited"].assign(localization=UNEDITED)
    formats = [Formats.load(store.find("unedited", task, seed)) for seed in seeds]
    every = {n: all(f.answerable[n] for f in formats) for n in formats[0].answerable}
    cards, trials = _cards(store, task, names, seeds)
    sets = {n: load_set(store, task, n, seeds[0]) for n in names}
    return Measured(
        task,
        settings.task(task).change == "forget",
        pandas.concat([unedited, asked], ignore_index=True),
        relearned.rename(columns={"budget": "step"}),
        tables["kept"],
        tables["texts"],
        cards,
        trials,
        sets,
        int(cards.n_layers.iloc[0]),
        every,
        [n for n in formats[0].vocabulary if every[n]],
        formats[0].chance,
    )


def _edits_only(rows: pandas.DataFrame) -> pandas.DataFrame:
    return rows[rows.localization != UNEDITED]


def _cards(store: Store, task: str, names: list[str], seeds: list[int]):
    """(cards, trials) of all edits; localizations that share an edit share its card and trials."""
    cards, trials = [], []
    for name in names:
        for seed in seeds:
            folder = delta.stored(store, task, name, seed)
            card, made_for = delta.card(folder), folder.parent.name
            own = {"seed": seed, "localization": name}
            cards.append(card | card.pop("chosen") | own)
            trials.append(store.load("edit/trials", task, made_for, seed).assign(**own))
    return pandas.DataFrame(cards), pandas.concat(trials, ignore_index=True)


def depth_and_strength(data: Measured) -> pandas.DataFrame:
    """Per localization: mean depth of its components and whether every seed's edit reached
    strength."""
    reached = data.cards.groupby("localization").reached.all()
    depth = {n: mean_depth(s.components, data.n_layers) for n, s in data.sets.items()}
    return pandas.DataFrame({"depth": depth, "reached": reached}).rename_axis("localization")


def format_table(data: Measured, settings: Settings) -> pandas.DataFrame:
    """Share of facts answered with the new and with the true label, by localization, format,
    split."""
    rows = data.asked.assign(
        split=data.asked.split.replace({"forget_train": "forget", "forget_heldout": "forget"}),
        edit_accuracy=data.asked.answer == data.asked.edit,
        true_accuracy=data.asked.answer == data.asked.true,
        forget_error=data.asked.answer != data.asked.true,
    )
    parts = []
    for metric in ("edit_accuracy", "true_accuracy", "forget_error", "p_edit", "p_true"):
        found = summarise(rows, ["localization", "format", "split"], metric, settings.statistics)
        parts.append(found.assign(metric=metric))
    return pandas.concat(parts, ignore_index=True)


def relearn_table(data: Measured, settings: Settings) -> pandas.DataFrame:
    """Share answered correctly at every read-out of the attack, by localization and split."""
    rows = data.relearned.assign(true_accuracy=data.relearned.answer == data.relearned.true)
    keys = ["localization", "split", "step"]
    found = summarise(rows, keys, "true_accuracy", settings.statistics)
    return found.assign(metric="true_accuracy")


def relearn_areas(data: Measured, settings: Settings) -> pandas.DataFrame:
    """Area under each fact's curve of correct answers during the attack, by localization and split:
    high if they come back early, whatever the last step shows."""
    rows = data.relearned.assign(hit=data.relearned.answer == data.relearned.true)
    rows = rows.sort_values("step").groupby(["localization", "split", "id"])
    areas = rows.apply(lambda g: area(g.step, g.hit), include_groups=False).rename("area")
    keys = ["localization", "split"]
    return summarise(areas.reset_index(), keys, "area", settings.statistics).assign(metric="area")


def gates(relearned: pandas.DataFrame, settings: Settings) -> dict[str, str]:
    """{localization: "" if the attack succeeded, else why it does not count}."""
    wanted = settings.attacks
    last = (
        relearned[relearned.step == settings.attack_relearn.steps]
        .set_index(["localization", "split"])
        .value
    )
    verdicts = {}
    for name in relearned.localization.unique():
        retained, taught = last[name, "retain_test"], last[name, "forget_train"]
        failed = []
        if retained < wanted.gate_retain:
            failed.append(f"retained {retained:.2f}")
        if taught < wanted.gate_train:
            failed.append(f"taught {taught:.2f}")
        verdicts[name] = "attack failed: " + ", ".join(failed) if failed else ""
    return verdicts


def transfer_by_fact(data: Measured) -> pandas.DataFrame:
    """Share of answerable vocabulary formats that give the new answer (or, where it is to be
    forgotten, not the true one): fact id x localization."""
    rows = data.asked[
        data.asked["format"].isin(data.vocabulary) & data.asked.split.str.startswith("forget")
    ]
    hit = (rows.answer != rows.true if data.forget else rows.answer == rows.edit).astype(float)
    return hit.groupby([rows.id, rows.localization]).mean().unstack()


def heldout_by_fact(data: Measured, settings: Settings) -> pandas.DataFrame:
    """1 where a held-out fact is answered correctly at the end of relearning: fact id x
    localization."""
    rows = data.relearned
    rows = rows[(rows.split == "forget_heldout") & (rows.step == settings.attack_relearn.steps)]
    hit = (rows.answer == rows.true).astype(float)
    return hit.groupby([rows.id, rows.localization]).mean().unstack()


def recovery_of(data: Measured, name: str, settings: Settings) -> Estimate:
    """R of section 8.4 for one localization (see `stats.recovery`)."""
    rows = data.relearned[
        (data.relearned.localization == name)
        & (data.relearned.step == settings.attack_relearn.steps)
    ]
    heldout, nobody = (rows[rows.split == s] for s in ("forget_heldout", "never_known"))
    return recovery(
        heldout.answer == heldout.true,
        guessing_rate(heldout, nobody),
        unedited_accuracy(data),
        settings.statistics.level,
        settings.statistics.resamples,
    )


def unedited_accuracy(data: Measured) -> float:
    """Share of the held-out facts that the unedited model answers correctly in the training
    format."""
    rows = data.asked[
        (data.asked.localization == UNEDITED) & (data.asked.split == "forget_heldout")
    ]
    rows = rows[rows["format"] == next(iter(data.answerable))]
    return float((rows.answer == rows.true).mean())


def position_table(data: Measured, settings: Settings) -> pandas.DataFrame:
    """Transfer and recovery against depth, for fact lookup, its controls and all windows; the
    interval is over facts, seed_low to seed_high over the means of the seeds, if there are
    several."""
    where, rows, parts = depth_and_strength(data), [], _by_seed(data)
    measures = {"transfer": transfer_of, "recovery": recovery_of}
    for name in data.sets:
        if name in ("all-mlps", "nonlocalized"):
            continue
        for measure, of in measures.items():
            found = of(data, name, settings)
            each = [of(part, name, settings).value for part in parts] if len(parts) > 1 else []
            low, high = over_seeds(each, settings.statistics.level)
            row = {"localization": name, "measure": measure} | vars(found) | dict(where.loc[name])
            rows.append(row | {"seed_low": low, "seed_high": high})
    return pandas.DataFrame(rows)


def transfer_of(data: Measured, name: str, settings: Settings) -> Estimate:
    """Mean of `transfer_by_fact` for one localization."""
    facts = transfer_by_fact(data)[name]
    return estimate(facts, settings.statistics.level, settings.statistics.resamples)


def _by_seed(data: Measured) -> list[Measured]:
    """The same, one seed at a time."""
    return [
        replace(
            data,
            asked=data.asked[data.asked.seed == seed],
            relearned=data.relearned[data.relearned.seed == seed],
        )
        for seed in data.asked.seed.unique()
    ]
