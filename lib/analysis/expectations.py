"""The published directions, one by one, against ours: agrees, disagrees, or cannot be tested.

The nine expectations were stated before any edit was run (section 13). The published values of the
transfer orders and of relearning are read from `data/reference/paper_results.csv`; those of the
other expectations are quoted as text below. Ours are paired differences over facts with intervals.
Only directions and orders are compared: absolute values belong to other models, other formats and
single runs. One rule for orders: they *disagree* if any pair of sets is clearly the other way
round, *agree* if none is and the first stands clearly above the last, and otherwise these facts
cannot tell.
"""

from __future__ import annotations

from itertools import combinations

import pandas

from lib import paths
from lib.analysis.contrasts import by_fact, contrasts, pairwise
from lib.analysis.costs import side_effect_table
from lib.analysis.edits import Measured, collect, transfer_of
from lib.config.blocks import Settings
from lib.stats import holm, versus
from lib.store import Store

AGREES, DISAGREES, UNTESTED = "agrees", "disagrees", "cannot be tested at this scale"
ORDER = ("fact-lookup", "random-mlps", "causal-tracing-mlps", "attribution-patching-mlps")
COLUMNS = ["number", "expectation", "task", "published", "ours", "verdict"]
TABLES = {"athletes": "T6.1", "whole-sport": "T6.3", "counterfact-16": "T6.4"}
TABLES["counterfact-64"] = TABLES["counterfact-16"]  # means over both sizes


def reference() -> pandas.DataFrame:
    """The published values that count as evidence, one per row."""
    rows = pandas.read_csv(paths.DATA / "reference" / "paper_results.csv")
    return rows[rows.valid]


def published(cell: str, attack: str, metric: str, step: float | None = None) -> dict[str, float]:
    """{localization: value}: means over the paper's models and sizes; cell: `published` of a
    task."""
    rows = reference()
    rows = rows[(rows.table == TABLES[cell]) & (rows.attack == attack) & (rows.metric == metric)]
    rows = rows[rows.model == "mean-of-3"]
    rows = rows[rows.step == step] if step is not None else rows
    return dict(zip(rows.localization, rows.value))


def collect_tasks(store: Store, settings: Settings) -> list[Measured]:
    """What was measured on every task that stands beside published runs; ValueError if none
    does."""
    names = [name for name, task in settings.tasks.items() if task.published]
    if not names:
        raise ValueError("no task stands beside published runs: set `published` of one of them")
    return [collect(store, name, settings) for name in names]


def compare(store: Store, tasks: list[Measured], settings: Settings) -> pandas.DataFrame:
    """One row per expectation and task (`COLUMNS`)."""
    found = []
    for data in tasks:
        cell = settings.task(data.task).published
        found.append(
            _transfer_order(2 if cell.startswith("counterfact") else 1, cell, data, settings)
        )
        found.append(_late_sets(data, settings))
        found.append(_standard_metrics(data, settings))
        found.append(_capability(data, settings))
        found.append(_relearning(data, settings))
        found.append(_paraphrases(data, settings))
        found.append(_probes(store, data, settings))
        found.append(_depth(data, settings))
    table = pandas.DataFrame(found, columns=COLUMNS)
    return table.sort_values(["number", "task"], kind="stable", ignore_index=True)


def beside(tasks: list[Measured], settings: Settings) -> pandas.DataFrame:
    """Transfer of every localization: rows (task, source, localization, value, low, high); source
    "published" (no interval) or "ours"."""
    rows = []
    for data in tasks:
        cell = settings.task(data.task).published
        for name, value in published(cell, "mcq", "edit_accuracy").items():
            rows.append((data.task, "published", name, value, value, value))
        for name in data.sets:
            found = transfer_of(data, name, settings)
            rows.append((data.task, "ours", name, found.value, found.low, found.high))
    columns = ["task", "source", "localization", "value", "low", "high"]
    return pandas.DataFrame(rows, columns=columns)


def order_verdict(table: pandas.DataFrame, names: list[str], settings: Settings) -> tuple[str, str]:
    """(verdict, the pairs that are clear) for an expected order of columns, highest first."""
    clear, against = [], []
    for high, low in combinations(names, 2):
        row = _versus(table[high], table[low], settings)
        if row["low"] > 0:
            clear.append((high, low))
        elif row["high"] < 0:
            against.append((high, low))
    in_order = AGREES if (names[0], names[-1]) in clear else UNTESTED
    verdict = DISAGREES if against else in_order
    words = [f"{a} above {b}" for a, b in clear] + [f"{b} above {a}" for a, b in against]
    return verdict, "; ".join(words) or "no pair differs clearly"


def _versus(a: pandas.Series, b: pandas.Series, settings: Settings) -> dict:
    return versus(a, b, settings.statistics.level, settings.statistics.resamples)


def _row(number: int, data: Measured, expectation: str, was: str, ours: str, verdict: str) -> tuple:
    return number, expectation, data.task, was, ours, verdict


def _listed(values: dict[str, float], names=ORDER) -> str:
    return ", ".join(f"{n} {values[n]:.2f}" for n in names if n in values)


def _transfer_order(number: int, cell: str, data: Measured, settings: Settings) -> tuple:
    expectation = "transfer: fact lookup > random MLPs > causal tracing MLPs > attribution MLPs"
    was = _listed(published(cell, "mcq", "edit_accuracy"))
    table = by_fact(data, settings)["transfer"]
    names = [n for n in ORDER if n in table]
    if len(names) < len(ORDER):
        missing = ", ".join(n for n in ORDER if n not in names)
        return _row(number, data, expectation, was, f"not edited: {missing}", UNTESTED)
    verdict, clear = order_verdict(table, names, settings)
    ours = f"{_listed(table.mean().to_dict())} ({clear})"
    return _row(number, data, expectation, was, ours, verdict)


def _late_sets(data: Measured, settings: Settings) -> tuple:
    expectation = "sets of late layers alone fail to transfer"
    row = contrasts(data, settings).set_index(["question", "measure"]).loc["early-late", "transfer"]
    was = "about 0.03 on athletes"
    if pandas.isna(row.value):
        return _row(3, data, expectation, was, "no window reached the strength", UNTESTED)
    ours = f"late {row.b_value:.2f} [{row.b_low:.2f}, {row.b_high:.2f}], early {row.a_value:.2f}"
    ours += f", difference {row.value:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"
    verdict = AGREES if row.low > 0 else DISAGREES if row.high < 0 else UNTESTED
    return _row(3, data, expectation, was, ours, verdict)


def tie(table: pandas.DataFrame, settings: Settings) -> tuple[str, str]:
    """(verdict, words): do no two columns differ after Holm's correction over all pairs?"""
    pairs = list(combinations(table, 2))
    rows = [_versus(table[a], table[b], settings) for a, b in pairs]
    corrected = holm([row["p"] for row in rows])
    means = table.mean()
    words = f"{means.min():.2f} ({means.idxmin()}) to {means.max():.2f} ({means.idxmax()})"
    differ = [p for p in corrected if p < 1 - settings.statistics.level]
    verdict = DISAGREES if differ else AGREES
    return verdict, f"{words}; {len(differ)} of {len(pairs)} pairs differ clearly"


def _by_split(data: Measured, split: str, formats: list[str], column: str) -> pandas.DataFrame:
    """fact id x edited localization: share of `formats` whose answer is the fact's `column`."""
    rows = data.asked[data.asked["format"].isin(formats) & data.asked.split.str.startswith(split)]
    rows = rows[rows.localization.isin(data.sets)]
    hit = (rows.answer == rows[column]).astype(float)
    return hit.groupby([rows.id, rows.localization]).mean().unstack()


def _standard_metrics(data: Measured, settings: Settings) -> tuple:
    expectation = "in the training prompt all sets keep retained facts alike"
    training = next(iter(data.answerable))
    verdict, ours = tie(_by_split(data, "retain_test", [training], "true"), settings)
    was = "maintain 0.97 or more, attribution sets 0.77 to 0.82"
    return _row(4, data, expectation, was, f"retained {ours}", verdict)


def _capability(data: Measured, settings: Settings) -> tuple:
    expectation = "general capability (MMLU) is the same for all sets"
    rows = side_effect_table(data, settings)
    rows = rows[rows.measure == "second_loss"]
    ours = (
        "a model of this size answers MMLU by chance; instead, loss added on an unrelated text: "
        f"{rows.value.min():+.2f} to {rows.value.max():+.2f} nats"
    )
    return _row(5, data, expectation, "0.62 to 0.64", ours, UNTESTED)


def _relearning(data: Measured, settings: Settings) -> tuple:
    expectation = "relearning brings back little after fact lookup, much after attribution MLPs"
    was = _listed(published("athletes", "relearning", "forget_accuracy", 20))
    rows = pairwise(data, settings)
    rows = rows[(rows.measure == "heldout") & (rows.localization == ORDER[-1])]
    if rows.empty:
        return _row(6, data, expectation, was, "one of the two does not count", UNTESTED)
    row = rows.iloc[0]
    ours = f"{row.a_value:.2f} and {row.b_value:.2f}, difference {row.value:+.2f} "
    ours += f"[{row.low:+.2f}, {row.high:+.2f}]"
    verdict = AGREES if row.high < 0 else DISAGREES if row.low > 0 else UNTESTED
    return _row(6, data, expectation, was, ours, verdict)


def _paraphrases(data: Measured, settings: Settings) -> tuple:
    expectation = "paraphrases of the prompt separate the sets little"
    was = "paraphrase edit 0.50 to 0.63 on CounterFact"
    others = [n for n, ok in data.answerable.items() if ok and n not in data.vocabulary]
    if len(others) < 2:
        return _row(7, data, expectation, was, "no other wording is answerable", UNTESTED)
    table = _by_split(data, "forget", others[1:], "edit")
    verdict, ours = tie(table[[n for n in ORDER if n in table]], settings)
    return _row(7, data, expectation, was, f"new answer {ours}", verdict)


def _probes(store: Store, data: Measured, settings: Settings) -> tuple:
    expectation = "probes inside the edited model read the truth least after fact lookup"
    was = "fact lookup 0.21, random MLPs 0.51, attribution and causal tracing MLPs 1.0"
    table = probed(store, data.task, settings)
    others = [n for n in table if n != "fact-lookup"]
    if "fact-lookup" not in table or not others:
        return _row(8, data, expectation, was, "edits of this task face no probes", UNTESTED)
    rows = [_versus(table["fact-lookup"], table[n], settings) for n in others]
    read = ", ".join(f"{n} {share:.2f}" for n, share in table.mean().items())
    ours = f"read at the last layer by probes fitted on the edited model: {read}"
    verdict = AGREES if all(r["high"] < 0 for r in rows) else UNTESTED
    verdict = DISAGREES if any(r["low"] > 0 for r in rows) else verdict
    return _row(8, data, expectation, was, ours, verdict)


def probed(store: Store, task: str, settings: Settings) -> pandas.DataFrame:
    """1 where a probe of the last layer, fitted on the edited model, reads an edited fact's true
    answer: fact id x localization; empty where the task's edits face no probes."""
    parts = []
    for seed in settings.seeds if task in settings.attacks.tasks else []:
        rows = store.load("attack_inside/rows", task, seed)
        rows = rows[(rows.attack == "probes") & (rows.variant == "refit")]
        last = (rows.budget == rows.budget.max()) & rows.split.str.startswith("forget")
        rows = rows[last & rows.localization.isin(settings.attacks.compare)]
        hit = (rows.answer == rows.true).astype(float)
        parts.append(hit.groupby([f"{seed}/" + rows.id, rows.localization]).mean().unstack())
    return pandas.concat(parts) if parts else pandas.DataFrame()


def _depth(data: Measured, settings: Settings) -> tuple:
    expectation = "open: does fact lookup do better than random sets as early?"
    rows = contrasts(data, settings).set_index(["question", "measure"]).loc["lookup-depth"]
    parts = [
        f"{words} {r.value:+.2f} [{r.low:+.2f}, {r.high:+.2f}]"
        for words, r in (("transfer", rows.loc["transfer"]), ("old answer", rows.loc["heldout"]))
    ]
    moved, back = rows.loc["transfer"], rows.loc["heldout"]
    better = moved.low > 0 or back.high < 0
    worse = moved.high < 0 or back.low > 0
    answer = (
        "yes" if better and not worse else "no" if worse else "no clear difference: early is enough"
    )
    if pandas.isna(moved.value):
        return _row(9, data, expectation, "not tested", "an edit does not count", UNTESTED)
    return _row(9, data, expectation, "not tested", "; ".join(parts), f"answered: {answer}")
