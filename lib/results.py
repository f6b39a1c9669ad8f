"""From per-fact rows to the tables behind every figure and every sentence.

`collect` reads what the stages wrote; each `*_table` is pure and returns one row per estimate
with its interval; `tidy` joins them into the one results table. `contrasts` answers the two
questions of the compendium: early against late windows, and fact lookup against its depth-matched
controls; `pairwise` sets fact lookup against every other localization. Edits that did not reach
the strength, and attacks that failed their gates, are reported but never averaged into a
comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas

from lib import paths
from lib.attacks.formats import answerable, vocabulary_formats
from lib.comparisons import area, holm, over_seeds, versus
from lib.components import Localization
from lib.config import Settings
from lib.edit import delta
from lib.facts.records import load_facts
from lib.facts.tasks import catalogue
from lib.localize.select import mean_depth
from lib.side_effects import NEIGHBOURS
from lib.stats import Estimate, estimate, luck, recovery

UNEDITED = "unedited"
COLUMNS = ["model", "task", "localization", "seed", "attack", "format", "split", "metric"]
COLUMNS += ["layer", "step", "value", "low", "high", "n"]
MEASURES = {
    "transfer": "New answer in another vocabulary",
    "heldout": "Old answer back after relearning, half not taught",
}
CARD_METRICS = ("strength", "steps", "seconds", "weights", "lr", "weight_edit")
VERSUS = ["value", "low", "high", "n", "a_value", "a_low", "a_high", "b_value", "b_low", "b_high"]
VERSUS += ["size", "p"]


@dataclass(frozen=True)
class Collected:
    """Everything measured on one task, all seeds together; fact ids carry their seed.

    forget: were true answers to be forgotten, without new ones? asked: format attack, localization
    "unedited" included; relearned: relearning attack; kept: retained facts with their group (see
    `side_effects.neighbourhood`); texts: held-out text losses; cards: one row
    per edit; trials: of its settings on validation facts; sets: {localization: components} of the
    first seed; chance: of guessing the true answer.
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


def collect(task: str, settings: Settings) -> Collected:
    """Read every stage's output for a task; FileNotFoundError names what is missing."""
    asked, relearned, kept, texts, cards, trials = [], [], [], [], [], []
    for seed in settings.seeds:
        folder = paths.unedited(task, seed)
        asked.append(_read(folder / "unedited.csv", seed).assign(localization=UNEDITED))
        mine = _read(paths.attack("formats", task, seed) / "rows.csv", seed)
        asked.append(mine[mine.localization != UNEDITED])
        mine = _read(paths.attack("relearn", task, seed) / "rows.csv", seed)
        mine = mine[mine.localization != UNEDITED].rename(columns={"budget": "step"})
        relearned.append(mine)
        kept.append(_read(paths.side_effects(task, seed) / "retained.csv", seed))
        texts.append(_read(paths.side_effects(task, seed) / "text.csv", seed))
        for name in settings.compare:
            folder = paths.edit(task, name, seed)
            card = delta.card(folder)
            cards.append(card | card.pop("chosen") | {"seed": seed})
            trials.append(_read(folder / "trials.csv", seed).assign(localization=name))
    first = settings.seeds[0]
    sets = {n: Localization.load(paths.chosen(task, first, n)) for n in settings.compare}
    formats = catalogue(settings.task(task))
    facts, _ = load_facts(paths.facts(task, first))
    asked = pandas.concat(asked, ignore_index=True)
    open_formats = answerable(asked[asked.localization == UNEDITED], settings.attack_formats.gate)
    order = {name: open_formats[name] for name in formats.kinds if name in open_formats}
    cards = pandas.DataFrame(cards)
    guessed = sum(1 / len(f.options) for f in facts.values()) / len(facts)
    forget = settings.task(task).change == "forget"
    return Collected(
        task,
        forget,
        asked,
        pandas.concat(relearned, ignore_index=True),
        pandas.concat(kept, ignore_index=True),
        pandas.concat(texts, ignore_index=True),
        cards,
        pandas.concat(trials, ignore_index=True),
        sets,
        int(cards.n_layers.iloc[0]),
        order,
        vocabulary_formats(formats, order),
        guessed,
    )


def _read(path, seed: int) -> pandas.DataFrame:
    if not path.exists():
        raise FileNotFoundError(f"{path.relative_to(paths.ROOT)} is missing: run `dvc repro` first")
    rows = pandas.read_csv(path)
    if "id" in rows:
        rows["id"] = f"{seed}/" + rows["id"]
    return rows.assign(seed=seed)


def place(data: Collected) -> pandas.DataFrame:
    """Per localization: mean depth of its components and whether every seed's edit reached
    strength."""
    reached = data.cards.groupby("localization").reached.all()
    depth = {n: mean_depth(s.components, data.n_layers) for n, s in data.sets.items()}
    return pandas.DataFrame({"depth": depth, "reached": reached}).rename_axis("localization")


def _estimates(groups, values: str, settings: Settings) -> pandas.DataFrame:
    """One row per group with the estimate of a 0/1 or real column."""
    rows = []
    for key, group in groups:
        found = estimate(group[values], settings.statistics.level, settings.statistics.resamples)
        rows.append(dict(zip(groups.keys, key)) | vars(found))
    return pandas.DataFrame(rows)


def format_table(data: Collected, settings: Settings) -> pandas.DataFrame:
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
        groups = rows.groupby(["localization", "format", "split"])
        parts.append(_estimates(groups, metric, settings).assign(metric=metric))
    return pandas.concat(parts, ignore_index=True)


def relearn_table(data: Collected, settings: Settings) -> pandas.DataFrame:
    """Share answered truly at every read-out of the attack, by localization and split."""
    rows = data.relearned.assign(true_accuracy=data.relearned.answer == data.relearned.true)
    groups = rows.groupby(["localization", "split", "step"])
    return _estimates(groups, "true_accuracy", settings).assign(metric="true_accuracy")


def relearn_areas(data: Collected, settings: Settings) -> pandas.DataFrame:
    """Area under each fact's curve of true answers during the attack, by localization and split:
    high if they come back early, whatever the last step shows."""
    rows = data.relearned.assign(hit=data.relearned.answer == data.relearned.true)
    rows = rows.sort_values("step").groupby(["localization", "split", "id"])
    areas = rows.apply(lambda g: area(g.step, g.hit), include_groups=False).rename("area")
    groups = areas.reset_index().groupby(["localization", "split"])
    return _estimates(groups, "area", settings).assign(metric="area")


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


def transfer_by_fact(data: Collected) -> pandas.DataFrame:
    """Share of answerable vocabulary formats that give the new answer (or, where it is to be
    forgotten, not the true one): fact id x localization."""
    rows = data.asked[
        data.asked["format"].isin(data.vocabulary) & data.asked.split.str.startswith("forget")
    ]
    hit = (rows.answer != rows.true if data.forget else rows.answer == rows.edit).astype(float)
    return hit.groupby([rows.id, rows.localization]).mean().unstack()


def heldout_by_fact(data: Collected, settings: Settings) -> pandas.DataFrame:
    """1 where a held-out fact is answered truly at the end of relearning: fact id x
    localization."""
    rows = data.relearned
    rows = rows[(rows.split == "forget_heldout") & (rows.step == settings.attack_relearn.steps)]
    hit = (rows.answer == rows.true).astype(float)
    return hit.groupby([rows.id, rows.localization]).mean().unstack()


def recovery_of(data: Collected, name: str, settings: Settings) -> Estimate:
    """R of section 8.4 for one localization (see `stats.recovery`)."""
    rows = data.relearned[
        (data.relearned.localization == name)
        & (data.relearned.step == settings.attack_relearn.steps)
    ]
    heldout, nobody = (rows[rows.split == s] for s in ("forget_heldout", "never_known"))
    return recovery(
        heldout.answer == heldout.true,
        luck(heldout, nobody),
        unedited_accuracy(data),
        settings.statistics.level,
        settings.statistics.resamples,
    )


def unedited_accuracy(data: Collected) -> float:
    """Share of the facts to be edited that the unedited model answers truly in the training
    format."""
    rows = data.asked[
        (data.asked.localization == UNEDITED) & (data.asked.split == "forget_heldout")
    ]
    rows = rows[rows["format"] == next(iter(data.answerable))]
    return float((rows.answer == rows.true).mean())


def position_table(data: Collected, settings: Settings) -> pandas.DataFrame:
    """Transfer and recovery against depth, for fact lookup, its controls and all windows; the
    interval is over facts, seed_low to seed_high over the means of the seeds, if there are
    several."""
    where, rows, parts = place(data), [], _by_seed(data)
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


def transfer_of(data: Collected, name: str, settings: Settings) -> Estimate:
    """Mean of `transfer_by_fact` for one localization."""
    facts = transfer_by_fact(data)[name]
    return estimate(facts, settings.statistics.level, settings.statistics.resamples)


def _by_seed(data: Collected) -> list[Collected]:
    """The same, one seed at a time."""
    return [
        replace(
            data,
            asked=data.asked[data.asked.seed == seed],
            relearned=data.relearned[data.relearned.seed == seed],
        )
        for seed in data.asked.seed.unique()
    ]


def frontier_table(data: Collected, settings: Settings) -> pandas.DataFrame:
    """Where every pair of the grid led on validation facts: the trials with columns `retained`
    (share of the unedited model's probability that is kept), `text` (added loss, nats) and
    `chosen`, whether the rule took that pair."""
    keys = ["localization", "seed"]
    rows = data.trials.merge(
        data.cards[[*keys, *(c for c in ("lr", "weight_edit") if c in data.cards)]],
        on=keys,
        suffixes=("", "_chosen"),
    )
    groups = rows.groupby([*keys, "lr", "weight_edit"], sort=False)
    rows["retained"] /= groups.retained.transform("first")
    rows["text"] -= groups.text.transform("first")
    rows["chosen"] = (rows.lr == rows.lr_chosen) & (rows.weight_edit == rows.weight_edit_chosen)
    return rows.drop(columns=["lr_chosen", "weight_edit_chosen"])


def side_effect_table(data: Collected, settings: Settings) -> pandas.DataFrame:
    """Retained facts and neighbours answered truly, added loss and KL on held-out text, added loss
    on the second text."""
    kept = data.kept[data.kept.localization != UNEDITED]
    kept = kept.assign(value=kept.answer == kept.true)
    near = kept[kept.group == NEIGHBOURS]
    parts = [
        _estimates(kept.groupby(["localization"]), "value", settings).assign(measure="retained")
    ]
    if len(near):
        found = _estimates(near.groupby(["localization"]), "value", settings)
        parts.append(found.assign(measure="neighbours"))
    keys = ["seed", "text", "passage"]
    base = data.texts[data.texts.localization == UNEDITED].set_index(keys).loss
    rows = data.texts[data.texts.localization != UNEDITED]
    rows = rows.assign(
        added=rows.loss - base.loc[pandas.MultiIndex.from_frame(rows[keys])].to_numpy()
    )
    for text, column, measure in (
        ("heldout", "added", "heldout_loss"),
        ("heldout", "kl", "heldout_kl"),
        ("second", "added", "second_loss"),
        ("second", "kl", "second_kl"),
    ):
        groups = rows[rows.text == text].groupby(["localization"])
        parts.append(_estimates(groups, column, settings).assign(measure=measure))
    table = pandas.concat(parts, ignore_index=True)
    return table.merge(place(data).reset_index(), on="localization")


def windows(data: Collected, third: str) -> list[str]:
    """Names of the windows that lie wholly in the first ("early") or last ("late") third of the
    layers."""
    found = []
    for name, chosen in data.sets.items():
        layers = chosen.layers("mlp")
        inside = (
            max(layers) < data.n_layers / 3
            if third == "early"
            else min(layers) >= 2 * data.n_layers / 3
        )
        if name.startswith("mlp-window") and inside:
            found.append(name)
    return found


def by_fact(data: Collected, settings: Settings) -> dict[str, pandas.DataFrame]:
    """{measure: fact id x localization}, of the localizations that count: edits that reached the
    strength (`transfer`) and whose relearning attack passed its gates as well (`heldout`)."""
    reached = set(place(data).query("reached").index)
    passed = {n for n, why in gates(relearn_table(data, settings), settings).items() if not why}
    tables = {
        "transfer": (transfer_by_fact(data), reached),
        "heldout": (heldout_by_fact(data, settings), reached & passed),
    }
    return {m: table[[n for n in data.sets if n in ok]] for m, (table, ok) in tables.items()}


def contrasts(data: Collected, settings: Settings) -> pandas.DataFrame:
    """The two questions, as paired differences over facts: rows (question, measure, a, b, columns
    of `comparisons.versus`).

    early-late: mean over early windows minus mean over late windows; lookup-depth: fact lookup
    minus the mean of its depth-matched controls. Measures and what counts: see `by_fact`.
    """
    depth = [n for n in data.sets if n.startswith("depth-matched-mlps")]
    pairs = {
        "early-late": (windows(data, "early"), windows(data, "late")),
        "lookup-depth": (["fact-lookup"], depth),
    }
    rows, tables = [], by_fact(data, settings)
    for question, sides in pairs.items():
        for measure, table in tables.items():
            a, b = ([n for n in side if n in table] for side in sides)
            row = {"question": question, "measure": measure, "a": " ".join(a), "b": " ".join(b)}
            if a and b:
                row |= _versus(table[a].mean(axis=1), table[b].mean(axis=1), settings)
            rows.append(row)
    return pandas.DataFrame(rows, columns=["question", "measure", "a", "b", *VERSUS])


def pairwise(data: Collected, settings: Settings) -> pandas.DataFrame:
    """Fact lookup against every other localization: rows (measure, localization, columns of
    `comparisons.versus`, p_corrected); Holm's correction runs over the localizations of a measure.
    """
    rows = []
    for measure, table in by_fact(data, settings).items():
        others = [n for n in table if n != "fact-lookup"] if "fact-lookup" in table else []
        made = [
            {"measure": measure, "localization": n}
            | _versus(table["fact-lookup"], table[n], settings)
            for n in others
        ]
        corrected = holm([row["p"] for row in made])
        rows += [row | {"p_corrected": p} for row, p in zip(made, corrected)]
    return pandas.DataFrame(rows, columns=["measure", "localization", *VERSUS, "p_corrected"])


def _versus(a: pandas.Series, b: pandas.Series, settings: Settings) -> dict:
    return versus(a, b, settings.statistics.level, settings.statistics.resamples)


def tidy(data: Collected, settings: Settings) -> pandas.DataFrame:
    """Every estimate of a task in one table, one row per value (`COLUMNS`); seeds pooled
    ("all")."""
    training = next(iter(data.answerable))
    formats = format_table(data, settings).assign(attack="formats")
    relearned = [
        table.assign(attack="relearn", format=training)
        for table in (relearn_table(data, settings), relearn_areas(data, settings))
    ]
    position = position_table(data, settings).query("measure == 'recovery'")
    recovered = position.assign(
        attack="relearn",
        metric="recovery",
        format=training,
        split="forget_heldout",
        step=settings.attack_relearn.steps,
    )
    effects = side_effect_table(data, settings)
    facts = effects.measure.isin(["retained", "neighbours"]).map(
        {True: "retain_test", False: "text"}
    )
    effects = effects.assign(attack="side-effects", metric=effects.measure, split=facts)
    cards = data.cards.melt(
        ["localization", "seed"], [m for m in CARD_METRICS if m in data.cards], var_name="metric"
    ).assign(attack="edit", format=training, split="forget")
    parts = [cards, formats, *relearned, recovered, effects]
    table = pandas.concat(parts, ignore_index=True).reindex(columns=COLUMNS)
    table["model"], table["task"] = settings.model.name, data.task
    table["seed"] = [("all" if pandas.isna(s) else str(int(s))) for s in table.seed]
    table["step"] = table.step.astype("Int64")
    table["value"] = table.value.astype(float)
    return table.sort_values(COLUMNS[2:10], kind="stable", ignore_index=True)


def sentence(row, what: str, a: str, b: str) -> str:
    """A contrast in words; says so where the interval covers zero or where nothing can be
    compared."""
    if pandas.isna(row.value):
        empty = b if isinstance(row.a, str) and row.a else a
        return f"{what}: no comparison, no edit of {empty} counts"
    compared = (
        f"{a} {row.a_value:.2f} [{row.a_low:.2f}, {row.a_high:.2f}], "
        f"{b} {row.b_value:.2f} [{row.b_low:.2f}, {row.b_high:.2f}]"
    )
    sure = row.low > 0 or row.high < 0
    verdict = "" if sure else ", no clear difference"
    interval = f"[{row.low:+.2f}, {row.high:+.2f}]"
    return f"{what}: {compared}; difference {row.value:+.2f} {interval}{verdict}"


def against_each(rows: pandas.DataFrame, what: str, level: float = 0.95) -> str:
    """`pairwise` of one measure in words: where fact lookup is higher or lower after Holm's
    correction."""
    if rows.empty:
        return f"{what}: no comparison, no edit of fact lookup counts"
    sure = rows[rows.p_corrected < 1 - level]
    groups = {
        "higher than": sure[sure.value > 0],
        "lower than": sure[sure.value < 0],
        "no clear difference from": rows.drop(sure.index),
    }
    parts = [
        f"{words} " + ", ".join(f"`{r.localization}` ({r.value:+.2f})" for r in part.itertuples())
        for words, part in groups.items()
        if len(part)
    ]
    return f"{what}, fact lookup against each other set (Holm-corrected): {'; '.join(parts)}"


def measures(forget: bool) -> dict[str, str]:
    """{measure of a comparison: its words}; forget: were answers only to be forgotten?"""
    words = {"transfer": "Old answer gone in another vocabulary"} if forget else {}
    return MEASURES | words
