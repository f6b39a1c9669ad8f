"""From rows of answers to the tables behind every figure and every sentence.

`collect` reads what the stages wrote; each `*_table` is pure and returns one row per estimate with
its interval. Localizations that train the same weights are one edit and one row: the others stand
under `also`. `lib.analysis.contrasts` compares the edits.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas

from lib.config.blocks import Settings
from lib.edit import delta
from lib.facts.records import FORGET
from lib.measure.formats import Formats
from lib.model.components import Localization, load_set, mean_depth
from lib.stats import Recovery, estimate, recovery, summarise
from lib.store import Store
from lib.tables import ESTIMATE, UNEDITED

KINDS = {"wording": "rewordings", "vocabulary": "vocabulary"}  # of formats: property of Formats
SAYS = {"new": "edit", "old": "true"}  # what an answer is: the fact's column that it equals


@dataclass(frozen=True)
class Measured:
    """Everything measured on one task, all seeds together; fact ids carry their seed.

    asked: answers in every format that the unedited model can give, of the unedited model and of
    every edit; relearned: read-outs of the relearning attack; kept, texts: retained facts and
    held-out text after the stored edits; cards: one row per edit and seed; several: `asked` of the
    edits that were trained on several wordings; way: `asked` on the way to the strength; sets:
    {localization: components} of the first seed; also: {localization: those that train the same
    weights}.
    """

    task: str
    forget: bool
    formats: Formats
    asked: pandas.DataFrame
    relearned: pandas.DataFrame
    kept: pandas.DataFrame
    texts: pandas.DataFrame
    cards: pandas.DataFrame
    several: pandas.DataFrame
    way: pandas.DataFrame
    sets: dict[str, Localization]
    also: dict[str, list[str]]
    n_layers: int

    @property
    def training(self) -> str:
        """Name of the format that edits are trained on."""
        return self.formats.training

    def counted(self, kind: str) -> list[str]:
        """Formats of a kind (`wording`, `vocabulary`) that the unedited model can answer."""
        return getattr(self.formats, KINDS[kind])


def collect(store: Store, task: str, settings: Settings) -> Measured:
    """Read every stage's output for a task; FileNotFoundError names what is missing."""
    seeds, swept = settings.seeds, task in settings.sweep.tasks
    load = {"unedited": "unedited/unedited", "asked": "attack_formats/rows"}
    load |= {"relearned": "attack_relearn/rows", "kept": "side_effects/retained"}
    load |= {"texts": "side_effects/text"}
    load |= {f"sweep_{t}": f"sweep/{t}" for t in ("asked", "relearned", "edits") if swept}
    found = {what: store.load_seeds(table, task, seeds) for what, table in load.items()}
    sets, also = _sets(store, task, settings)
    asked = [found["unedited"].assign(localization=UNEDITED)]
    asked += [_of_sets(found[t], sets) for t in ("asked", "sweep_asked") if t in found]
    relearned = [_of_sets(found[t], sets) for t in ("relearned", "sweep_relearned") if t in found]
    cards, way = _cards(store, task, [n for n in sets if n in settings.compare], seeds)
    if swept:
        cards = pandas.concat([cards, _of_sets(found["sweep_edits"], sets)], ignore_index=True)
    several = found["sweep_asked"].query("trained_on > 1").copy() if swept else asked[0][:0]
    if settings.task(task).change == "forget":  # no new answer was taught: anything but the old one
        for rows in (*asked, several, way):
            rows["edit"] = rows.answer.where(rows.answer != rows.true, "")
    formats = Formats.load(store.find("unedited", task, seeds[0]))
    for seed in seeds[1:]:
        formats = formats.both(Formats.load(store.find("unedited", task, seed)))
    return Measured(
        task,
        settings.task(task).change == "forget",
        formats,
        pandas.concat(asked, ignore_index=True),
        pandas.concat(relearned, ignore_index=True).rename(columns={"budget": "step"}),
        found["kept"],
        found["texts"],
        cards,
        several,
        way,
        sets,
        also,
        store.load_json("fact_lookup/lookup", task, seeds[0])["n_layers"],
    )


def _sets(store: Store, task: str, settings: Settings):
    """(sets, also): the distinct edits of a task, and the names of those that equal them."""
    names = [*settings.compare, *settings.sweep.localizations.get(task, ())]
    every = {name: load_set(store, task, name, settings.seeds[0]) for name in names}
    also: dict[str, list[str]] = {}
    for name, chosen in every.items():
        if chosen.equals:
            also.setdefault(chosen.equals, []).append(name)
    return {n: s for n, s in every.items() if not s.equals}, also


def _of_sets(rows: pandas.DataFrame, sets) -> pandas.DataFrame:
    """Rows of distinct edits that were trained on one prompt, without rehearsals of attackers."""
    rows = rows[rows.localization.isin(sets)]
    rows = rows[rows.trained_on == 1] if "trained_on" in rows else rows
    return rows[rows.split != "choosing"] if "split" in rows else rows


def _cards(store: Store, task: str, names: list[str], seeds: list[int]):
    """(cards, way): the card of every stored edit, and what it answered on the way."""
    cards, way = [], []
    for name in names:
        for seed in seeds:
            card = delta.card(delta.stored(store, task, name, seed))
            cards.append(card | {"seed": seed, "localization": name})
            rows = store.load("edit/way", task, name, seed)
            way.append(rows.assign(seed=seed, localization=name))
    return pandas.DataFrame(cards), pandas.concat(way, ignore_index=True)


def edit_table(data: Measured, settings: Settings) -> pandas.DataFrame:
    """One row per edit: also (localizations that train the same weights), mlps, attention, single
    (matrices), weights, first_layer, depth (mean, 0 to 1), matched (is its budget that of fact
    lookup?), steps, strength, reached, kept (share of the probability of retained answers) and
    added (nats of text loss), means over seeds."""
    kept, added = data.cards.retained / data.cards.retained_before, data.cards.text
    cards = data.cards.assign(kept=kept, added=added - data.cards.text_before)
    how = {"steps": "mean", "strength": "mean", "reached": "all", "kept": "mean", "added": "mean"}
    rows = []
    for name, chosen in data.sets.items():
        row = {"localization": name, "also": " ".join(data.also.get(name, []))}
        row |= {k: " ".join(map(str, chosen.layers(k))) for k in ("mlp", "attention")}
        row |= {"single": any(c.matrix for c in chosen.components), "weights": chosen.weights}
        row |= {"first_layer": chosen.first_layer, "matched": chosen.budget > 0}
        rows.append(row | {"depth": mean_depth(chosen.components, data.n_layers)})
    return pandas.DataFrame(rows).join(cards.groupby("localization").agg(how), on="localization")


def answer_table(data: Measured, settings: Settings) -> pandas.DataFrame:
    """One row per edit and format that the unedited model can answer: new, old, other (shares of
    edited facts, in all 1), their number n and the ends of their intervals; retained (share of
    retained facts answered correctly) beside the unedited model's; counts: does the edited model
    keep `attack_formats.keep` of that? Where not, the edit broke the format."""
    rows = data.asked[data.asked.format.isin(data.formats.counted)]
    tables = {}
    edited = rows[rows.split.isin(FORGET)]
    for says, column in SAYS.items():
        hit = edited.assign(hit=edited.answer == edited[column])
        found = summarise(hit, ["localization", "format"], "hit", settings.statistics)
        names = {"value": says, "low": f"{says}_low", "high": f"{says}_high"}
        tables[says] = found.rename(columns=names)
    table = tables["new"].merge(tables["old"].drop(columns="n"), on=["localization", "format"])
    table["other"] = 1 - table.new - table.old
    kept = retained_by_format(rows)
    keys = pandas.MultiIndex.from_frame(table[["localization", "format"]])
    table["retained"] = kept.reindex(keys).to_numpy()
    table["unedited"] = kept[UNEDITED].reindex(table.format).to_numpy()
    table["counts"] = table.retained + 1e-9 >= settings.attack_formats.keep * table.unedited
    return table.assign(kind=table.format.map(_kinds(data)))


def _kinds(data: Measured) -> dict[str, str]:
    """{format: training, wording, vocabulary or choice}."""
    words = {"rewording": "wording"}
    return {name: words.get(kind, kind) for name, kind in data.formats.catalogue.kinds.items()}


def retained_by_format(rows: pandas.DataFrame) -> pandas.Series:
    """Share of retained facts answered correctly, by (localization, format); the same facts for
    every model."""
    rows = rows[rows.split == "retain_test"]
    shared = set.intersection(*rows.groupby("localization").id.agg(set))
    rows = rows[rows.id.isin(shared)]
    return (rows.answer == rows.true).groupby([rows.localization, rows.format]).mean()


def by_fact(
    rows: pandas.DataFrame, answers: pandas.DataFrame, kind: str, says: str
) -> pandas.DataFrame:
    """Share of the formats of a kind in which an edited fact gets its new or old answer: fact id x
    localization; only formats that count for an edit (see `answer_table`), not a number where none
    does."""
    counts = answers[answers.counts & (answers.kind == kind)]
    pairs = pandas.MultiIndex.from_frame(counts[["localization", "format"]])
    mine = pandas.MultiIndex.from_frame(rows[["localization", "format"]])
    return share_by_fact(rows[mine.isin(pairs) & rows.split.isin(FORGET)], SAYS[says])


def share_by_fact(rows: pandas.DataFrame, column: str = "true") -> pandas.DataFrame:
    """Share of a fact's rows whose answer is that in a column: fact id x localization."""
    hit = (rows.answer == rows[column]).astype(float)
    return hit.groupby([rows.id, rows.localization]).mean().unstack()


def carried_table(
    data: Measured, answers: pandas.DataFrame, settings: Settings, rows: pandas.DataFrame = None
) -> pandas.DataFrame:
    """One row per edit, kind of format and answer (new, old): the share of edited facts, mean over
    the formats that count; value is missing where none does, and `all_formats` has the share over
    all. `formats`: how many count."""
    rows = data.asked if rows is None else rows
    every, found = answers.assign(counts=True), []
    for kind in KINDS:
        count = answers[answers.kind == kind].groupby("localization").counts.sum()
        for says in SAYS:
            gated = by_fact(rows, answers, kind, says)
            plain = by_fact(rows, every, kind, says)
            for name in plain:
                row = {"localization": name, "kind": kind, "says": says}
                row |= {"all_formats": plain[name].mean(), "formats": int(count[name])}
                how = settings.statistics.level, settings.statistics.resamples
                values = gated[name].dropna() if name in gated else []
                ends = vars(estimate(values, *how)) if len(values) else {}
                found.append(row | ends)
    keys = ["localization", "kind", "says", "formats"]
    return pandas.DataFrame(found, columns=[*keys, *ESTIMATE, "all_formats"])


def relearn_table(data: Measured, settings: Settings) -> pandas.DataFrame:
    """Share answered correctly at every read-out of the attack, by localization and split."""
    rows = data.relearned.assign(right=data.relearned.answer == data.relearned.true)
    return summarise(rows, ["localization", "split", "step"], "right", settings.statistics)


def ends(relearned: pandas.DataFrame) -> pandas.DataFrame:
    """Rows of each attack's last read-out, where its attacker stopped."""
    keys = ["localization", *(["seed"] if "seed" in relearned else [])]
    return relearned[relearned.step == relearned.groupby(keys).step.transform("max")]


def back_table(data: Measured, settings: Settings) -> pandas.DataFrame:
    """What relearning brought back, one row per edit: back of n held-out facts, share (value, low,
    high), step at which the attacker stopped, taught and retained shares, failed (why the attack
    does not count, "" if it does), and recovery R with interval, floor and prior."""
    rows = []
    for name, end in ends(data.relearned).groupby("localization", sort=False):
        if name not in data.sets:
            continue
        right = (end.answer == end.true).groupby(end.split).mean()
        held = end[end.split == "forget_heldout"]
        hit = held.answer == held.true
        how = settings.statistics.level, settings.statistics.resamples
        row = {"localization": name, "back": int(hit.sum())} | vars(estimate(hit, *how))
        row |= {"step": end.step.max(), "taught": right["forget_train"]}
        row |= {"retained": right["retain_test"], "failed": failed(right, settings)}
        found = recovery_of(end, known(data.asked, data.training), settings)
        rows.append(row | {f"R_{k}": v for k, v in vars(found).items()})
    return pandas.DataFrame(rows).drop(columns="R_n")


def failed(right: pandas.Series, settings: Settings) -> str:
    """Why an attack that teaches does not count (section 8.4), "" if it does; right: share answered
    correctly, by split."""
    gates = {
        "retained": (right.get("retain_test", 1.0), settings.attacks.gate_retain),
        "taught": (right["forget_train"], settings.attacks.gate_train),
    }
    return ", ".join(f"{what} {share:.2f}" for what, (share, gate) in gates.items() if share < gate)


def recovery_of(end: pandas.DataFrame, known: float, settings: Settings) -> Recovery:
    """R of section 8.4 for the last read-out of one attack (see `stats.recovery`)."""
    heldout, nobody = (end[end.split == s] for s in ("forget_heldout", "never_known"))
    how = settings.statistics
    return recovery(heldout, nobody, known, how.level, how.resamples)


def known(asked: pandas.DataFrame, training: str) -> float:
    """Share of the held-out facts that the unedited model answers correctly when asked as in
    training."""
    rows = asked[(asked.localization == UNEDITED) & (asked.split == "forget_heldout")]
    rows = rows[rows.format == training]
    return float((rows.answer == rows.true).mean())


def heldout_by_fact(data: Measured) -> pandas.DataFrame:
    """1 where a held-out fact is answered correctly when the attacker stops: id x localization."""
    rows = ends(data.relearned)
    return share_by_fact(rows[rows.split == "forget_heldout"])
