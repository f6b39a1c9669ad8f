"""The published directions, one by one, against ours: agrees, disagrees, unresolved, or not tested.

The nine expectations were stated before any edit was run (section 13). Published values are read
from `data/reference/paper_results.csv` where the table has them, else quoted. Ours are paired
differences over facts. Only directions are compared: absolute values belong to other models, other
formats and single runs. An expected order *agrees* if the first set is higher than the last and no
pair is the other way round, *disagrees* if a pair is. An expected tie agrees only if every pair is
alike within the margin of equivalence, and disagrees if a pair differs after Holm's correction.
What is neither is *unresolved*: these facts cannot tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import combinations

import pandas

from lib import paths
from lib.analysis import contrasts as questions
from lib.analysis.edits import Measured, answer_table, collect, edit_table, share_by_fact
from lib.config.blocks import Settings
from lib.facts.records import FORGET
from lib.stats import ALIKE, HIGHER, LOWER, Estimate, estimate, holm
from lib.store import Store
from lib.tables import UNEDITED

AGREES, DISAGREES, UNRESOLVED, UNTESTED = "agrees", "disagrees", "unresolved", "not tested"
ORDER = ("fact-lookup", "random-mlps", "causal-tracing-mlps", "attribution-patching-mlps")
COLUMNS = ["number", "expectation", "task", "published", "ours", "verdict"]
TABLES = {"athletes": "T6.1", "whole-sport": "T6.3", "counterfact-16": "T6.4"}
TABLES["counterfact-64"] = TABLES["counterfact-16"]  # means over both sizes


@dataclass(frozen=True)
class Evidence:
    """What was measured on a task, and its tables; `names` resolves localizations that equal
    another one's edit."""

    data: Measured
    answers: pandas.DataFrame
    tables: dict[str, pandas.DataFrame]
    contrasts: pandas.DataFrame
    names: dict[str, str]

    @staticmethod
    def of(data: Measured, settings: Settings) -> Evidence:
        """The tables that the expectations are read from."""
        edits, answers = edit_table(data, settings), answer_table(data, settings)
        tables = questions.measures(data, edits, answers, settings)
        pick = partial(questions.in_shared_formats, data, answers)
        names = {n: n for n in data.sets}
        names |= {b: a for a, others in data.also.items() for b in others}
        found = questions.contrasts(data, tables, settings, pick)
        return Evidence(data, answers, tables, found, names)

    def ordered(self, measure: str) -> dict[str, pandas.Series]:
        """`picked` of a measure's table."""
        return self.picked(self.tables[measure])

    def picked(self, table: pandas.DataFrame) -> dict[str, pandas.Series]:
        """{localization of ORDER: its facts}, of those in a table (fact id x edit); of
        localizations that train the same weights, the first."""
        first = {}
        for name in ORDER:
            first.setdefault(self.names.get(name), name)
        return {n: table[edit].dropna() for edit, n in first.items() if edit in table}


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


def collect_tasks(store: Store, settings: Settings) -> list[Evidence]:
    """What was measured on every task that stands beside published runs; ValueError if none
    does."""
    names = [name for name, task in settings.tasks.items() if task.published]
    if not names:
        raise ValueError("no task stands beside published runs: set `published` of one of them")
    return [Evidence.of(collect(store, name, settings), settings) for name in names]


def compare(store: Store, tasks: list[Evidence], settings: Settings) -> pandas.DataFrame:
    """One row per expectation and task (`COLUMNS`)."""
    rows = []
    for found in tasks:
        cell = settings.task(found.data.task).published
        probed = inside(store, found.data.task, settings)
        for number, expectation, was, (ours, verdict) in (
            _transfer(found, cell, settings),
            (3, "sets of late layers alone fail to transfer", "about 0.03", _late(found)),
            (
                *(4, "in the training prompt all sets keep retained facts alike"),
                "maintain 0.97 or more, attribution sets 0.77 to 0.82",
                _retained(found, settings),
            ),
            (
                *(5, "general capability (MMLU) is the same for all sets", "0.62 to 0.64"),
                ("a model of this size answers MMLU by chance", UNTESTED),
            ),
            (
                *(
                    6,
                    "relearning brings back little after fact lookup, much after attribution MLPs",
                ),
                _listed(published("athletes", "relearning", "forget_accuracy", 20)),
                _relearning(found, settings),
            ),
            (
                *(7, "rewordings of the prompt separate the sets little"),
                "paraphrase edit 0.50 to 0.63 on CounterFact",
                tie(found.ordered("new-wording"), settings),
            ),
            (
                *(8, "probes inside the edited model read the truth least after fact lookup"),
                "fact lookup 0.21, random MLPs 0.51, attribution and causal tracing MLPs 1.0",
                _probes(probed, settings),
            ),
            (9, "open: fact lookup does better than sets as early", "not tested", _depth(found)),
        ):
            rows.append((number, expectation, found.data.task, was, ours, verdict))
    table = pandas.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(["number", "task"], kind="stable", ignore_index=True)


def beside(tasks: list[Evidence], settings: Settings) -> pandas.DataFrame:
    """New answers of every localization where transfer is measured: rows (task, source,
    localization, value, low, high); source "published" (no interval) or "ours"."""
    rows = []
    for found in tasks:
        cell, table = settings.task(found.data.task).published, found.tables[_measure(found)]
        for name, value in published(cell, "mcq", "edit_accuracy").items():
            rows.append((found.data.task, "published", name, value, value, value))
        for name, edit in found.names.items():
            if edit in table and table[edit].notna().any():
                r = _share(table[edit], settings)
                rows.append((found.data.task, "ours", name, r.value, r.low, r.high))
    columns = ["task", "source", "localization", "value", "low", "high"]
    return pandas.DataFrame(rows, columns=columns)


def _measure(found: Evidence) -> str:
    """Where transfer is measured: in another vocabulary, or where there is none, wording."""
    return "new-vocabulary" if found.data.counted("vocabulary") else "new-wording"


def _share(facts: pandas.Series, settings: Settings) -> Estimate:
    return estimate(facts.dropna(), settings.statistics.level, settings.statistics.resamples)


def _listed(values: dict[str, float], names=ORDER) -> str:
    return ", ".join(f"{n} {values[n]:.2f}" for n in names if n in values)


def order(sets: dict[str, pandas.Series], settings: Settings) -> tuple[str, str]:
    """(words, verdict) for an expected order, highest first."""
    pairs = {
        (a, b): questions.compared(sets[a], sets[b], settings) for a, b in combinations(sets, 2)
    }
    clear = [f"{a} above {b}" for (a, b), row in pairs.items() if row["verdict"] == HIGHER]
    against = [f"{b} above {a}" for (a, b), row in pairs.items() if row["verdict"] == LOWER]
    names = list(sets)
    held = pairs[names[0], names[-1]]["verdict"] == HIGHER
    verdict = DISAGREES if against else AGREES if held else UNRESOLVED
    return "; ".join(clear + against) or "no pair differs clearly", verdict


def tie(sets: dict[str, pandas.Series], settings: Settings) -> tuple[str, str]:
    """(words, verdict) for an expected tie between all sets."""
    if len(sets) < 2:
        return "fewer than two sets count", UNRESOLVED
    pairs = [questions.compared(sets[a], sets[b], settings) for a, b in combinations(sets, 2)]
    differ = (holm([row["p"] for row in pairs]) < 1 - settings.statistics.level).sum()
    alike = sum(row["verdict"] == ALIKE for row in pairs)
    means = pandas.Series({name: facts.mean() for name, facts in sets.items()})
    words = f"{means.min():.2f} ({means.idxmin()}) to {means.max():.2f} ({means.idxmax()}); "
    words += f"of {len(pairs)} pairs {differ} differ, {alike} are alike within the margin"
    return words, DISAGREES if differ else AGREES if alike == len(pairs) else UNRESOLVED


def _transfer(found: Evidence, cell: str, settings: Settings) -> tuple:
    expectation = "transfer: fact lookup > random MLPs > causal tracing MLPs > attribution MLPs"
    number = 2 if cell.startswith("counterfact") else 1
    was, sets = published(cell, "mcq", "edit_accuracy"), found.ordered(_measure(found))
    if len(sets) < 2:
        return number, expectation, _listed(was), ("fewer than two sets count", UNRESOLVED)
    words, verdict = order(sets, settings)
    missing = [n for n in ORDER if n not in sets]
    words += f"; not comparable: {', '.join(missing)}" if missing else ""
    ours = f"{_listed({n: facts.mean() for n, facts in sets.items()})} ({words})"
    return number, expectation, _listed(was), (ours, UNRESOLVED if missing else verdict)


def _contrast(found: Evidence, question: str, measure: str):
    return found.contrasts.set_index(["question", "measure"]).loc[question, measure]


def _late(found: Evidence) -> tuple[str, str]:
    rows = {m: _contrast(found, questions.EARLY_LATE, m) for m in (_measure(found), "new-wording")}
    counted = {m: row for m, row in rows.items() if not pandas.isna(row.value)}
    if not counted:
        return "no early and late window count", UNRESOLVED
    measure, row = next(iter(counted.items()))  # wordings, where late edits broke the vocabulary
    ours = f"late {row.b_value:.2f} [{row.b_low:.2f}, {row.b_high:.2f}], early {row.a_value:.2f} "
    verdicts = {HIGHER: AGREES, LOWER: DISAGREES, ALIKE: DISAGREES}
    return ours + f"({measure})", verdicts.get(row.verdict, UNRESOLVED)


def _retained(found: Evidence, settings: Settings) -> tuple[str, str]:
    rows = found.data.asked
    rows = rows[(rows.split == "retain_test") & (rows.format == found.data.training)]
    return tie(found.picked(share_by_fact(rows[rows.localization != UNEDITED])), settings)


def _relearning(found: Evidence, settings: Settings) -> tuple[str, str]:
    sets = found.ordered("back")
    first, last = ORDER[0], ORDER[-1]
    if first not in sets or last not in sets:
        return "one of the two does not count", UNRESOLVED
    row = questions.compared(sets[first], sets[last], settings)
    ours = f"{row['a_value']:.2f} and {row['b_value']:.2f}, difference {row['value']:+.2f} "
    ours += f"[{row['low']:+.2f}, {row['high']:+.2f}]"
    verdicts = {LOWER: AGREES, HIGHER: DISAGREES, ALIKE: DISAGREES}
    return ours, verdicts.get(row["verdict"], UNRESOLVED)


def _probes(table: pandas.DataFrame, settings: Settings) -> tuple[str, str]:
    others = [n for n in table if n != "fact-lookup"]
    if "fact-lookup" not in table or not others:
        return "edits of this task face no probes", UNTESTED
    rows = [questions.compared(table["fact-lookup"], table[n], settings) for n in others]
    read = ", ".join(f"{n} {share:.2f}" for n, share in table.mean().items())
    verdict = AGREES if all(r["verdict"] == LOWER for r in rows) else UNRESOLVED
    verdict = DISAGREES if any(r["verdict"] == HIGHER for r in rows) else verdict
    return f"read at the last layer by probes fitted on the edited model: {read}", verdict


def inside(store: Store, task: str, settings: Settings) -> pandas.DataFrame:
    """1 where a probe of the last layer, fitted on the edited model, reads an edited fact's true
    answer: fact id x localization; empty where the task's edits face no probes."""
    if task not in settings.attacks.tasks:
        return pandas.DataFrame()
    rows = store.load_seeds("attack_inside/rows", task, settings.seeds)
    rows = rows[(rows.attack == "probes") & (rows.variant == "refit")]
    last = (rows.budget == rows.budget.max()) & rows.split.isin(FORGET)
    return share_by_fact(rows[last & rows.localization.isin(settings.attacks.compare)])


def _depth(found: Evidence) -> tuple[str, str]:
    rows = {m: _contrast(found, questions.LOOKUP_DEPTH, m) for m in (_measure(found), "back")}
    words = {m: "old answers back" if m == "back" else "new answers" for m in rows}
    parts = [
        f"{words[m]} {r.value:+.2f} [{r.low:+.2f}, {r.high:+.2f}] ({r.verdict})"
        for m, r in rows.items()
        if not pandas.isna(r.value)
    ]
    better = [HIGHER, LOWER]  # more new answers, fewer old ones back
    good = any(r.verdict == wanted for r, wanted in zip(rows.values(), better))
    bad = any(r.verdict == wanted for r, wanted in zip(rows.values(), better[::-1]))
    alike = all(r.verdict == ALIKE for r in rows.values())
    verdict = AGREES if good and not bad else DISAGREES if bad or alike else UNRESOLVED
    return "; ".join(parts) or "an edit does not count", verdict
