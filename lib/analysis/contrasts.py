"""The two questions of the compendium, and fact lookup against every other localization.

Early against late windows, and fact lookup against its depth-matched controls. Edits that did not
reach the strength, and attacks that failed their gates, are reported but never compared.
"""

from __future__ import annotations

import pandas

from lib.analysis import words
from lib.analysis.costs import side_effect_table
from lib.analysis.edits import (
    CARD_METRICS,
    Measured,
    depth_and_strength,
    format_table,
    gates,
    heldout_by_fact,
    position_table,
    relearn_areas,
    relearn_table,
    transfer_by_fact,
)
from lib.config.blocks import Settings
from lib.measure.side_effects import NEIGHBOURS
from lib.stats import holm, versus
from lib.tables import RESULTS, UNEDITED, VERSUS


def windows(data: Measured, third: str) -> list[str]:
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


def by_fact(data: Measured, settings: Settings) -> dict[str, pandas.DataFrame]:
    """{measure: fact id x localization}, of the localizations that count: edits that reached the
    strength (`transfer`) and whose relearning attack passed its gates as well (`heldout`)."""
    reached = set(depth_and_strength(data).query("reached").index)
    passed = {n for n, why in gates(relearn_table(data, settings), settings).items() if not why}
    tables = {
        "transfer": (transfer_by_fact(data), reached),
        "heldout": (heldout_by_fact(data, settings), reached & passed),
    }
    return {m: table[[n for n in data.sets if n in ok]] for m, (table, ok) in tables.items()}


def contrasts(data: Measured, settings: Settings) -> pandas.DataFrame:
    """The two questions, as paired differences over facts: rows (question, measure, a, b, columns
    of `stats.versus`).

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


def pairwise(data: Measured, settings: Settings) -> pandas.DataFrame:
    """Fact lookup against every other localization: rows (measure, localization, columns of
    `stats.versus`, p_corrected); Holm's correction runs over the localizations of a measure.
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


def tidy(data: Measured, settings: Settings) -> pandas.DataFrame:
    """Every estimate of a task in one table, one row per value (`RESULTS`); seeds pooled
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
    table = pandas.concat(parts, ignore_index=True).reindex(columns=RESULTS)
    table["model"], table["task"] = settings.model.name, data.task
    table["seed"] = [("all" if pandas.isna(s) else str(int(s))) for s in table.seed]
    table["step"] = table.step.astype("Int64")
    table["value"] = table.value.astype(float)
    return table.sort_values(RESULTS[2:10], kind="stable", ignore_index=True)


def metrics(position: pandas.DataFrame, contrasts: pandas.DataFrame) -> dict[str, float]:
    """{name: value} of the headline numbers, flat, for `dvc metrics`."""
    where = {f"{r.measure}/{r.localization}": r.value for r in position.itertuples()}
    counted = contrasts.dropna(subset="value")
    compared = {f"{r.question}/{r.measure}": r.value for r in counted.itertuples()}
    return {name: round(value, 4) for name, value in (where | compared).items()}


def beside_figures(
    data: Measured, relearned: pandas.DataFrame, position: pandas.DataFrame, settings: Settings
) -> dict:
    """What figures show beside their tables: what was measured on the unedited model, chance, the
    verdict on every relearning attack, and which formats count (in their order)."""
    kept = data.kept[data.kept.localization == UNEDITED]
    right = kept.answer == kept.true
    near = right[kept.group == NEIGHBOURS]
    named = {r.localization: r for r in position[position.measure == "recovery"].itertuples()}
    verdicts = {
        n: why or (f"R = {r.value:.2f} [{r.low:.2f}, {r.high:.2f}]" if (r := named.get(n)) else "")
        for n, why in gates(relearned, settings).items()
    }
    return {
        "answerable": [[name, ok] for name, ok in data.answerable.items()],
        "chance": data.chance,
        "chance_changed": data.chance_changed,
        "changed_metric": data.changed_metric,
        "level": settings.statistics.level,
        "measures": {m: w.replace(", ", ",\n") for m, w in words.measures(data.forget).items()},
        "unedited": round(float(transfer_by_fact(data)[UNEDITED].mean()), 6),
        "unedited_kept": {
            "retained": round(float(right.mean()), 6),
            "neighbours": round(float(near.mean()), 6) if len(near) else 1.0,
        },
        "verdicts": verdicts,
    }
