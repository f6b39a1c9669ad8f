"""Data as each account would give it, and how often the rules then decide.

`python -m study.simulate` writes study/power.csv.
"""

from __future__ import annotations

import numpy
import pandas
from tqdm import tqdm

from lib.stats import ALIKE, HIGHER, LOWER
from study import decide, design
from study.accounts import ACCOUNTS, predicted


def cells(task: str, account: str, experiments, rng: numpy.random.Generator) -> pandas.DataFrame:
    """A table like `tables.load`'s for the sets of whole MLPs, as one account would give it."""
    how, size = design.params()["assumed"], design.params()["size"]
    rows = []
    for number in design.folds(task):
        shift = rng.normal(0, how["fold"])
        for experiment in (*experiments, *design.plants("windows")):
            kind = design.PLANTED if experiment.startswith(design.PLANTED) else experiment
            for name in design.sets(experiment, task, number):
                mean = predicted(account, task, name, how["low"], how["high"])
                if numpy.isnan(mean):
                    continue
                mean = numpy.clip(mean + shift + rng.normal(0, how["cell"]), 0, 1)
                value = rng.binomial(size, mean) / size
                rows.append((kind, number, name, True, True, value, 1.0))
    columns = ["experiment", "fold", "cell", "reached", "gates", decide.PRIMARY, "kept"]
    return pandas.DataFrame(rows, columns=columns)


def power(runs: int = 200) -> pandas.DataFrame:
    """Rows (task, account, question or comparison, predicted, right, wrong, folds): shares of the
    simulated studies in which the rules say what the account predicts, or its opposite, and the
    mean number of folds they take. `profile`: how often the account itself fits the windows
    best."""
    rng, rows = numpy.random.default_rng(0), []
    every = [(task, account) for task in design.params()["tasks"] for account in ACCOUNTS]
    for task, account in tqdm(every, desc="simulating"):
        made = [cells(task, account, design.experiments(task), rng) for _ in range(runs)]
        for question in decide.of_task(task):
            value = decide.expected(question, task, account)
            if numpy.isnan(value):
                continue
            ends = [decide.answer(question, task, table) for table in made]
            wanted = decide.foreseen(account, question, task)
            good = [end["verdict"] == wanted for end in ends]
            bad = [e["verdict"] in (ALIKE, HIGHER, LOWER) and not ok for e, ok in zip(ends, good)]
            key = {"task": task, "account": account, "question": question, "predicted": value}
            shares = {"right": numpy.mean(good), "wrong": numpy.mean(bad)}
            rows.append(key | shares | {"folds": numpy.mean([e["folds"] for e in ends])})
        fits = [_best(table, task) == account for table in made]
        key = {"task": task, "account": account, "question": "profile", "right": numpy.mean(fits)}
        rows.append(key | {"wrong": 1 - numpy.mean(fits), "folds": len(design.folds(task))})
    return pandas.DataFrame(rows)


def _best(table: pandas.DataFrame, task: str) -> str:
    scores = decide.compare(decide.profile(table, design.windows(task)), task)
    scores = scores[scores.model != "step"]
    return scores.model[scores.score.idxmax()]


if __name__ == "__main__":
    power().round(3).to_csv(design.HERE / "power.csv", index=False)
