"""The rules of PLAN.md: one primary contrast a question, decided over folds at three looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy
import pandas
from scipy import stats

from lib.stats import ALIKE, HIGHER, LOWER, UNRESOLVED
from study import design
from study.accounts import ACCOUNTS, predicted, predictor

WAITING = "waiting"
TINY = 1e-12  # likelihood of what a model all but rules out
PRIMARY = "back"


@dataclass(frozen=True)
class Decision:
    """A verdict on a mean difference over folds, with the interval at the level of its look."""

    verdict: str
    folds: int
    level: float
    value: float
    low: float
    high: float


def decide(differences: list[float], looks: list[int]) -> Decision:
    """Look at the differences of the first folds, then of more, until a look resolves them.

    differences: one per fold, in the order of the folds. A look at level a finds ALIKE if the
    interval of 1 - 2a lies within the margin (two one-sided tests), else HIGHER or LOWER if the
    interval of 1 - a leaves out zero. WAITING if the next look has not all its folds yet;
    UNRESOLVED after the last.
    """
    margin, found = design.params()["margin"], None
    levels = design.params()["looks"]
    for number, level in zip(looks, levels if len(looks) > 1 else levels[-1:]):
        if len(differences) < number:
            break
        x = numpy.asarray(differences[:number], float)
        low, high = interval(x, level)
        tight = interval(x, 2 * level)
        verdict = UNRESOLVED
        if -margin < tight[0] and tight[1] < margin:
            verdict = ALIKE
        elif low > 0 or high < 0:
            verdict = HIGHER if low > 0 else LOWER
        found = Decision(verdict, number, level, float(x.mean()), low, high)
        if verdict != UNRESOLVED:
            return found
    if found and found.folds == looks[-1]:
        return found
    x = numpy.asarray(differences, float)
    nothing = float("nan")
    value = float(x.mean()) if len(x) else nothing
    return Decision(WAITING, len(x), nothing, value, nothing, nothing)


def interval(x: numpy.ndarray, level: float) -> tuple[float, float]:
    """Student's interval of 1 - level of a mean. The spread is taken to be at least that of one
    fact in a fold, so that folds that happen to agree do not give an interval of no width."""
    least = 1 / design.params()["size"]
    error = max(float(x.std(ddof=1)), least) / len(x) ** 0.5
    reach = float(stats.t.ppf(1 - level / 2, len(x) - 1)) * error
    return float(x.mean()) - reach, float(x.mean()) + reach


# Questions: each a difference between means of named sets, within a fold


@dataclass(frozen=True)
class Question:
    """text; sides(task, fold): names of the sets on the two sides, of which the mean outcomes are
    compared; experiment: whose cells they are; tasks: None for all."""

    text: str
    experiment: str
    sides: Callable[[str, int], tuple[list[str], list[str]]]


def _around_the_lookup(task: str, number: int):
    behind, at = design.around_the_lookup(task)
    return [behind], [at]


def _pairs(place: str):
    def sides(task: str, number: int):
        every = design.paired(task, number)
        return [three[place] for three in every], [three["at"] for three in every]

    return sides


def _beside(which: Callable[[int, int], bool]):
    """The same window edited on both sides, the facts planted in another window or in it."""

    def sides(task: str, number: int):
        windows = design.params()[design.PLANTED]["windows"]
        pairs = [
            (f"{windows[other]}>{windows[at]}", f"{windows[at]}>{windows[at]}")
            for at in range(len(windows))
            for other in range(len(windows))
            if which(at, other)
        ]
        return tuple(map(list, zip(*pairs)))

    return sides


def _drawn(name: str) -> list[str]:
    return [f"{name}:{i}" for i in range(design.params()["draws"])]


QUESTIONS = {
    "cliff": Question(
        "A window that begins just behind the lookup MLP against one that begins at it",
        design.CLIFF,
        _around_the_lookup,
    ),
    "above": Question(
        "Sets of four whose lookup MLP is replaced by the one above it, against the same with it",
        design.PAIRS,
        _pairs("above"),
    ),
    "below": Question(
        "Sets of four whose lookup MLP is replaced by the one below it, against the same with it",
        design.PAIRS,
        _pairs("below"),
    ),
    "depth-matched": Question(
        "Depth-matched MLPs, three draws, against fact lookup",
        design.NINE,
        lambda task, _: (_drawn("depth-matched-mlps"), ["fact-lookup"]),
    ),
    "output-tracing": Question(
        "Causal tracing and attribution patching, the published rankings, against fact lookup",
        design.NINE,
        lambda task, _: (["causal-tracing", "attribution-patching"], ["fact-lookup"]),
    ),
    "moved": Question(
        "A window edited where facts were planted before it, against facts planted in it",
        design.PLANTED,
        _beside(lambda at, other: other < at),
    ),
    "ahead": Question(
        "A window edited where facts were planted behind it, against facts planted in it",
        design.PLANTED,
        _beside(lambda at, other: other > at),
    ),
    "adapted": Question(
        "The same as `cliff` under an attacker who adapts",
        design.ATTACKER,
        _around_the_lookup,
    ),
}


def of_task(task: str) -> list[str]:
    """Names of the questions that a task is asked."""
    mine = set(design.experiments(task))
    if task == design.params()[design.PLANTED]["task"]:
        mine.add(design.PLANTED)
    return [name for name, question in QUESTIONS.items() if question.experiment in mine]


def differences(
    question: str, task: str, table: pandas.DataFrame, outcome: str = PRIMARY, gated: bool = False
) -> dict[int, float]:
    """{fold: difference} for the folds in which all cells of a question are there.

    Cells that missed the strength are left out (and a pair with them); gated: so are cells of
    which an attack failed its gates. A fold in which a side has no cell left gives no difference.
    """
    found, kind = {}, QUESTIONS[question].experiment
    apart = (design.ATTACKER, design.PLANTED)  # others share their cells
    table = table[table.experiment == kind if kind in apart else ~table.experiment.isin(apart)]
    for number in design.folds(task):
        a, b = QUESTIONS[question].sides(task, number)
        mine = table[table.fold == number].drop_duplicates("cell").set_index("cell")
        if not {*a, *b} <= set(mine.index):
            continue
        counts = mine.reached.astype(bool) & (mine.gates.astype(bool) | (not gated))
        values = mine[outcome].where(counts)
        if len(a) == len(b):
            value = (values[a].to_numpy() - values[b].to_numpy())[
                values[a].notna().to_numpy() & values[b].notna().to_numpy()
            ]
            value = value.mean() if len(value) else float("nan")
        else:
            value = values[a].mean() - values[b].mean()
        if not numpy.isnan(value):
            found[number] = float(value)
    return found


def answer(question: str, task: str, table: pandas.DataFrame) -> dict:
    """The decision of a question with its sensitivity: verdict is UNRESOLVED if cells with passed
    gates alone point the other way; column `gated` is what they give."""
    ends = list(differences(question, task, table).values())
    made = decide(ends, looks_of(question, task))
    kept = list(differences(question, task, table, gated=True).values())
    gated = float(numpy.mean(kept)) if kept else float("nan")
    verdict = made.verdict
    if verdict in (HIGHER, LOWER) and gated * made.value < 0:
        verdict = UNRESOLVED
    row = {"question": question, "task": task} | asdict(made) | {"verdict": verdict}
    return row | {"gated": gated, "gated_folds": len(kept)}


def looks_of(question: str, task: str) -> list[int]:
    """After how many folds a question is looked at; the adapting attacker, and planted facts with
    their seeds, have three in all, looked at once."""
    once = {design.ATTACKER: "folds", design.PLANTED: "seeds"}
    kind = QUESTIONS[question].experiment
    return [design.params()[kind][once[kind]]] if kind in once else design.looks(task)


def expected(question: str, task: str, account: str) -> float:
    """The difference that an account predicts, with the assumed ends of params.yaml; mean over
    folds. Not a number where a set is not one of whole MLPs."""
    ends = design.params()["assumed"]
    found = []
    for number in design.folds(task):
        sides = QUESTIONS[question].sides(task, number)
        means = [
            numpy.mean([predicted(account, task, x, ends["low"], ends["high"]) for x in side])
            for side in sides
        ]
        found.append(means[0] - means[1])
    return float(numpy.mean(found))


def foreseen(account: str, question: str, task: str) -> str:
    """The verdict that an account predicts: ALIKE where its difference lies within the margin."""
    value = expected(question, task, account)
    if abs(value) < design.params()["margin"]:
        return ALIKE
    return HIGHER if value > 0 else LOWER


# Experiment 1: which account fits the profile over layers


def profile(table: pandas.DataFrame, names: list[str], outcome: str = PRIMARY) -> pandas.DataFrame:
    """A row per set of one MLP or one window that reached the strength: layers, the mean outcome
    over folds and their number."""
    mine = table[table.cell.isin(names) & table.reached.astype(bool)].dropna(subset=outcome)
    rows = mine.drop_duplicates(["fold", "cell"]).groupby("cell")[outcome].agg(["mean", "count"])
    rows = rows.reindex([n for n in names if n in rows.index])
    return rows.assign(layers=[design.layers_of(n) for n in rows.index]).reset_index()


def compare(rows: pandas.DataFrame, task: str) -> pandas.DataFrame:
    """How well each account, and a step whose place is fitted, predicts every set from the others:
    a row per model with `score`, the summed log likelihood of the left-out sets (normal, with the
    spread that the fit leaves), and `behind` the best one. A left-out set on the edge of a step may
    lie on either side, with even odds."""
    y = rows["mean"].to_numpy(float)
    first = numpy.array([min(layers) for layers in rows.layers])
    found = []
    for account in ACCOUNTS:
        x = numpy.array([predictor(account, task, layers) for layers in rows.layers])
        found.append({"model": account, "score": _left_out(x, y, _line)})
    found.append({"model": "step", "score": _left_out(first, y, _step)})
    table = pandas.DataFrame(found)
    return table.assign(behind=table.score.max() - table.score)


def _left_out(x: numpy.ndarray, y: numpy.ndarray, fit) -> float:
    total = 0.0
    for i in range(len(y)):
        others = numpy.arange(len(y)) != i
        means, parameters = fit(x[others], y[others])
        left = y[others] - [numpy.mean(means(at)) for at in x[others]]
        spread = (left @ left / max(len(left) - parameters, 1)) ** 0.5
        spread = max(float(spread), 1 / design.params()["size"])
        total += numpy.log(numpy.mean(stats.norm.pdf(y[i], means(x[i]), spread)) + TINY)
    return float(total)


def _line(x, y):
    if numpy.ptp(x) == 0:  # nothing to tell the sets apart by
        return (lambda at: [y.mean()]), 1
    slope, start = numpy.polyfit(x, y, 1)
    return (lambda at: [slope * at + start]), 2


def _step(x, y):
    place, low, high = step(x, y)
    edge = max(x[x < place])

    def means(at):
        return [low, high] if edge < at < place else [low if at < place else high]

    return means, 3


def step(x: numpy.ndarray, y: numpy.ndarray) -> tuple[float, float, float]:
    """(first layer behind the step, mean before, mean behind): of all places the one that leaves
    the least squares; ties go to the earliest."""
    best = None
    for place in sorted(set(x))[1:]:
        before, behind = y[x < place], y[x >= place]
        left = ((before - before.mean()) ** 2).sum() + ((behind - behind.mean()) ** 2).sum()
        if best is None or left < best[0] - 1e-12:
            best = left, float(place), float(before.mean()), float(behind.mean())
    if best is None:
        raise ValueError("a step needs sets that begin at two layers at least")
    return best[1:]


def step_place(
    table: pandas.DataFrame, names: list[str], level: float = 0.95, resamples: int = 2000
) -> tuple[float, float, float]:
    """(place, low, high) of the step in the mean profile, with a bootstrap interval over folds."""
    wide = table[table.cell.isin(names) & table.reached.astype(bool)]
    wide = wide.drop_duplicates(["fold", "cell"]).pivot(
        index="fold", columns="cell", values=PRIMARY
    )
    wide = wide[[n for n in names if n in wide]]
    first = numpy.array([min(design.layers_of(name)) for name in wide])
    rng = numpy.random.default_rng(0)

    def place(rows: pandas.DataFrame) -> float:
        mean = rows.mean()
        there = mean.notna().to_numpy()
        return step(first[there], mean[there].to_numpy())[0]

    draws = [place(wide.iloc[rng.integers(len(wide), size=len(wide))]) for _ in range(resamples)]
    low, high = numpy.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return place(wide), float(low), float(high)


# Experiment 4: which number of a set its robustness follows


COLUMNS = ("depth", "first", "before", "lookup")


def regress(table: pandas.DataFrame, task: str, draws: int = 4999) -> pandas.DataFrame:
    """Fold-centred outcome of the spread sets on their numbers and on retained accuracy: a row per
    number with `slope` (shares over its whole range) and `p` (residuals permuted over sets, as
    Freedman and Lane do)."""
    names = [design.mlps(*layers) for layers in design.spread(task)]
    mine = table[table.cell.isin(names) & table.reached.astype(bool)].dropna(subset=PRIMARY)
    mine = mine.drop_duplicates(["fold", "cell"])
    y = (mine[PRIMARY] - mine.groupby("fold")[PRIMARY].transform("mean")).to_numpy()
    about = [asdict(design.measures(task, design.layers_of(name))) for name in mine.cell]
    x = pandas.DataFrame(about, index=mine.index)[list(COLUMNS)].assign(kept=mine.kept)
    rng = numpy.random.default_rng(0)
    orders = [rng.permutation(len(y)) for _ in range(draws)]
    rows = []
    for column in COLUMNS:
        others = _with_one(x.drop(columns=column))
        fitted = others @ numpy.linalg.lstsq(others, y, rcond=None)[0]
        full, at = _with_one(x), 1 + list(x).index(column)
        slope = numpy.linalg.lstsq(full, y, rcond=None)[0][at]
        shuffled = numpy.stack([fitted + (y - fitted)[order] for order in orders], 1)
        null = numpy.linalg.lstsq(full, shuffled, rcond=None)[0][at]
        p = (1 + (abs(null) >= abs(slope) - 1e-12).sum()) / (1 + draws)
        rows.append({"number": column, "slope": float(slope), "p": float(p), "sets": len(y)})
    return pandas.DataFrame(rows)


def _with_one(x: pandas.DataFrame) -> numpy.ndarray:
    return numpy.column_stack([numpy.ones(len(x)), x.to_numpy(float)])
