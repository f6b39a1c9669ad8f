"""The questions of the compendium as paired differences over facts, each with one of four verdicts:
higher, lower, alike (within a margin that was stated before) or unresolved.

Edits that did not reach the strength, formats that an edit broke and attacks that failed their
gates are reported but never compared. Localizations that train the same weights are one edit, so
that corrections for many comparisons count distinct edits.
"""

from __future__ import annotations

import numpy
import pandas

from lib.analysis.edits import KINDS, Measured, back_table, by_fact, heldout_by_fact
from lib.config.blocks import Settings
from lib.stats import UNRESOLVED, holm, verdict, versus
from lib.tables import VERSUS

EARLY_LATE, LOOKUP_DEPTH = "early-late", "lookup-depth"
SINGLE = r"^mlp-\d+$"  # names of single MLPs in a sweep


def measures(
    data: Measured, edits: pandas.DataFrame, answers: pandas.DataFrame, settings: Settings
) -> dict[str, pandas.DataFrame]:
    """{measure: fact id x edit} of the edits that count: `new-wording`, `new-vocabulary`,
    `old-wording`, `old-vocabulary` (shares of formats) and `back` (held-out half, after
    relearning)."""
    reached = list(edits.localization[edits.reached])
    back = back_table(data, settings)
    passed = set(back.localization[back.failed == ""])
    tables = {
        f"{says}-{kind}": by_fact(data.asked, answers, kind, says)
        for says in ("new", "old")
        for kind in KINDS
    }
    tables["back"] = heldout_by_fact(data)[[n for n in data.sets if n in passed]]
    return {m: table[[n for n in reached if n in table]] for m, table in tables.items()}


def windows(data: Measured, third: str) -> list[str]:
    """Windows of neighbouring MLPs, by their own name or another's, that lie wholly in the first
    ("early") or last ("late") third of the layers."""
    found = []
    for name, chosen in data.sets.items():
        names = [name, *data.also.get(name, [])]
        layers = chosen.layers("mlp")
        inside = (
            max(layers, default=data.n_layers) < data.n_layers / 3
            if third == "early"
            else min(layers, default=0) >= 2 * data.n_layers / 3
        )
        if inside and any(n.startswith("mlp-window") for n in names):
            found.append(name)
    return found


def columns_of(table: pandas.DataFrame, measure: str, names: list[str]) -> pandas.DataFrame:
    """The edits of a comparison as they stand in a measure's table."""
    return table[names]


def contrasts(
    data: Measured, tables: dict, settings: Settings, pick=columns_of
) -> pandas.DataFrame:
    """The two questions: rows (question, measure, a, b, columns of `stats.versus`, verdict).

    early-late: mean over early windows minus mean over late ones; lookup-depth: fact lookup minus
    the mean of its depth-matched controls. pick: takes the edits of a comparison from a table, see
    `in_shared_formats`.
    """
    depth = [n for n in data.sets if n.startswith("depth-matched-mlps")]
    pairs = {EARLY_LATE: (windows(data, "early"), windows(data, "late"))}
    pairs[LOOKUP_DEPTH] = (["fact-lookup"], depth)
    rows = []
    for question, sides in pairs.items():
        for measure, table in tables.items():
            a, b = ([n for n in side if n in table] for side in sides)
            row = {"question": question, "measure": measure, "a": " ".join(a), "b": " ".join(b)}
            row |= {"verdict": UNRESOLVED}
            if a and b:
                shared = pick(table, measure, a + b)
                row |= compared(shared[a].mean(axis=1), shared[b].mean(axis=1), settings)
            rows.append(row)
    return pandas.DataFrame(rows, columns=["question", "measure", "a", "b", *VERSUS, "verdict"])


def in_shared_formats(
    data: Measured, answers: pandas.DataFrame, table: pandas.DataFrame, measure: str, names: list
) -> pandas.DataFrame:
    """Columns `names` of a measure's table, from formats that count for all of them; nothing is
    known (missing values) where there is none."""
    if measure == "back":
        return table[names]
    says, kind = measure.split("-")
    counts = answers[answers.counts & (answers.kind == kind) & answers.localization.isin(names)]
    for_all = counts.groupby("format").localization.nunique() == len(names)
    shared = answers[answers.format.isin(for_all.index[for_all])]
    found = by_fact(data.asked, shared, kind, says)
    return found.reindex(index=table.index, columns=names)


def compared(
    a: pandas.Series, b: pandas.Series, settings: Settings, p: float | None = None
) -> dict:
    """`stats.versus` of two edits with its verdict; p: another p value than its own. Fewer than two
    facts in common resolve nothing."""
    how = settings.statistics
    a, b = a.dropna(), b.dropna()
    if len(a.index.intersection(b.index)) < 2:
        return dict.fromkeys(VERSUS, float("nan")) | {"p": 1.0, "verdict": UNRESOLVED}
    row = versus(a, b, how.level, how.resamples)
    p = row["p"] if p is None else p
    ends = row["value"], row["low"], row["high"], row["n"]
    return row | {"verdict": verdict(*ends, p, how.margin, how.level)}


def pairwise(tables: dict, settings: Settings, pick=columns_of) -> pandas.DataFrame:
    """Fact lookup against every other edit: rows (measure, localization, columns of
    `stats.versus`, p_corrected, verdict); Holm's correction runs over the edits of a measure."""
    rows = []
    for measure, table in tables.items():
        others = [n for n in table if n != "fact-lookup"] if "fact-lookup" in table else []
        sides = []
        for name in others:
            shared = pick(table, measure, ["fact-lookup", name])
            sides.append((shared["fact-lookup"], shared[name]))
        made = [compared(*pair, settings) for pair in sides]
        for name, pair, p in zip(others, sides, holm([row["p"] for row in made])):
            again = compared(*pair, settings, p)
            rows.append({"measure": measure, "localization": name} | again | {"p_corrected": p})
    columns = ["measure", "localization", *VERSUS, "p_corrected", "verdict"]
    return pandas.DataFrame(rows, columns=columns)


def fits(edits: pandas.DataFrame, tables: dict) -> pandas.DataFrame:
    """A line and a step fitted to the edits of single MLPs, by least squares: rows (measure, model,
    n, at, at_error, first, last, error, left_out), where `at` is the line's slope in shares per
    layer or the step's place between two layers, `first` and `last` what is fitted at the ends,
    `error` the root mean square of what is left, and `left_out` the same where every layer is
    predicted from the others."""
    layer = edits.set_index("localization").first_layer
    rows = []
    for measure, table in tables.items():
        mean = table.mean().dropna()
        mean = mean[mean.index.str.match(SINGLE)]
        x, y = layer[mean.index].to_numpy(float), mean.to_numpy()
        order = x.argsort()
        for model, fit in (("line", _line), ("step", _step)):
            if len(x) >= 4:
                rows.append({"measure": measure, "model": model} | _fitted(x[order], y[order], fit))
    columns = ["measure", "model", "n", "at", "at_error", "first", "last", "error", "left_out"]
    return pandas.DataFrame(rows, columns=columns)


def _fitted(x, y, fit) -> dict:
    at, predict = fit(x, y)
    each = [fit(numpy.delete(x, i), numpy.delete(y, i)) for i in range(len(x))]
    missed = [other(x[i : i + 1])[0] - y[i] for i, (_, other) in enumerate(each)]
    jackknife = numpy.array([place for place, _ in each])
    spread = (len(x) - 1) / len(x) * ((jackknife - jackknife.mean()) ** 2).sum()
    left = numpy.sqrt(((predict(x) - y) ** 2).mean())
    row = {"n": len(x), "at": at, "at_error": numpy.sqrt(spread), "error": left}
    row |= {"first": predict(x)[0], "last": predict(x)[-1]}
    return row | {"left_out": numpy.sqrt(numpy.mean(numpy.square(missed)))}


def _line(x, y):
    slope, start = numpy.polyfit(x, y, 1)
    return slope, lambda at: slope * at + start


def _step(x, y):
    """The best of all steps between two neighbouring layers; a layer between the two is predicted
    halfway."""
    each = [(y[: i + 1].mean(), y[i + 1 :].mean()) for i in range(len(x) - 1)]
    left = [((numpy.where(x <= x[i], *m) - y) ** 2).sum() for i, m in enumerate(each)]
    best = int(numpy.argmin(left))
    before, after, (high, low) = x[best], x[best + 1], each[best]

    def predict(at):
        return numpy.where(at <= before, high, numpy.where(at >= after, low, (high + low) / 2))

    return (before + after) / 2, predict


def fact_table(data: Measured, tables: dict) -> pandas.DataFrame:
    """Every fact behind the comparisons: rows (measure, localization, id, true, edit, value)."""
    parts = []
    for measure, table in tables.items():
        named = table.rename_axis(index="id", columns="localization")
        long = named.stack().dropna().reset_index(name="value")
        parts.append(long.assign(measure=measure))
    answers = data.asked.drop_duplicates("id").set_index("id")[["true", "edit"]]
    table = pandas.concat(parts, ignore_index=True).join(answers, on="id")
    return table[["measure", "localization", "id", "true", "edit", "value"]]


def metrics(carried: pandas.DataFrame, back: pandas.DataFrame) -> dict[str, float]:
    """{name: value} of the headline numbers, flat, for `dvc metrics`."""
    rows = carried.dropna(subset="value")
    found = {f"{r.says}-{r.kind}/{r.localization}": round(r.value, 4) for r in rows.itertuples()}
    return found | {f"back/{r.localization}": r.back for r in back.itertuples()}
